"""`python -m hessian_spectrum.service.bind`: declare that a results directory and a Redis belong together."""

import argparse
import sys
from collections.abc import Sequence

from redis.exceptions import RedisError

from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.retention import num_known
from hessian_spectrum.jobs.settings import SettingsError, StorageSettings
from hessian_spectrum.jobs.storage_identity import StorageIdentity
from hessian_spectrum.storage.stores import open_stores


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what would be deleted; with `--yes` give both a new identity."""
    parser = argparse.ArgumentParser(
        prog="spectrum-server bind",
        description="Declares that the results directory and Redis belong together.",
    )
    parser.add_argument("--yes", action="store_true", help="do it; without this nothing is changed")
    options = parser.parse_args(arguments)
    try:
        settings = StorageSettings.load()
        if not settings.results_dir.is_dir():
            raise SettingsError(f"SPECTRUM_RESULTS_DIR: {settings.results_dir} is no directory")
        with connect(settings.redis_url.get_secret_value()) as client:
            stores = open_stores(settings.results_dir, settings.storage_url)
            results = stores.results
            storage = StorageIdentity(client, results, stores.checkpoints)
            digests = list(results.sizes())
            num_unknown = len(digests) - num_known(client, digests)
            if options.yes:
                storage.join()
    except (SettingsError, RedisError, OSError) as error:
        sys.exit(f"spectrum bind: {error}")
    print(_text(len(digests), num_unknown, is_done=options.yes))
    sys.exit(0 if options.yes else 1)


def _text(num_results: int, num_unknown: int, *, is_done: bool) -> str:
    lost = f"Of {num_results:,} results in the directory, Redis does not know {num_unknown:,}."
    if is_done:
        return f"{lost} Those are deleted in six hours. Directory and Redis belong together now."
    return f"{lost} Those would be deleted six hours later. Nothing was changed: repeat with --yes to do it."


if __name__ == "__main__":
    main()
