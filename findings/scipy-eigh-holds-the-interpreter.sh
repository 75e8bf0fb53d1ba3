#!/usr/bin/env bash
# SciPy 1.17.1 with NumPy 2.4.6: scipy.linalg.eigh holds the lock of the interpreter until LAPACK is done, whatever the
# driver, so that no other thread of the process runs; numpy.linalg.eigvalsh releases it for the same problem. With the
# eigenvalues of a symmetric matrix of 2,000 rows, the longest time for which another thread did not run was:
#   scipy.linalg.eigh, drivers evr and evd: all of the call; numpy.linalg.eigvalsh: a small part of it.
# A program that renews a lease or shows progress in a thread stands still meanwhile: for hours with 50,000 rows.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check scipy==1.17.1 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys
import threading
import time

import numpy as np
import scipy
from scipy.linalg import eigh

matrix = np.random.default_rng(0).standard_normal((2000, 2000))
matrix += matrix.T
times, ended = [], threading.Event()


def tick():
    while not ended.wait(0.001):
        times.append(time.monotonic())


def longest_pause(compute):
    """Longest time without the other thread, as a share of the call."""
    started = time.monotonic()
    compute()
    stopped = time.monotonic()
    known = [started, *(each for each in times if started < each < stopped), stopped]
    return max(np.diff(known)) / (stopped - started)


threading.Thread(target=tick, daemon=True).start()
shares = {
    "scipy evr": longest_pause(lambda: eigh(matrix, eigvals_only=True, driver="evr")),
    "scipy evd": longest_pause(lambda: eigh(matrix, eigvals_only=True, driver="evd")),
    "numpy": longest_pause(lambda: np.linalg.eigvalsh(matrix)),
}
ended.set()
print(f"scipy {scipy.__version__}:", ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
same = min(shares["scipy evr"], shares["scipy evd"]) > 0.8 and shares["numpy"] < 0.5
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
