"""The command that shows the numbers of several results side by side."""

from typing import Annotated, Any

import typer

from hessian_spectrum.api_schemas.headlines import headlines
from hessian_spectrum.api_schemas.jobs import AnyJobResult, Job
from hessian_spectrum.api_schemas.spectrum_results import MethodResult
from hessian_spectrum.client.commands.ids import complete_job_id
from hessian_spectrum.client.commands.option_groups import takes
from hessian_spectrum.client.commands.options import Server
from hessian_spectrum.client.commands.printing import Id, Printer, printer
from hessian_spectrum.client.commands.session import connected
from hessian_spectrum.client.progress import SHORT_ID

_DESCRIPTION = ("kind", "method", "matrix", "summary", "tags")
_QUANTITIES = ("parameters", "loss", "largest", "smallest", "trace")


@takes(out=printer)
def compare(
    job_ids: Annotated[list[str], typer.Argument(help="Ids of jobs, or beginnings of them.")],
    *,
    out: Printer,
    server: Server = None,
) -> None:
    """Print what several jobs have computed side by side: the main numbers, with their 95 % intervals."""
    with connected(server) as client:
        ids = [complete_job_id(client, each) for each in job_ids]
        if repeated := [each for each in ids if ids.count(each) > 1]:
            raise typer.BadParameter(f"job {repeated[0]} is named more than once")
        columns = {Id(each): _described(client.job(each), client.result(each)) for each in ids}
    found = {name for column in columns.values() for name in column}
    if found.isdisjoint(_QUANTITIES):
        raise typer.BadParameter("these results have no single numbers to compare: fetch them with `spectrum result`")
    rows = [
        {"quantity": name} | {job_id: _cell(column.get(name)) for job_id, column in columns.items()}
        for name in (*_DESCRIPTION, *_QUANTITIES)
        if name in found
    ]
    out.table(rows, columns, empty="", folded=dict.fromkeys(columns, SHORT_ID))


def _described(job: Job, result: AnyJobResult) -> dict[str, Any]:
    """Return what a job computes, and the single numbers of its result: numbers, or objects with an interval."""
    description = {"kind": job.kind, "summary": job.summary, "tags": job.tags}
    if not isinstance(result, MethodResult):
        return description
    numbers = {
        name: {"value": each.value, "lower": each.lower, "upper": each.upper}
        for name, each in headlines(result).items()
    }
    of_method = {"method": result.method, "matrix": result.matrix}
    return description | of_method | {"parameters": result.num_parameters, "loss": result.loss} | numbers


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case str():
            return value or "-"
        case {"value": number, "lower": lower, "upper": upper}:
            ends = ("?" if end is None else f"{end:.6g}" for end in (lower, upper))
            return f"{number:.6g} [{', '.join(ends)}]"
        case dict():
            return " ".join(f"{name}:{each}" for name, each in value.items()) or "-"
        case float():
            return f"{value:.6g}"
        case _:
            return f"{value:,}"
