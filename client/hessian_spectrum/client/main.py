"""The `spectrum` command: access to the server from a shell. Requests are JSON files; `-` reads standard input."""

import inspect
from collections.abc import Callable

import typer

from hessian_spectrum.client.commands import closed_forms, comparison, files, jobs, running, servers
from hessian_spectrum.client.version_option import VersionOption

_EXIT_CODES = (
    "Exit codes: 0 success, 1 the server refused or the job did not succeed, 2 wrong usage, 130 interrupted, "
    "141 the reader of the output has left."
)

app = typer.Typer(no_args_is_help=True, help="Eigenvalue spectra from a spectrum server.", epilog=_EXIT_CODES)
track = typer.Typer(no_args_is_help=True, help="Send what tracked training runs have left on disk.")


@app.callback()
def options(version: VersionOption = False) -> None:
    """Eigenvalue spectra from a spectrum server."""


_COMMANDS: dict[str, Callable[..., None]] = {
    "closed-form": closed_forms.closed_form,
    "random-matrix": closed_forms.random_matrix,
    "estimate": running.estimate,
    "submit": running.submit,
    "run": running.run,
    "sweep": running.sweep,
    "list": jobs.list_jobs,
    "job": jobs.show,
    "watch": running.watch,
    "result": jobs.result,
    "compare": comparison.compare,
    "open": jobs.open_page,
    "cancel": jobs.cancel,
    "delete": jobs.delete,
    "models": files.models,
    "upload": files.upload,
    "artifacts": files.list_artifacts,
    "delete-artifact": files.delete_artifact,
    "login": servers.login,
    "logout": servers.logout,
    "servers": servers.list_servers,
}


def _paragraphs(command: Callable[..., None]) -> str:
    """Return the help text of a command with a line for each paragraph, which the terminal breaks."""
    return "\n\n".join(" ".join(each.split()) for each in (inspect.getdoc(command) or "").split("\n\n"))


for _name, _command in _COMMANDS.items():
    app.command(_name, help=_paragraphs(_command))(_command)
track.command("send", help=_paragraphs(files.send))(files.send)
app.add_typer(track, name="track")
