"""The point store: results of single points of experiments, by content, for later experiments that share points."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hessian_spectrum.storage.blob_store import DIGEST, BlobNotFoundError, BlobStore

_DOCUMENT = "__document__"

_REQUESTS = 8
"""Number of points that are read or written at once, as each is a request to an object store."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredPoint:
    """The result of a point.

    Attributes:
        document: A JSON document.
        arrays: The arrays that belong to it, by name.
    """

    document: str
    arrays: dict[str, NDArray[np.generic]]


class PointStore:
    """Results of points by a key, which is a digest of all that their numbers depend on.

    A file is the SHA-256 of its content, a line break, and the content: arrays in the format of safetensors, of which
    one holds the document. Points that nobody has used for as long as results are kept are removed.

    Args:
        blobs: Where they are stored, at `KE/KEY`, where KE are the first two digits of the key.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def held(self, keys: Sequence[str]) -> set[str]:
        """Return the keys of which there is a point, and remember that somebody needs it."""
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return {key for key, is_held in zip(keys, pool.map(self._holds, keys), strict=True) if is_held}

    def _holds(self, key: str) -> bool:
        try:
            self._blobs.stat(_name(key))
            self._blobs.mark_used(_name(key))
        except OSError:
            return False
        return True

    def read_all(self, keys: Sequence[str]) -> list[StoredPoint | None]:
        """Return the points of keys, in order, as `read` does."""
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(self.read, keys))

    def read(self, key: str) -> StoredPoint | None:
        """Return the point of a key; None if there is none, or if its file is damaged."""
        try:
            content = self._blobs.read(_name(key))
        except BlobNotFoundError:
            return None
        digest, _, sealed = content.partition(b"\n")
        try:
            if hashlib.sha256(sealed).hexdigest().encode() != digest:
                raise ValueError("its digest differs")
            arrays = load(sealed)
            return StoredPoint(arrays.pop(_DOCUMENT).tobytes().decode(), arrays)
        except (SafetensorError, ValueError, KeyError) as error:
            _logger.warning("the stored point %s is damaged and will be computed again: %s", key, error)
            self._blobs.delete(_name(key))  # `put` writes nothing where a file is
            return None

    def write_all(self, points: Mapping[str, StoredPoint]) -> None:
        """Store points by their keys, several at once; those that cannot be written are not reused."""
        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(self.write, points.keys(), points.values()))

    def write(self, key: str, point: StoredPoint) -> bool:
        """Store a point; False if it cannot be written, as on a full disk, which costs only its reuse."""
        document = np.frombuffer(point.document.encode(), np.uint8)
        arrays = {name: np.asarray(array, order="C") for name, array in point.arrays.items()}
        sealed = save({_DOCUMENT: document, **arrays})
        try:
            self._blobs.put(_name(key), hashlib.sha256(sealed).hexdigest().encode() + b"\n" + sealed, durable=False)
        except OSError as error:
            _logger.warning("a point could not be stored for reuse: %s", error)
            return False
        return True

    def num_bytes(self) -> int:
        """Return the size of all points together."""
        return sum(info.num_bytes for info in self._blobs.list())

    def remove_oldest(self, num_bytes: int) -> int:
        """Remove the points that were written first until so many bytes are free; return how many were removed."""
        removed = freed = 0
        for info in sorted(self._blobs.list(), key=lambda each: each.modified_ns):
            if freed >= num_bytes:
                break
            self._blobs.delete(info.name)
            removed, freed = removed + 1, freed + info.num_bytes
        return removed

    def remove_unused(self, seconds: float) -> Iterator[str]:
        """Remove the points that nobody has used for so long, and yield their keys."""
        for info in self._blobs.unused(seconds):
            self._blobs.delete(info.name)
            yield info.name.rpartition("/")[2]


def _name(key: str) -> str:
    if not DIGEST.fullmatch(key):
        raise ValueError(f"{key!r} is no digest")
    return f"{key[:2]}/{key}"
