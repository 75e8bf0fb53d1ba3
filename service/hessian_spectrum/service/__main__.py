"""`python -m hessian_spectrum.service`: serve HTTP until told to stop."""

import argparse
import contextlib
import gc
import ipaddress
import os
import resource
import socket
import sys

import uvicorn
from fastapi import FastAPI

from hessian_spectrum.jobs.connection import require_entry
from hessian_spectrum.jobs.settings import ServiceSettings, SettingsError
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.auth import KeyStore, KeysUnreadableError
from hessian_spectrum.service.http_protocol import HttpProtocol
from hessian_spectrum.telemetry.logging import configure_logging

KEEP_ALIVE_SECONDS = 20
"""That a connection waits for its next request: longer than those of most clients, so that a request does not arrive
at one that is being closed. uvicorn's own 5 s are also those of httpx."""

_THREAD_SECONDS = 0.001
"""That a thread keeps the interpreter while others wait for it: among very many the event loop has its turn soon."""


def main() -> None:
    """Read the settings, then serve."""
    parser = argparse.ArgumentParser(prog="python -m hessian_spectrum.service")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--published-on", metavar="ADDRESS", help="where others reach it, if not at --host")
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
    """Let a service start that asks for keys, or that this machine alone can reach.

    Raises:
        SettingsError: Says what to do.
        KeysUnreadableError: The file of keys cannot be read.
    """
    if not KeyStore(settings.keys_path).is_required() and not settings.insecure and not _is_loopback(host):
        raise SettingsError(
            f"others can reach {host}, and there are no keys. Make one with `spectrum-server keys add --name NAME "
            f"--role admin` (its digest goes to {settings.keys_path}), or serve whoever can connect, unasked: "
            "--insecure, or SPECTRUM_INSECURE=true"
        )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def serve(app: FastAPI, *, host: str, port: int, trusted_proxies: str = "") -> None:
    """Answer requests until SIGINT or SIGTERM; of these proxies, in the name of those who sent them there."""
    # What was loaded stays: to look through it for garbage takes a tenth of a second, in which nobody is answered.
    gc.collect()
    gc.freeze()
    # Each caller is an open file, and so is what is asked of Redis for them: shells allow 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # where "unlimited" is more than the system gives
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
