"""`python -m hessian_spectrum.service.keys`: add, list and revoke the API keys of a deployment."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from hessian_spectrum.service.auth import (
    MAX_QUEUED,
    REQUESTS_PER_MINUTE,
    ApiKey,
    KeyStore,
    KeysUnreadableError,
    Role,
    UnknownKeyError,
)

_FILE_VARIABLE = "SPECTRUM_KEYS_FILE"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command given on the command line; a running service sees the change at its next request."""
    parser = _parser()
    options = parser.parse_args(arguments)
    path = Path(os.environ.get(_FILE_VARIABLE) or options.data_dir / "keys.json").resolve()
    try:
        options.run(KeyStore(path), options)
    except ValidationError as error:
        parser.error("; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors(include_input=False)))
    except UnknownKeyError as error:
        sys.exit(f"spectrum keys: no key has the id {error}")
    except (KeysUnreadableError, OSError) as error:
        sys.exit(f"spectrum keys: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spectrum-server keys", description="Manages API keys.")
    data_options = argparse.ArgumentParser(add_help=False)
    data_options.add_argument(
        "--data-dir",
        type=Path,
        default=Path("spectrum-data"),
        help=f"of the server: the keys are in its keys.json, unless {_FILE_VARIABLE} names a file",
    )
    commands = parser.add_subparsers(required=True, metavar="add | list | revoke")
    add = commands.add_parser("add", parents=[data_options], help="create a key and print it once")
    add.add_argument("--name", required=True, type=_printable, help="name of its holder")
    add.add_argument("--role", choices=get_args(Role), default="user", help="an admin may change all jobs")
    add.add_argument("--requests-per-minute", type=int, default=REQUESTS_PER_MINUTE, metavar="N")
    add.add_argument("--max-queued", type=int, default=MAX_QUEUED, metavar="N", help="jobs that may wait at a time")
    add.set_defaults(run=_add)
    listing = commands.add_parser(
        "list", parents=[data_options], help="print id, role, limits, time and name of every key"
    )
    listing.set_defaults(run=_list)
    revoke = commands.add_parser("revoke", parents=[data_options], help="revoke a key immediately")
    revoke.add_argument("id", help="the part of a key between the underscores, as `list` prints it")
    revoke.set_defaults(run=_revoke)
    return parser


def _add(keys: KeyStore, options: argparse.Namespace) -> None:
    text = keys.add(
        options.name,
        role=options.role,
        requests_per_minute=options.requests_per_minute,
        max_queued=options.max_queued,
    )
    print(f"Its digest is in {keys.path}; the key itself is shown only once:", file=sys.stderr)
    print(text)


def _list(keys: KeyStore, options: argparse.Namespace) -> None:
    for key in keys.all():
        print(_line(key))


def _revoke(keys: KeyStore, options: argparse.Namespace) -> None:
    print(f"revoked: {_line(keys.revoke(options.id))}")
    if not keys.all():
        print("No key is left: every request is refused until you add one.", file=sys.stderr)


def _line(key: ApiKey) -> str:
    limits = f"{key.requests_per_minute:>7} requests/min  {key.max_queued:>6} queued"
    return f"{key.id}  {key.role:<5}  {limits}  {key.created_at:%Y-%m-%d %H:%M:%S}  {key.name}"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise argparse.ArgumentTypeError("holds characters that cannot be printed")
    return text


if __name__ == "__main__":
    main()
