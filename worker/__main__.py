"""`python -m worker`: run jobs until told to stop."""

import os
import sys
import warnings

from celery.platforms import SecurityWarning

from jobs.settings import SettingsError, WorkerSettings


def main() -> None:
    """Read the settings, then start the pool."""
    try:
        settings = WorkerSettings.load()
    except SettingsError as error:
        print(f"spectrum worker: {error}", file=sys.stderr)
        sys.exit(os.EX_CONFIG)
    from worker.app import create_worker  # noqa: PLC0415 - settings that do not fit are told before torch is loaded

    # Celery warns root of messages that execute code; ours are JSON that holds an id.
    warnings.simplefilter("ignore", SecurityWarning)
    create_worker(settings).worker_main(
        ["--quiet", "worker", "--loglevel", "WARNING", "--without-gossip", "--without-mingle", "-n", "spectrum@%h"]
    )


if __name__ == "__main__":
    main()
