"""Headers of .npy files."""

import gc
import io
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hessian_spectrum.storage.npy_headers import read_npy_header


class Cycle:
    """What only the garbage collector frees, during which another thread goes on."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        os.close(os.open(os.devnull, os.O_RDONLY))


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(10)
    sys.setswitchinterval(1e-6)
    yield
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("frequent_switches")
def test_threads_may_read_headers_at_once() -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((3, 4), np.uint16))

    def read(_: int) -> set[object]:
        found = set()
        for _ in range(2000):
            Cycle()
            found.add(read_npy_header(io.BytesIO(file.getvalue())))
        return found

    with ThreadPoolExecutor(6) as pool:
        assert set.union(*pool.map(read, range(6))) == {((3, 4), False, np.dtype(np.uint16))}


def test_other_versions_are_refused() -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros(2), version=(3, 0))
    file.seek(0)
    with pytest.raises(NotImplementedError, match=r"version 3\.0"):
        read_npy_header(file)
