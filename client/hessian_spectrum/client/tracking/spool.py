"""The directory of a tracked run, which holds everything that the server has not acknowledged yet.

A process may be killed between any two file operations. Files appear under their names only when they are complete, so
the directory always shows one of the states that `Spool` can continue from:

| file | meaning |
|---|---|
| `run.json` | the run: name, request, and digests of program and data; without it there is nothing to send |
| `DIGEST.pt2`, `DIGEST.safetensors` | the program; data or the parameters of a point |
| `program.json` | the id that the server has given the program |
| `point-N.json` | step, learning rate and digest of the parameters of the point with the sequence number N |
| `batch.json` | points that are being sent, with their idempotency key |
| `acknowledged.json` | a batch that the server has, whose files are being removed |
| `lock` | held by the process that uses the directory |
"""

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hessian_spectrum.client.arrays import NamedArray, file_pieces
from hessian_spectrum.client.errors import SpectrumClientError
from hessian_spectrum.client.tracking.points import Point, PointQueue

DISK_BYTES = 10 * 2**30
"""Default limit on the size of the parameters that wait to be sent."""

_RUN, _PROGRAM, _BATCH, _ACKNOWLEDGED = "run.json", "program.json", "batch.json", "acknowledged.json"
_DRAFT = ".draft-"
LARGEST_BATCH = 32
"""Largest number of points in one request."""


class SpoolError(SpectrumClientError):
    """A directory cannot be used for a tracked run; the message says why."""


class SpoolClosedError(SpoolError):
    """The directory was left to others."""


@dataclass(frozen=True)
class Run:
    """What all points of a run have in common.

    Attributes:
        name: Name of the series.
        request: Fields of the request, apart from the points and from program and data if those are files.
        program: Digest of the file of the program.
        parts: Digests of the files of the data; empty if the request refers to uploaded data.
    """

    name: str
    request: dict[str, Any]
    program: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Points that are sent in one request.

    Attributes:
        key: Idempotency key of the request.
        points: The points, in the order of their sequence numbers.
        before: The last point of the batch before, which the server has: beside it, the overlap of its eigenvectors
            with those of the first point is computed. None: it is not known.
    """

    key: str
    points: tuple[Point, ...]
    before: Point | None = None


class Spool:
    """Files of one run, for one process at a time and several of its threads.

    Args:
        directory: The directory, which is created if it does not exist.
        disk_bytes: Limit on the size of the parameters that wait.

    Attributes:
        directory: The same directory.

    Raises:
        SpoolError: If another process uses the directory, or its files are those of another version.
    """

    def __init__(self, directory: Path, *, disk_bytes: int = DISK_BYTES) -> None:
        self.directory = directory
        self._disk_bytes = disk_bytes
        directory.mkdir(parents=True, exist_ok=True)
        self._process_lock = FileLock(directory / "lock", thread_local=False)
        try:
            self._process_lock.acquire(timeout=0)
        except Timeout:
            raise SpoolError(
                f"{directory} is used by another process, which sends its points as long as it runs"
            ) from None
        self._lock = threading.RLock()
        self._is_open = True
        self._points = PointQueue()
        self._num_bytes: dict[str, int] = {}
        self._total_bytes = 0
        self._num_uses: Counter[str] = Counter()
        self._next_sequence = 0
        self._batch: Batch | None = None
        try:
            self.run = self._read_run()
            self._recover()
        except BaseException:
            self._process_lock.release()
            raise

    def begin(self, run: Run, program: bytes, parts: Iterable[bytes]) -> None:
        """Write the files of a new run, or continue the same run after an interruption.

        Args:
            run: The run.
            program: Content of the file of the program.
            parts: Contents of the files of the data.

        Raises:
            SpoolError: If the directory holds another run.
        """
        with self._changing():
            if self.run is not None:
                if self.run != run:
                    raise SpoolError(
                        f"{self.directory} holds points of another run named {run.name}, which were not sent: send "
                        f"them with `spectrum track send {self.directory}`, or choose another name"
                    )
                return
            self._write(f"{run.program}.pt2", [program])
            for digest, part in zip(run.parts, parts, strict=True):
                self._write(f"{digest}.safetensors", [part])
            self._write(_RUN, [_json({"version": 1, **asdict(run)})])
            self.run = run

    def add(self, step: int, learning_rate: float | None, arrays: Mapping[str, NamedArray]) -> int:
        """Write the parameters at a step, in place of a waiting point at the same step.

        Args:
            step: Label of the point.
            learning_rate: Learning rate; None if unknown.
            arrays: Parameters by name.

        Returns:
            The number of waiting points that were dropped so that this one has room; -1 if it was dropped itself.

        Raises:
            OSError: If the files cannot be written.
            UnfitArrayError: If a parameter is NaN or infinite.
            SpoolClosedError: If the directory was left to others.
        """
        num_bytes = sum(each.num_bytes for each in arrays.values())
        with self._changing():
            num_dropped = self._make_room(num_bytes, step)
        if num_dropped is None:
            return -1
        with self._draft(file_pieces(arrays)) as (draft, digest), self._changing():
            if digest not in self._num_uses:
                os.replace(draft, self.path(digest))
                self._count_bytes(digest, num_bytes)
            point = Point(self._next_sequence, step, learning_rate, digest)
            self._write(_point_name(point.sequence), [_json(asdict(point))])
            earlier = self._points.waiting_at(step)
            self._include(point)
            for each in earlier:  # a run that was resumed from a checkpoint repeats steps
                self._discard(each)
        return num_dropped

    def path(self, digest: str) -> Path:
        """Return the path of a file of arrays."""
        return self.directory / f"{digest}.safetensors"

    def digests(self) -> set[str]:
        """Return the digests of all files of arrays."""
        with self._lock:
            return {*self._num_uses, *(() if self.run is None else self.run.parts)}

    def holds(self, digest: str) -> bool:
        """Return whether there is a file of arrays with this digest."""
        with self._lock:
            return digest in self._num_uses or (self.run is not None and digest in self.run.parts)

    @property
    def program_path(self) -> Path:
        """Path of the file of the program."""
        assert self.run is not None
        return self.directory / f"{self.run.program}.pt2"

    @property
    def num_points(self) -> int:
        """Number of points that the server has not acknowledged."""
        with self._lock:
            return len(self._points)

    @property
    def program_id(self) -> str | None:
        """Id that the server has given the program; None before it was uploaded."""
        text = _read(self.directory / _PROGRAM)
        return None if text is None else str(text["id"])

    @program_id.setter
    def program_id(self, artifact_id: str) -> None:
        with self._changing():
            self._write(_PROGRAM, [_json({"id": artifact_id})])

    @property
    def batch(self) -> Batch | None:
        """The batch that is being sent.

        It is the same until it is acknowledged, also in another process, so that the server can recognise it.
        """
        with self._lock:
            return self._batch

    def first_points(self) -> list[Point]:
        """Return the points of which the next batch can be made, in order; the disk's limit may still drop them."""
        with self._lock:
            return self._points.first(LARGEST_BATCH)

    def make_batch(self, points: Iterable[Point], before: Point | None = None) -> None:
        """Make a batch of the points that were not dropped meanwhile, if there are any.

        Args:
            points: The points.
            before: The last point of the batch before; one of a later step is left out.
        """
        with self._changing():
            assert self._batch is None
            kept = tuple(each for each in points if each.sequence in self._points)
            if kept:
                is_earlier = before is not None and before.step < min(each.step for each in kept)
                self._keep_batch(Batch(secrets.token_hex(16), kept, before if is_earlier else None))

    def without_point_before(self) -> Batch:
        """Return the batch that is being sent, without the point before it, which the server no longer has."""
        with self._changing():
            assert self._batch is not None
            return self._keep_batch(replace(self._batch, before=None))

    def _keep_batch(self, batch: Batch) -> Batch:
        sequences = [each.sequence for each in batch.points]
        before = None if batch.before is None else asdict(batch.before)
        self._write(_BATCH, [_json({"key": batch.key, "sequences": sequences, "before": before})])
        self._begin_batch(batch)
        return batch

    def _begin_batch(self, batch: Batch) -> None:
        self._batch = batch
        self._points.hold(each.sequence for each in batch.points)

    def acknowledge(self, batch: Batch) -> None:
        """Remove the points of a batch that the server has."""
        with self._changing():
            os.replace(self.directory / _BATCH, self.directory / _ACKNOWLEDGED)
            self._batch = None
            self._remove_acknowledged([each.sequence for each in batch.points])

    def abandon(self) -> None:
        """Leave the directory to others; no thread of this process changes it any more."""
        with self._lock:
            self._is_open = False
            self._process_lock.release()

    def remove(self) -> None:
        """Remove the files of a run whose points the server has, and the directory if nothing else is in it."""
        with self._changing():
            for name in (_PROGRAM, _RUN):
                (self.directory / name).unlink(missing_ok=True)
            self.run = None
            self._remove_unused()
            with contextlib.suppress(OSError):  # the directory may hold other files
                (self.directory / "lock").unlink(missing_ok=True)
                self.directory.rmdir()
            self.abandon()

    def _recover(self) -> None:
        """Finish what a killed process has begun, and remove what it has left half-done."""
        for draft in self.directory.glob(f"{_DRAFT}*"):
            draft.unlink(missing_ok=True)
        if self.run is not None:
            self._recover_points()
        self._remove_unused()

    def _remove_unused(self) -> None:
        """Remove arrays and programs that nothing refers to; files of other people have other names."""
        kept = self.digests() | ({self.run.program} if self.run is not None else set())
        for path in [*self.directory.glob("*.safetensors"), *self.directory.glob("*.pt2")]:
            if _is_digest(path.stem) and path.stem not in kept:
                path.unlink(missing_ok=True)

    def _recover_points(self) -> None:
        if (acknowledged := _read(self.directory / _ACKNOWLEDGED)) is not None:
            self._remove_acknowledged(acknowledged["sequences"])
        for path in sorted(self.directory.glob("point-*.json")):
            point = None if (fields := _read(path)) is None else Point(**fields)
            if point is not None and _is_intact(self.path(point.parameters)):
                self._count_bytes(point.parameters, self.path(point.parameters).stat().st_size)
                self._include(point)
            else:  # not only the process but the machine stopped, before the file was on disk
                path.unlink(missing_ok=True)
        if (batch := _read(self.directory / _BATCH)) is not None:
            points = [self._points[each] for each in batch["sequences"] if each in self._points]
            if len(points) == len(batch["sequences"]):
                before = batch.get("before")
                self._begin_batch(Batch(batch["key"], tuple(points), None if before is None else Point(**before)))

    def _read_run(self) -> Run | None:
        fields = _read(self.directory / _RUN)
        if fields is None:
            return None
        if fields.pop("version", None) != 1:
            raise SpoolError(f"{self.directory} was written by another version of the client")
        return Run(**fields | {"parts": tuple(fields["parts"])})

    def _make_room(self, num_bytes: int, step: int) -> int | None:
        """Drop waiting points until further bytes fit.

        Of the points that are not being sent, the one closest to its neighbours is dropped first, so that those that
        stay cover the whole run evenly. The first point stays.

        Args:
            num_bytes: Size of the parameters of a new point.
            step: Its step.

        Returns:
            The number of points that were dropped; None if there is no room even so.
        """
        num_dropped = 0
        while self._total_bytes + num_bytes > self._disk_bytes:
            sequence = self._points.to_spare(step)
            if sequence is None:
                return None
            self._discard(sequence)
            num_dropped += 1
        return num_dropped

    def _count_bytes(self, digest: str, num_bytes: int) -> None:
        self._total_bytes += num_bytes - self._num_bytes.get(digest, 0)
        self._num_bytes[digest] = num_bytes

    def _include(self, point: Point) -> None:
        self._points.append(point)
        self._next_sequence = point.sequence + 1
        self._num_uses[point.parameters] += 1

    def _discard(self, sequence: int) -> None:
        """Remove a point, and its parameters unless another point has the same."""
        point = self._points.remove(sequence)
        (self.directory / _point_name(sequence)).unlink(missing_ok=True)
        self._num_uses[point.parameters] -= 1
        if self._num_uses[point.parameters] == 0:
            del self._num_uses[point.parameters]
            self._total_bytes -= self._num_bytes.pop(point.parameters)
            if self.run is None or point.parameters not in self.run.parts:
                self.path(point.parameters).unlink(missing_ok=True)

    def _remove_acknowledged(self, sequences: Iterable[int]) -> None:
        for sequence in sequences:
            if sequence in self._points:
                self._discard(sequence)
            (self.directory / _point_name(sequence)).unlink(missing_ok=True)
        (self.directory / _ACKNOWLEDGED).unlink(missing_ok=True)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            if not self._is_open:
                raise SpoolClosedError(f"{self.directory} was left to others")
            yield

    def _write(self, name: str, pieces: Iterable[bytes]) -> None:
        with self._draft(pieces) as (draft, _):
            os.replace(draft, self.directory / name)

    @contextmanager
    def _draft(self, pieces: Iterable[bytes]) -> Iterator[tuple[Path, str]]:
        """Write pieces to a file that has no name of its own yet, and yield its path and digest."""
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self.directory, prefix=_DRAFT, delete=False) as file:
            draft = Path(file.name)
            try:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
                file.close()
                yield draft, digest.hexdigest()
            finally:
                draft.unlink(missing_ok=True)


def _point_name(sequence: int) -> str:
    return f"point-{sequence:09d}.json"


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def _read(path: Path) -> dict[str, Any] | None:
    """Return the fields of a JSON file; None if it is missing or was not written to the end."""
    try:
        fields = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _is_intact(path: Path) -> bool:
    """Return whether a file has the digest that its name states."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == path.stem
    except FileNotFoundError:
        return False
