"""ProcessPool that compute stand back, as far as they are told to."""

import multiprocessing
import os

import pytest

from hessian_spectrum.worker.hardware import set_niceness


def _told(niceness: int) -> tuple[int, int]:
    set_niceness(niceness)
    return os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)


@pytest.mark.parametrize(("niceness", "standing"), [(0, (0, os.SCHED_OTHER)), (7, (7, os.SCHED_OTHER)), (20, (0, 5))])
def test_it_stands_back(niceness: int, standing: tuple[int, int]) -> None:
    assert os.SCHED_IDLE == 5
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_told, (niceness,)) == standing
