"""The flag that stops a pool: shared by its processes, and never locked by one of them that is killed."""

import multiprocessing
import time
from multiprocessing.process import BaseProcess

from hessian_spectrum.worker.runtime.stop_flag import StopFlag

FORK = multiprocessing.get_context("fork")


def look_for_ever(flag: StopFlag) -> None:
    while True:
        flag.is_set()


def exit_once_set(flag: StopFlag) -> None:
    flag.wait(60)
    raise SystemExit(0 if flag.is_set() else 1)


def started(target: object, flag: StopFlag) -> BaseProcess:
    process = FORK.Process(target=target, args=(flag,))  # type: ignore[arg-type]
    process.start()
    return process


def test_processes_that_are_killed_while_they_look_do_not_lock_it() -> None:
    flag = StopFlag()
    for number in range(20):
        process = started(look_for_ever, flag)
        time.sleep(0.02 + 0.001 * number)
        process.kill()
        process.join()
    others = [started(exit_once_set, flag) for _ in range(2)]
    assert not flag.is_set()
    flag.set()
    for other in others:
        other.join(30)
    assert [other.exitcode for other in others] == [0, 0]


def test_waiting_ends_when_its_time_is_over() -> None:
    flag = StopFlag()
    flag.wait(0.01)
    assert not flag.is_set()
