"""The process that computes: its name among all of a deployment, its priority, and the signals of which it may die."""

import os
import signal
import socket

IDLE = 20
"""Niceness of a process that runs only while no other wants the core; on a busy machine it would lose its lease."""

CRASHES = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV"})
"""Signals that a process brings upon itself."""


def process_name(worker_pid: int, pid: int) -> str:
    """Return the name of a process of a worker's pool on this host."""
    return f"{socket.gethostname()}-{worker_pid}-{pid}"


def own_name() -> str:
    """Return the name of this process of a worker's pool."""
    return process_name(os.getppid(), os.getpid())


def set_niceness(niceness: int) -> None:
    """Set the priority of this thread and of those that it starts.

    Args:
        niceness: 0 as all others, up to 19 less and less, 20 only when all others are idle.
    """
    if niceness < IDLE or not hasattr(os, "SCHED_IDLE"):
        os.nice(min(niceness, IDLE - 1))
    else:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def name_of_signal(number: int) -> str:
    """Return the name of the signal of this number."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
