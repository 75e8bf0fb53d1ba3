"""The `spectrum-server` command."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn

import typer
from pydantic import ValidationError

from hessian_spectrum.client.version_option import VersionOption
from hessian_spectrum.launcher.data_directory import DataDirectoryError
from hessian_spectrum.launcher.embedded_redis import NoRedisServerError, written_url
from hessian_spectrum.launcher.managed_process import CrashLoopError
from hessian_spectrum.launcher.stack import REDIS_VARIABLE, Stack, StackError
from hessian_spectrum.telemetry.logging import LogSettings, configure_logging

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A server for eigenvalue spectra of loss Hessians.")

_logger = logging.getLogger(__name__)


@app.callback()
def options(version: VersionOption = False) -> None:
    """A server for eigenvalue spectra of loss Hessians."""


StartError = (StackError, DataDirectoryError, NoRedisServerError, CrashLoopError)


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address of the HTTP service.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the HTTP service.")] = 8000,
    data_dir: Annotated[Path, typer.Option(help="Directory of jobs and results.")] = Path("spectrum-data"),
    workers: Annotated[int, typer.Option(min=1, max=256, help="Number of jobs computed at once.")] = 1,
    models_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="SPECTRUM_MODELS_DIR",
            exists=True,
            file_okay=False,
            help="Directory of checkpoints; by default, models in the data directory.",
        ),
    ] = None,
    keys_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SPECTRUM_KEYS_FILE",
            dir_okay=False,
            help="File of the API keys; by default, keys.json in the data directory.",
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", envvar="SPECTRUM_INSECURE", help="Serve without API keys even if others can connect."
        ),
    ] = False,
) -> None:
    """Run Redis (own, or SPECTRUM_REDIS_URL), workers and the HTTP service on this machine until SIGINT or SIGTERM."""
    _configure_logging()
    stop = _stop_on_signals()
    try:
        with Stack(
            host=host,
            port=port,
            data_directory=data_dir,
            num_workers=workers,
            models_directory=models_dir,
            keys_file=keys_file,
            insecure=insecure,
        ) as stack:
            missing = stack.start(stop, _logger.warning)
            if not stop.is_set():
                _logger.info(
                    "Serving at %s (documentation at %s/docs), data in %s", stack.url, stack.url, data_dir.resolve()
                )
            if missing:
                _logger.warning("closed forms are served, but jobs wait: %s", "; ".join(missing))
            stack.supervise(stop, _logger.warning)
    except StartError as error:
        typer.echo(f"spectrum-server: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Directory of the pictures.")] = Path("demo-output"),
) -> None:
    """Start a stack on a free port, compute three spectra, print a report and stop everything."""
    from hessian_spectrum.launcher.demo import run_demo  # noqa: PLC0415 - numpy and the client, which `up` does not need

    stop = _stop_on_signals()
    try:
        run_demo(output, stop)
    except StartError as error:
        typer.echo(f"spectrum-server: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def figures(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of figures, such as cracking-4; by default, all of them.")
    ] = None,
    scale: Annotated[Literal["quick", "paper"], typer.Option(help="Sizes of the source, or smaller ones.")] = "quick",
    overrides: Annotated[
        str, typer.Option(help="JSON object with values of single parameters of these figures.")
    ] = "{}",
    output: Annotated[Path, typer.Option(help="Directory of the gallery.")] = Path("figures-output"),
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory of jobs and results; by default, a temporary one.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Number of points computed at once.")] = 2,
) -> None:
    """Start a stack, compute the sources' figures, write a gallery of pictures, numbers and verdicts, and stop it."""
    from hessian_spectrum.launcher.gallery import GalleryOptions, make_gallery  # noqa: PLC0415 - as in `demo`

    stop = _stop_on_signals()
    try:
        options = GalleryOptions(names or [], scale, _object(overrides), output, data_dir, workers)
        make_gallery(options, stop)
    except StartError as error:
        typer.echo(f"spectrum-server: {error}", err=True)
        raise typer.Exit(1) from None


def _object(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise typer.BadParameter("--overrides must be a JSON object")
    return document


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(help="File of nanoGPT, directory with config.json and pytorch_model.bin, or file of tensors."),
    ],
    name: Annotated[str, typer.Argument(help="Name of the checkpoint in the models directory.")],
    models_dir: Annotated[
        Path,
        typer.Option(envvar="SPECTRUM_MODELS_DIR", help="Directory of the checkpoints."),
    ] = Path("spectrum-data/models"),
    config: Annotated[
        Path | None,
        typer.Option(help="The model's config.json, for a file of tensors as Lightning writes it."),
    ] = None,
) -> None:
    """Convert a PyTorch checkpoint, without running code in it, to one that the server loads."""
    options = ["--models-dir", str(models_dir), *(["--config", str(config)] if config is not None else [])]
    command = [sys.executable, "-P", "-m", "hessian_spectrum.worker.convert", *options, "--", str(source), name]
    raise typer.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own command


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def keys(context: typer.Context) -> None:
    """Add, list and revoke API keys: `keys add --name NAME [--role admin]`, `keys list`, `keys revoke ID`."""
    command = [sys.executable, "-P", "-m", "hessian_spectrum.service.keys", *context.args]
    raise typer.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own command


@app.command()
def doctor(
    data_dir: Annotated[Path, typer.Option(help="Data directory of a server on this machine.")] = Path("spectrum-data"),
    url: Annotated[str | None, typer.Option(help="Address of a service to which to send two small requests.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of a service on this machine, now or later.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check versions, disk, Redis, workers and clocks of a deployment; the exit status is 1 if something is wrong.

    Settings come from the environment, and defaults from a server on the given data directory.
    """
    options = [*(["--url", url] if url else []), *(["--port", str(port)] if port else [])]
    _run_beside(data_dir, "hessian_spectrum.service.doctor", *options, *(["--json"] if as_json else []))


@app.command()
def bind(
    data_dir: Annotated[Path, typer.Option(help="Data directory of a server on this machine.")] = Path("spectrum-data"),
    yes: Annotated[bool, typer.Option("--yes", help="Bind them; otherwise, only print what would be lost.")] = False,
) -> None:
    """Bind a results directory to a running Redis with which it was not used before.

    Settings come from the environment, and defaults from a server on the given data directory.
    """
    _run_beside(data_dir, "hessian_spectrum.service.bind", *(["--yes"] if yes else []))


def _run_beside(data_dir: Path, module: str, *options: str) -> NoReturn:
    """Run a module with settings of the environment, and defaults from a server on this data directory."""
    own = {REDIS_VARIABLE: written_url(data_dir), "SPECTRUM_RESULTS_DIR": str(data_dir.resolve() / "results")}
    own["SPECTRUM_MODELS_DIR"] = str(data_dir.resolve() / "models")
    environment = {name: value for name, value in own.items() if value is not None} | os.environ
    command = [sys.executable, "-P", "-m", module, *options]
    raise typer.Exit(subprocess.run(command, check=False, env=environment).returncode)  # noqa: S603 - our own command


def _configure_logging() -> None:
    try:
        configure_logging(LogSettings())
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        typer.echo(f"spectrum-server: SPECTRUM_{str(fault['loc'][0]).upper()}: {fault['msg']}", err=True)
        raise typer.Exit(1) from None


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop
