"""`python -m service`: serve HTTP until told to stop."""

import argparse
import os
import sys

import uvicorn
from fastapi import FastAPI

from jobs.settings import ServiceSettings, SettingsError
from logs.configuration import configure_logging
from service.app import create_app


def main() -> None:
    """Read the settings, then serve."""
    parser = argparse.ArgumentParser(prog="python -m service")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    try:
        settings = ServiceSettings.load()
        configure_logging(settings)
    except SettingsError as error:
        print(f"spectrum service: {error}", file=sys.stderr)
        sys.exit(os.EX_CONFIG)
    serve(create_app(settings), arguments.host, arguments.port)


def serve(app: FastAPI, host: str, port: int) -> None:
    """Answer requests until SIGINT or SIGTERM."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=3,
        proxy_headers=False,
    )


if __name__ == "__main__":
    main()
