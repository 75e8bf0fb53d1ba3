"""`python -m worker`: run jobs until told to stop."""

import sys
import warnings

from celery.platforms import SecurityWarning

from jobs.settings import SettingsError, WorkerSettings
from worker.app import create_worker


def main() -> None:
    """Read the settings, then start the pool."""
    try:
        settings = WorkerSettings.load()
    except SettingsError as error:
        sys.exit(f"spectrum worker: {error}")
    # Celery warns root of messages that execute code; ours are JSON that holds an id.
    warnings.simplefilter("ignore", SecurityWarning)
    create_worker(settings).worker_main(
        ["--quiet", "worker", "--loglevel", "WARNING", "--without-gossip", "--without-mingle", "-n", "spectrum@%h"]
    )


if __name__ == "__main__":
    main()
