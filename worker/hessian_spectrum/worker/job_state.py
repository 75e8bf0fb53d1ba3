"""Saved progress of a job, from which a later attempt continues."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from hessian_spectrum.curvature.serialization import deserialize, serialize
from hessian_spectrum.storage.job_files import CheckpointDamagedError, JobCheckpoint, JobCheckpoints

PIECE_BYTES = 2**24
"""Largest number of bytes of a tensor in one file; rows of a basis that were written once are not written again."""

LARGEST_SHARE = 0.05
"""Largest share of a job's time for checkpoints; those that take long to write are written less often."""

_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)}

_logger = logging.getLogger(__name__)


class Stage:
    """A computation that is part of a job; a `Checkpointer` of its states.

    Attributes:
        name: Name of the stage, unique within the job.
        value: Return value of the stage, if it is finished; otherwise None.
    """

    def __init__(self, name: str, value: Any, *, state: Any | None, job: "JobCheckpointer") -> None:
        self.name, self._state, self._job = name, state, job
        self.value: Any = value

    def restore(self) -> Any | None:
        """Return the state that an earlier attempt saved, or None if the stage begins."""
        return self._state

    def begin_with(self, state: Any | None) -> None:
        """Set the state from which the stage begins, unless an earlier attempt has begun it."""
        if self._state is None:
            self._state = state

    def update(self, snapshot: Callable[[], Any]) -> None:
        """Announce a new state; `snapshot` is called whenever a checkpoint is due, now or later."""
        self._state = None  # frees the memory of the restored state, which is replaced
        self._job.update(self.name, snapshot)

    def seal(self) -> None:
        """Keep the state that was saved last, as the present one is about to be overwritten."""
        self._state = None
        self._job.seal(self.name)

    def finish(self, value: Any) -> None:
        """Save what the stage returned, which must not change any more."""
        self._state = None
        self._job.finish(self.name, value)
        self.value = value

    def part(self, name: str) -> "JobPart":
        """Return the checkpoints of a computation with stages of its own, which is part of this stage."""
        return JobPart(self._job, f"{self.name} {name}")


class JobCheckpointer:
    """The checkpoints of a job's stages, which are computed in the same order at every attempt.

    Args:
        checkpoints: The checkpoints of this attempt; None: nothing is saved.
        seconds: Time from one checkpoint to the next.
        device: Where tensors of states are restored to, unless they were on the CPU.
        fingerprint: Identifier of hardware and software; checkpoints with another one are ignored.

    Attributes:
        finished: What finished stages returned, by name.
        notes: JSON values that every checkpoint holds.
    """

    def __init__(
        self,
        checkpoints: JobCheckpoints | None = None,
        seconds: float = 30.0,
        *,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
        fingerprint: str = "",
    ) -> None:
        self._checkpoints, self._pause, self._device, self._fingerprint = checkpoints, seconds, device, fingerprint
        self.finished: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        self._snapshots: dict[str, Callable[[], Any]] = {}  # snapshot functions of unfinished stages
        self._restored: dict[str, Any] = {}  # states of stages that nobody has asked for yet
        self._sealed: set[str] = set()
        self._written_finished: dict[str, Any] = {}  # documents, as this attempt's last checkpoint has them
        self._written_states: dict[str, Any] = {}
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._due = self._started + seconds

    @classmethod
    def restored(
        cls,
        checkpoints: JobCheckpoints,
        seconds: float = 30.0,
        *,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
        fingerprint: str = "",
    ) -> "JobCheckpointer":
        """Return the stages as the newest checkpoint that can be read has them; arguments as of the class."""
        job = cls(checkpoints, seconds, device=device, fingerprint=fingerprint)
        job._restore(checkpoints)
        return job

    def stage(self, name: str) -> Stage:
        """Return what is known about a stage."""
        state = self._restored.pop(name, None)
        if state is not None:
            self._snapshots[name] = lambda: state  # until the stage announces a new state
        return Stage(name, self.finished.get(name), state=state, job=self)

    def update(self, name: str, snapshot: Callable[[], Any]) -> None:
        """Announce a new state of a stage, and write a checkpoint if one is due."""
        self._snapshots[name] = snapshot
        self.save_if_due()

    def seal(self, name: str) -> None:
        """Keep the last saved state of a stage, whatever becomes of the present one."""
        is_restored = self._checkpoints is not None and self._seconds_before > 0
        if name in self._snapshots and name not in self._written_states and is_restored:
            self.save()  # or the work of earlier attempts would be lost
        self._snapshots.pop(name, None)
        self._sealed.add(name)

    def finish(self, name: str, value: Any) -> None:
        """Save what a stage returned with the next checkpoint."""
        self._snapshots.pop(name, None)
        self._sealed.discard(name)
        self.finished[name] = value

    def forget(self, names: Iterable[str]) -> None:
        """Save what these finished stages returned no more, as another one's value holds it."""
        for name in names:
            self.finished.pop(name, None)
            self._written_finished.pop(name, None)

    @property
    def seconds(self) -> float:
        """Seconds that all attempts have taken so far, without the time of earlier ones after their last checkpoint."""
        return self._seconds_before + time.monotonic() - self._started

    def save_if_due(self) -> None:
        """Write a checkpoint if the last one is old; a disk that cannot take it does not stop the job."""
        if self._checkpoints is None or time.monotonic() < self._due:
            return
        self.save()

    def save(self) -> bool:
        """Write a checkpoint, and return whether it is on the disk."""
        if self._checkpoints is None:
            return False
        started, written = time.monotonic(), True
        try:
            self._write(self._checkpoints)
        except OSError as error:
            _logger.warning("no checkpoint could be written: %s", error)
            written = False
            with contextlib.suppress(OSError):
                self._checkpoints.remove_rest()
        now = time.monotonic()
        self._due = now + max(self._pause, (now - started) / LARGEST_SHARE)
        return written

    def _write(self, checkpoints: JobCheckpoints) -> None:
        finished = dict(self._written_finished)
        for name, value in self.finished.items():
            if name not in finished:
                finished[name] = _stored(value, checkpoints)
        states = {name: self._written_states[name] for name in self._sealed & self._written_states.keys()}
        for name, state in self._restored.items():
            states[name] = _stored(state, checkpoints)
        for name, snapshot in self._snapshots.items():
            states[name] = _stored(snapshot(), checkpoints)
        documents: list[dict[str, Any]] = [*finished.values(), *states.values()]
        pieces = {digest for each in documents for tensor in each["tensors"] for digest in tensor["pieces"]}
        document = {
            "fingerprint": self._fingerprint,
            "finished": finished,
            "under_way": states,
            "notes": self.notes,
            "seconds": self.seconds,
        }
        checkpoints.commit(document, pieces)
        self._written_finished, self._written_states = finished, states

    def _restore(self, checkpoints: JobCheckpoints) -> None:
        for checkpoint in checkpoints.newest_first():
            try:
                self._take(checkpoint)
            except (CheckpointDamagedError, ValueError, KeyError, TypeError, IndexError) as error:
                _logger.warning("checkpoint ignored: %s: %s", type(error).__name__, error)
            else:
                _logger.warning("the job continues after %.1f s of work", self._seconds_before)
                return

    def _take(self, checkpoint: JobCheckpoint) -> None:
        document = checkpoint.document
        if document["fingerprint"] != self._fingerprint:
            raise ValueError(f"it was computed by {document['fingerprint']:.200}")
        finished, restored = (
            {name: _loaded(stored, checkpoint, self._device) for name, stored in document[part].items()}
            for part in ("finished", "under_way")
        )
        self.finished, self._restored, self.notes = finished, restored, document["notes"]
        self._seconds_before = document["seconds"]


class JobPart(JobCheckpointer):
    """The checkpoints of a part of a job, which names its stages as if it were a job of its own.

    Args:
        job: The job.
        name: Name of the part, unique within the job.
    """

    def __init__(self, job: JobCheckpointer, name: str) -> None:
        super().__init__()
        self._job, self._prefix = job, f"{name}: "
        self.notes = job.notes.setdefault(self._prefix, {})
        self.notes.setdefault("began", job.seconds)

    def stage(self, name: str) -> Stage:
        """Return what is known about a stage of the part."""
        return self._job.stage(self._prefix + name)

    def forget(self, names: Iterable[str]) -> None:
        """Save what these finished stages of the part returned no more."""
        self._job.forget(self._prefix + name for name in names)

    def forget_all(self) -> None:
        """Save nothing of the part any more."""
        for name in [name for name in self._job.finished if name.startswith(self._prefix)]:
            self._job.forget([name])
        self._job.notes.pop(self._prefix, None)

    @property
    def seconds(self) -> float:
        """Seconds that the part has taken so far, over all attempts."""
        began: float = self.notes["began"]
        return self._job.seconds - began

    def save_if_due(self) -> None:
        """Write a checkpoint of the job if the last one is old."""
        self._job.save_if_due()

    def save(self) -> bool:
        """Write a checkpoint of the job, and return whether it is on the disk."""
        return self._job.save()


def _stored(value: Any, checkpoints: JobCheckpoints) -> dict[str, Any]:
    serialized = serialize(value)
    tensors = [
        {
            "dtype": str(tensor.dtype),
            "shape": list(tensor.shape),
            "pieces": [checkpoints.put(_bytes(part)) for part in _parts(tensor)],
        }
        for tensor in serialized.tensors
    ]
    return {"document": serialized.document, "tensors": tensors}


def _loaded(stored: dict[str, Any], checkpoint: JobCheckpoint, device: torch.device) -> Any:
    tensors = []
    for each in stored["tensors"]:
        tensor = torch.empty(each["shape"], dtype=_DTYPES[each["dtype"]])
        for part, digest in zip(_parts(tensor), each["pieces"], strict=True):
            piece = torch.frombuffer(bytearray(checkpoint.read(digest)), dtype=tensor.dtype)
            part.copy_(piece.reshape(part.shape))
        tensors.append(tensor)
    return deserialize(stored["document"], tensors, device)


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield views that make up the tensor, in its order, none of them large."""
    if tensor.numel() == 0:
        return
    if tensor.nbytes <= PIECE_BYTES:
        yield tensor
    elif tensor.ndim > 1:
        for each in tensor:
            yield from _parts(each)
    else:
        yield from torch.split(tensor, PIECE_BYTES // tensor.itemsize)


def _bytes(part: Tensor) -> memoryview:
    return part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
