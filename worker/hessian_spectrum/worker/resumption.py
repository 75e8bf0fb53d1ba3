"""What a job has done so far, kept so that a later attempt goes on where this one ends."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hessian_spectrum.curvature.state_codec import freeze, thaw
from hessian_spectrum.storage.job_checkpoints import CheckpointDamagedError, JobCheckpoint, JobCheckpoints

PIECE_BYTES = 2**24
"""Of a tensor, in one file at most; rows of a basis that were written once are not written again."""

LARGEST_SHARE = 0.05
"""Of a job's time that checkpoints may take: those that take long to write are rarer."""

_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)}

_logger = logging.getLogger(__name__)


class Unit:
    """A part of a job.

    Attributes:
        name: no other part of the job has it.
        value: what it gave, if it is finished.
        state: that an earlier attempt left, if it had begun.
    """

    def __init__(self, name: str, value: Any | None, state: Any | None, resumption: "Resumption") -> None:
        self.name, self.value, self.state, self._resumption = name, value, state, resumption

    def offer(self, state: Callable[[], Any]) -> None:
        """Say how far the unit is; `state` is asked for its state whenever a checkpoint is due, also later on."""
        self._resumption.under_way[self.name] = state
        self._resumption.save_if_due()

    def finish(self, value: Any) -> None:
        """Say what the unit gave, which must not change any more."""
        self._resumption.under_way.pop(self.name, None)
        self._resumption.finished[self.name] = self.value = value


class Resumption:
    """The units of a job that is computed in the same order at every attempt.

    Args:
        checkpoints: of this attempt; None: nothing is kept.
        seconds: from one checkpoint to the next.
        device: of the tensors of states.
        signature: of what computes; checkpoints of another are passed over.

    Attributes:
        notes: JSON values that every checkpoint holds.
    """

    def __init__(
        self,
        checkpoints: JobCheckpoints | None = None,
        seconds: float = 30.0,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
        signature: str = "",
    ) -> None:
        self._checkpoints, self._pause, self._device, self._signature = checkpoints, seconds, device, signature
        self.finished: dict[str, Any] = {}
        self.under_way: dict[str, Callable[[], Any]] = {}
        self.notes: dict[str, Any] = {}
        self._left: dict[str, Any] = {}
        self._stored: dict[str, Any] = {}  # finished units, as the last checkpoint has them
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._due = self._started + seconds
        self._restore()

    def unit(self, name: str) -> Unit:
        """What is known about a unit."""
        state = self._left.pop(name, None)
        if state is not None:
            self.under_way[name] = lambda: state  # until it moves on
        return Unit(name, self.finished.get(name), state, self)

    @property
    def seconds(self) -> float:
        """That all attempts have taken so far, without what the last ones did after their last checkpoint."""
        return self._seconds_before + time.monotonic() - self._started

    def save_if_due(self) -> None:
        """Write a checkpoint if the last one is old; a disk that cannot take it does not stop the job."""
        if self._checkpoints is None or time.monotonic() < self._due:
            return
        self.save()

    def save(self) -> bool:
        """Write a checkpoint; whether it is on the disk."""
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
        finished = dict(self._stored)
        for name, value in self.finished.items():
            if name not in finished:
                finished[name] = _store(value, checkpoints)
        states = self._left | {name: state() for name, state in self.under_way.items()}
        under_way = {name: _store(state, checkpoints) for name, state in states.items()}
        units: list[dict[str, Any]] = [*finished.values(), *under_way.values()]
        pieces = {digest for unit in units for tensor in unit["tensors"] for digest in tensor["pieces"]}
        document = {
            "signature": self._signature,
            "finished": finished,
            "under_way": under_way,
            "notes": self.notes,
            "seconds": self.seconds,
        }
        checkpoints.commit(document, pieces)
        self._stored = finished

    def _restore(self) -> None:
        if self._checkpoints is None:
            return
        for checkpoint in self._checkpoints.newest_first():
            try:
                self._take(checkpoint)
            except (CheckpointDamagedError, ValueError, KeyError, TypeError, IndexError) as error:
                _logger.warning("checkpoint ignored: %s: %s", type(error).__name__, error)
            else:
                _logger.warning("the job goes on after %.1f s of work", self._seconds_before)
                return

    def _take(self, checkpoint: JobCheckpoint) -> None:
        document = checkpoint.document
        if document["signature"] != self._signature:
            raise ValueError(f"it was computed by {document['signature']:.200}")
        finished, left = (
            {name: _load(stored, checkpoint, self._device) for name, stored in document[part].items()}
            for part in ("finished", "under_way")
        )
        self.finished, self._left, self.notes = finished, left, document["notes"]
        self._seconds_before = document["seconds"]


def _store(value: Any, checkpoints: JobCheckpoints) -> dict[str, Any]:
    frozen = freeze(value)
    tensors = [
        {
            "dtype": str(tensor.dtype),
            "shape": list(tensor.shape),
            "pieces": [checkpoints.put(_bytes(part)) for part in _parts(tensor)],
        }
        for tensor in frozen.tensors
    ]
    return {"document": frozen.document, "tensors": tensors}


def _load(stored: dict[str, Any], checkpoint: JobCheckpoint, device: torch.device) -> Any:
    tensors = []
    for each in stored["tensors"]:
        tensor = torch.empty(each["shape"], dtype=_DTYPES[each["dtype"]])
        for part, digest in zip(_parts(tensor), each["pieces"], strict=True):
            found = torch.frombuffer(bytearray(checkpoint.read(digest)), dtype=tensor.dtype)
            part.copy_(found.reshape(part.shape))
        tensors.append(tensor)
    return thaw(stored["document"], tensors, device)


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """Views that make up the tensor, in its order, none of them large."""
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
