"""Start of a tracked run, and sending of what an earlier one has left."""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_state_path

from hessian_spectrum.api_schemas.experiments.series import SERIES_NAME
from hessian_spectrum.client.data_sets import PART_BYTES, DataSet
from hessian_spectrum.client.errors import ProblemResponseError
from hessian_spectrum.client.module_export import ModuleExportError
from hessian_spectrum.client.requests import FilePath
from hessian_spectrum.client.retries import Backoff
from hessian_spectrum.client.tracking.sender import Sender, may_be_repeated
from hessian_spectrum.client.tracking.spool import Run, Spool, SpoolError
from hessian_spectrum.client.tracking.tracker import Tracker

if TYPE_CHECKING:
    from hessian_spectrum.client.http import SpectrumClient

_NUM_EXAMPLES = 4


@dataclass(frozen=True)
class SentRun:
    """What was sent of a run.

    Attributes:
        name: Name of the series.
        num_points: Number of points.
        job_ids: Ids of the jobs that measure them.
    """

    name: str
    num_points: int
    job_ids: tuple[str, ...]


@dataclass(frozen=True)
class NewRun:
    """A run before its start, with all files that its points need on the server.

    Attributes:
        module: The module, without what wraps it.
        run: What all points have in common.
        program: Content of the file of the program.
        parts: Contents of the files of the data; empty if the request refers to uploaded data.
    """

    module: Any
    run: Run
    program: bytes
    parts: tuple[bytes, ...]


def new_run(
    module: Any, request: Mapping[str, Any], *, data: Any, name: str | None, trainable: str | None, example_inputs: Any
) -> NewRun:
    """Export a module. `SpectrumClient.track` documents the arguments, of which `request` holds several."""
    if not hasattr(module, "named_parameters"):
        raise ModuleExportError(f"track takes a torch.nn.Module, not {type(module).__name__}")
    from hessian_spectrum.client.tracking.snapshots import (  # noqa: PLC0415 - loads torch
        check_present,
        tracked_program,
        unwrapped,
    )

    module = unwrapped(module)
    check_present(module)
    name = _new_name(module) if name is None else name
    if not re.fullmatch(SERIES_NAME, name):
        raise ValueError(f"the name {name!r} must have at most 100 letters, digits, dots, hyphens and underscores")
    parts: list[bytes] = []
    if isinstance(data, Mapping):
        if example_inputs is None:
            raise ValueError("example_inputs is needed where data refers to uploaded files")
        request = {**request, "data": dict(data)}
    else:
        x, y = data if isinstance(data, tuple) else (data, None)
        parts = [part.content for part in DataSet.of(x, y, PART_BYTES).parts()]
        example_inputs = _examples(x) if example_inputs is None else example_inputs
    program = tracked_program(module, example_inputs, trainable)
    digests = tuple(map(_digest, parts))
    return NewRun(module, Run(name, json.loads(json.dumps(request)), _digest(program), digests), program, tuple(parts))


def start_tracking(
    new: NewRun,
    client: "SpectrumClient",
    connect: Callable[[], "SpectrumClient"],
    directory: FilePath | None,
    *,
    every: int,
    learning_rate: float | None,
    disk_bytes: int,
    memory_bytes: int,
) -> Tracker:
    """Write the files of a run, and start its threads; `SpectrumClient.track` documents the arguments."""
    from hessian_spectrum.client.tracking.snapshots import Snapshots  # noqa: PLC0415 - loads torch

    parent = user_state_path("hessian-spectrum") / "tracked" if directory is None else Path(directory)
    spool = Spool(parent / new.run.name, disk_bytes=disk_bytes)
    try:
        spool.begin(new.run, new.program, new.parts)
    except BaseException:
        spool.abandon()
        raise
    snapshots = Snapshots(new.module, memory_bytes)
    return Tracker(client, connect(), spool, snapshots, every=every, learning_rate=learning_rate)


def send_spooled(client: "SpectrumClient", directory: Path) -> list[SentRun]:
    """Send the runs in a directory; `SpectrumClient.send_tracked` has the documentation."""
    is_run = (directory / "run.json").is_file()
    runs = [directory] if is_run else sorted(path.parent for path in directory.glob("*/run.json"))
    if not runs:
        raise SpoolError(f"{directory} holds no tracked run")
    return [_send_run(client, each) for each in runs]


def _send_run(client: "SpectrumClient", directory: Path) -> SentRun:
    spool = Spool(directory)
    try:
        if spool.run is None:
            raise SpoolError(f"{directory} holds no tracked run")
        name, sender, num_points = spool.run.name, Sender(client, spool), 0
        while num_sent := _send_batch(client, sender):
            num_points += num_sent
        spool.remove()
        return SentRun(name, num_points, tuple(sender.job_ids))
    finally:
        spool.abandon()


def _send_batch(client: "SpectrumClient", sender: Sender) -> int:
    """Send a batch; try again while the server is busy, for as long as the client is patient."""
    backoff, deadline = Backoff(), time.monotonic() + client.patience_seconds
    while True:
        try:
            return sender.send_batch()
        except ProblemResponseError as error:
            pause = backoff.next_seconds(error)
            if not may_be_repeated(error) or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)


def _new_name(module: Any) -> str:
    kind = re.sub(r"[^a-z0-9]", "", type(module).__name__.lower())[:24] or "run"
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _examples(x: Any) -> Any:
    """Return the first samples, as arguments of the module."""
    if isinstance(x, Mapping):
        return tuple(each[:_NUM_EXAMPLES] for each in x.values())
    return x[:_NUM_EXAMPLES]
