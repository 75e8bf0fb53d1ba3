"""Health check (`python -m hessian_spectrum.worker.health`): succeeds while the local worker announces itself."""

import socket
import sys

from redis.exceptions import RedisError

from hessian_spectrum.jobs.connection import connect, described
from hessian_spectrum.jobs.settings import SettingsError, StorageSettings
from hessian_spectrum.jobs.worker_registry import registered_workers


def main() -> None:
    """Exit with status 0, or with 1 and a message that gives the reason."""
    try:
        settings = StorageSettings.load()
    except SettingsError as error:
        sys.exit(f"spectrum worker: {error}")
    try:
        with connect(settings.redis_url.get_secret_value()) as client:
            hosts = {worker.name.rpartition("-")[0] for worker in registered_workers(client)}
    except RedisError as error:
        sys.exit(f"spectrum worker: {described(error)}: {error}")
    if socket.gethostname() not in hosts:
        sys.exit("spectrum worker: not announced within the last seconds")


if __name__ == "__main__":
    main()
