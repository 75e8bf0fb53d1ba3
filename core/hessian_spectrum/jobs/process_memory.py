"""How much memory processes hold."""

from pathlib import Path

_PROC = Path("/proc")


def resident_bytes(pid: int) -> int:
    """Of a process and all of its children, pages that they share counted in each; 0 where there is no /proc."""
    total = 0
    try:
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total = 1024 * int(line.split()[1])
        tasks = list((_PROC / str(pid) / "task").iterdir())
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return total
    return total + sum(resident_bytes(int(child)) for child in children)
