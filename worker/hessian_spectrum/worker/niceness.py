"""How a process that computes stands back for others on the same cores."""

import os

IDLE = 20
"""Computes only while nobody else wants the core; on a machine that others keep busy it could not keep its lease."""


def be_nice(niceness: int) -> None:
    """From now on, this thread and those that it starts: 0 as all others, to 19 less and less, 20 when all is idle."""
    if niceness < IDLE or not hasattr(os, "SCHED_IDLE"):
        os.nice(min(niceness, IDLE - 1))
    else:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
