"""Which stored results are whole."""

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

from hessian_spectrum.api_schemas.spectrum_results import StoredArrays
from hessian_spectrum.service.formats.result import result_of, stored_arrays
from hessian_spectrum.storage.results import ResultStore

SECONDS_BELIEVED = 3600.0
_MOST_BELIEVED = 1000


class WholeResults:
    """Reads all files of a result, large ones once in an hour, and one at a time: they may be gigabytes."""

    def __init__(self, results: ResultStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._results, self._clock = results, clock
        self._reading = threading.Lock()
        self._read_once = lru_cache(_MOST_BELIEVED)(self._read)
        self._stored: OrderedDict[str, StoredArrays | None] = OrderedDict()
        """By digest, of documents that were understood once: what a digest stands for never changes."""

    def check(self, digest: str) -> None:
        """Make sure that the result is there, with all of its arrays.

        Raises:
            ResultDamagedError: The file of the result is missing or damaged.
            ProblemError: If its document is none that this version can read.
        """
        stored = self._arrays_of(digest, self._results.read(digest))
        if stored is not None:
            version = self._results.version_of_arrays(digest)
            with self._reading:
                self._read_once(digest, stored.sha256, version, int(self._clock() // SECONDS_BELIEVED))

    def _arrays_of(self, digest: str, document: bytes) -> StoredArrays | None:
        with contextlib.suppress(KeyError):
            return self._stored[digest]
        stored = self._stored[digest] = stored_arrays(result_of(document))
        if len(self._stored) > _MOST_BELIEVED:
            self._stored.popitem(last=False)
        return stored

    def _read(self, digest: str, sha256: str, _version: tuple[int, ...], _hour: int) -> None:
        for _ in self._results.stream_arrays(digest, sha256):
            pass
