"""`python -m hessian_spectrum.service`: serve HTTP until told to stop."""

import argparse
import contextlib
import gc
import ipaddress
import os
import resource
import socket
import sys

if __name__ == "__main__":
    gc.disable()  # until `serve`: a sixth of the time of loading all modules, which makes no garbage

import uvicorn
from fastapi import FastAPI

from hessian_spectrum.jobs.connection import require_entry
from hessian_spectrum.jobs.settings import ServiceSettings, SettingsError
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.auth import KeyStore, KeysUnreadableError
from hessian_spectrum.service.http_protocol import HttpProtocol
from hessian_spectrum.telemetry.logging import configure_logging

KEEP_ALIVE_SECONDS = 20
"""Seconds that an idle connection stays open: longer than clients keep theirs, so that no request arrives at a
connection that is being closed. The default of uvicorn, 5 s, equals that of httpx."""

_THREAD_SECONDS = 0.001
"""Seconds after which a thread lets another waiting thread run, so that the event loop soon gets its turn among many
threads."""


def main() -> None:
    """Read the settings, then serve."""
    parser = argparse.ArgumentParser(prog="python -m hessian_spectrum.service")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--published-on", metavar="ADDRESS", help="address at which others reach it if not --host")
    arguments = parser.parse_args()
    try:
        settings = ServiceSettings.load()
        configure_logging(settings)
        require_keys(settings, arguments.published_on or arguments.host)
        require_entry(settings.redis_url.get_secret_value())
    except (SettingsError, KeysUnreadableError) as error:
        print(f"spectrum service: {error}", file=sys.stderr)
        sys.exit(os.EX_CONFIG)
    serve(create_app(settings), host=arguments.host, port=arguments.port, trusted_proxies=settings.trusted_proxies)


def require_keys(settings: ServiceSettings, host: str) -> None:
    """Refuse to start without API keys where other machines can reach the service.

    Args:
        settings: The settings of the service.
        host: The address under which others reach it.

    Raises:
        SettingsError: There is no API key, others can reach the service, and `insecure` is not set.
        KeysUnreadableError: The file of keys cannot be read.
    """
    if not KeyStore(settings.keys_path).is_required() and not settings.insecure and not _is_loopback(host):
        raise SettingsError(
            f"other machines can reach {host}, and there are no API keys. Create one with `spectrum-server keys add "
            f"--name NAME --role admin` (its digest is stored in {settings.keys_path}), or serve everyone without "
            "authentication: --insecure, or SPECTRUM_INSECURE=true"
        )


def _is_loopback(host: str) -> bool:
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in addresses)


def serve(app: FastAPI, *, host: str, port: int, trusted_proxies: str = "") -> None:
    """Answer requests until SIGINT or SIGTERM.

    Args:
        app: The application.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        trusted_proxies: Addresses of proxies whose `X-Forwarded-For` names the client, separated by commas.
    """
    # The loaded modules stay. A garbage collection that visits them would delay all responses by a tenth of a second.
    gc.collect()
    gc.freeze()
    gc.enable()
    # Each client is an open file, and so is each connection to Redis; shells allow 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # fails where the system does not grant the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.setswitchinterval(_THREAD_SECONDS)
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=HttpProtocol,
        ws="none",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies,
    )


if __name__ == "__main__":
    main()
