"""Signals of which processes die."""

import signal

CRASHES = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV"})
"""Those that a process brings upon itself."""


def name_of_signal(number: int) -> str:
    """Name of the signal of this number."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
