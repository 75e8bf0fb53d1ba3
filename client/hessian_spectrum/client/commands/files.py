"""Commands for what is on a server: uploaded files, checkpoints, tracked runs."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ProgramArtifact, TokenArtifact
from hessian_spectrum.client.commands.ids import LEAST_TO_REMOVE, complete_artifact_id
from hessian_spectrum.client.commands.option_groups import takes
from hessian_spectrum.client.commands.options import Server
from hessian_spectrum.client.commands.printing import Cell, Id, Printer, local_time, printer
from hessian_spectrum.client.commands.session import connected
from hessian_spectrum.client.http import SpectrumClient

_UPLOADS: dict[str, Callable[[SpectrumClient, Path], AnyArtifact]] = {
    ".bin": SpectrumClient.upload_tokens,
    ".npy": SpectrumClient.upload_tokens,
    ".safetensors": SpectrumClient.upload_arrays,
    ".npz": SpectrumClient.upload_arrays,
    ".pt2": SpectrumClient.upload_program,
    ".onnx": SpectrumClient.upload_program,
}
"""How a file is uploaded, by the ending of its name."""


@takes(out=printer)
def models(*, out: Printer, server: Server = None) -> None:
    """Print kind, number of parameters, digest and state of every checkpoint, or why it cannot be loaded."""
    with connected(server) as client:
        found = client.models()
    rows: list[dict[str, Cell]] = [
        {
            "name": model.name,
            "kind": model.kind,
            "parameters": None if model.num_parameters is None else f"{model.num_parameters:,}",
            "sha256": None if model.sha256 is None else Id(model.sha256),
            "state": model.problem or model.state,
        }
        for model in found
    ]
    out.table(rows, found, empty="There are no checkpoints.", folded={"name": 16, "state": 16})


@takes(out=printer)
def upload(
    file: Annotated[
        Path,
        typer.Argument(
            help="Tokens as nanoGPT's .bin or a .npy array of integers; weights or data as .safetensors or .npz; one "
            "array of data as .npy with --name; networks as .pt2 of torch.export or as .onnx.",
            dir_okay=False,
        ),
    ],
    *,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the array in a .npy file of data, such as x; without it, the file holds tokens."),
    ] = None,
    out: Printer,
    server: Server = None,
) -> None:
    """Upload a file of tokens or arrays, or a network, and print its description; jobs refer to it by its id.

    The ending of the file's name says what it holds.
    """  # noqa: DOC501 - the docstring is the help of the command
    send_file = _UPLOADS.get(file.suffix.lower())
    if send_file is None:
        raise typer.BadParameter(
            f"the ending of {file.name} does not say what the file holds: it must be one of {', '.join(_UPLOADS)}"
        )
    if name is not None and file.suffix.lower() != ".npy":
        raise typer.BadParameter("--name is for a .npy file; arrays in other files have their own names")
    with connected(server) as client:
        try:
            sent = send_file(client, file) if name is None else client.upload_arrays(file, name=name)
        except OSError as error:
            raise typer.BadParameter(str(error)) from None
    out.record(sent)


@takes(out=printer)
def list_artifacts(*, out: Printer, server: Server = None) -> None:
    """Print id, local time and contents of every uploaded file, newest first."""
    with connected(server) as client:
        found = list(client.artifacts())
    rows: list[dict[str, Cell]] = [
        {"id": Id(each.id), "uploaded": local_time(each.created_at), "contents": _contents(each)} for each in found
    ]
    out.table(rows, found, empty="There are no uploaded files.", folded={"contents": 16})


@takes(out=printer)
def delete_artifact(
    artifact_id: Annotated[
        str,
        typer.Argument(
            help=f"Id of the uploaded file, or at least {LEAST_TO_REMOVE} digits of its beginning that no other has."
        ),
    ],
    *,
    out: Printer,
    server: Server = None,
) -> None:
    """Delete an uploaded file."""
    with connected(server) as client:
        found = complete_artifact_id(client, artifact_id, least=LEAST_TO_REMOVE)
        client.delete_artifact(found)
    out.note({"id": found, "deleted": True})


@takes(out=printer)
def send(
    directory: Annotated[
        Path,
        typer.Argument(help="Directory of a tracked run, or a directory of several.", exists=True, file_okay=False),
    ],
    *,
    out: Printer,
    server: Server = None,
) -> None:
    """Send the points that tracked runs have left on disk, and print how many each run had."""
    with connected(server) as client:
        sent = client.send_tracked(directory)
    out.lines([f"{run.name}  {run.num_points} points" for run in sent], [asdict(run) for run in sent])


def _contents(artifact: AnyArtifact) -> str:
    if isinstance(artifact, TokenArtifact):
        return f"{artifact.num_tokens} tokens up to {artifact.largest_token}"
    if isinstance(artifact, ProgramArtifact):
        return f"program of {artifact.num_calls} calls with {len(artifact.parameters)} parameters"
    return ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in artifact.arrays.items())
