"""Beginnings of ids, which stand for the only id that begins so."""

import re
from collections.abc import Iterator

import typer

from hessian_spectrum.client.errors import SpectrumClientError
from hessian_spectrum.client.http import SpectrumClient

LEAST_TO_REMOVE = 8
"""Fewest digits of an id with which a command ends or deletes something."""

_JOB_DIGITS = 32
_ARTIFACT_DIGITS = 64


def complete_job_id(client: SpectrumClient, beginning: str, *, least: int = 1) -> str:
    """Complete the id of a job.

    Args:
        client: Client of the server that has the job.
        beginning: A beginning of the id, or all of it.
        least: Fewest digits that are enough.

    Returns:
        The id of the only listed job whose id begins so.

    Raises:
        BadParameter: If it is no beginning of an id, or several ids begin so.
        SpectrumClientError: If no id begins so.
    """
    text = _checked(beginning, "job", _JOB_DIGITS, least)
    return text if len(text) == _JOB_DIGITS else _only(text, "job", _candidates(client, text))


def complete_artifact_id(client: SpectrumClient, beginning: str, *, least: int = 1) -> str:
    """Complete the id of an uploaded file, as `complete_job_id` completes that of a job."""
    text = _checked(beginning, "uploaded file", _ARTIFACT_DIGITS, least)
    return (
        text
        if len(text) == _ARTIFACT_DIGITS
        else _only(text, "uploaded file", (each.id for each in client.artifacts()))
    )


def _candidates(client: SpectrumClient, beginning: str) -> Iterator[str]:
    """Yield ids of jobs until none can begin so: jobs are listed newest first, in the descending order of their ids."""
    for job in client.jobs():
        if job.id < beginning:
            return
        yield job.id


def _checked(beginning: str, kind: str, num_digits: int, least: int) -> str:
    text = beginning.strip().lower()
    if not text:
        raise typer.BadParameter(f"the id of the {kind} is empty")
    if not re.fullmatch(r"[0-9a-f]+", text) or len(text) > num_digits:
        raise typer.BadParameter(f"{beginning} is not the id of a {kind}, which has {num_digits} digits from 0 to f")
    if len(text) < least:
        raise typer.BadParameter(f"{beginning} is too short: give at least {least} digits of the id of the {kind}")
    return text


def _only(beginning: str, kind: str, ids: Iterator[str]) -> str:
    found = [each for each in ids if each.startswith(beginning)]
    if len(found) > 1:
        message = f"the ids of {len(found)} {kind}s begin with {beginning}, such as {found[0]} and {found[-1]}"
        raise typer.BadParameter(message)
    if not found:
        raise SpectrumClientError(f"no {kind} has an id that begins with {beginning}")
    return found[0]
