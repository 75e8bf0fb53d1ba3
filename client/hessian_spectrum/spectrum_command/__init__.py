"""Start of the program `spectrum`. It is outside of the client, whose modules take part of a second to load."""

import signal
import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly, even while modules are loaded."""
    try:
        from hessian_spectrum.client.main import app  # noqa: PLC0415 - may be interrupted

        app()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)  # as shells report it
