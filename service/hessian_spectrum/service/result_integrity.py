"""Checks that stored results are complete before a new job reuses them."""

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

from hessian_spectrum.api_schemas.spectrum_results import StoredArrays
from hessian_spectrum.service.serialization.render import parse_result, stored_arrays
from hessian_spectrum.storage.results import ResultStore

VERIFIED_SECONDS = 3600.0
"""Seconds within which a result whose arrays were read is not read again."""

_MAX_CACHED_RESULTS = 1000


class ResultVerifier:
    """Reads all files of a result; arrays, which may take gigabytes, once an hour and one file at a time."""

    def __init__(self, results: ResultStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._results, self._clock = results, clock
        self._reading = threading.Lock()
        self._read_once = lru_cache(_MAX_CACHED_RESULTS)(self._read)
        self._arrays_by_digest: OrderedDict[str, StoredArrays | None] = OrderedDict()

    def verify(self, digest: str) -> None:
        """Make sure that the document of a result and all of its arrays can be read.

        Raises:
            ResultDamagedError: A file of the result is missing or damaged.
            ProblemError: Another version of the server wrote the document, which this version cannot read.
        """
        arrays = self._arrays_of(digest, self._results.read(digest))
        if arrays is not None:
            version = self._results.version_of_arrays(digest)
            with self._reading:
                hour = int(self._clock() // VERIFIED_SECONDS)
                self._read_once(digest, arrays.sha256, version=version, hour=hour)

    def _arrays_of(self, digest: str, document: bytes) -> StoredArrays | None:
        # A digest always stands for the same document, so that each is parsed once.
        with contextlib.suppress(KeyError):
            return self._arrays_by_digest[digest]
        arrays = self._arrays_by_digest[digest] = stored_arrays(parse_result(document))
        if len(self._arrays_by_digest) > _MAX_CACHED_RESULTS:
            self._arrays_by_digest.popitem(last=False)
        return arrays

    def _read(self, digest: str, sha256: str, *, version: str, hour: int) -> None:
        for _ in self._results.stream_arrays(digest, sha256):
            pass
