"""A worker that was told to stop is gone soon, whatever holds it up."""

import os
import subprocess
import sys
import time

PROGRAM = """
import time
from worker.app import end_in_any_case
end_in_any_case(0.5)
time.sleep(60)
"""


def test_a_worker_that_cannot_stop_ends_all_the_same() -> None:
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", PROGRAM], check=False, timeout=50)
    assert ended.returncode == os.EX_TEMPFAIL
    assert time.monotonic() - started < 40
