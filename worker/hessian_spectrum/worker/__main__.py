"""`python -m hessian_spectrum.worker`: run jobs until told to stop."""

import gc
import os
import sys
import warnings

from celery.platforms import SecurityWarning

from hessian_spectrum.jobs.connection import require_entry
from hessian_spectrum.jobs.settings import SettingsError, WorkerSettings
from hessian_spectrum.telemetry.logging import configure_logging


def main() -> None:
    """Read the settings, then start the pool."""
    gc.disable()  # until everything is loaded: a quarter of the time of loading torch, which makes no garbage
    try:
        settings = WorkerSettings.load()
        configure_logging(settings)
        require_entry(settings.redis_url.get_secret_value())
        from hessian_spectrum.worker.runtime.app import create_worker  # noqa: PLC0415 - a wrong variable is told before torch is loaded

        worker = create_worker(settings)
    except SettingsError as error:
        print(f"spectrum worker: {error}", file=sys.stderr)
        sys.exit(os.EX_CONFIG)
    # Celery warns root of messages that execute code; ours are JSON that holds an id.
    warnings.simplefilter("ignore", SecurityWarning)
    worker.worker_main(
        ["--quiet", "worker", "--without-gossip", "--without-mingle", "--without-heartbeat", "-n", "spectrum@%h"]
    )


if __name__ == "__main__":
    main()
