#!/usr/bin/env bash
# NumPy 2.4.6 on Python 3.11.7: np.lib.format.read_array_header_1_0, and so np.load of a .npy file, raises
# "SystemError: AST constructor recursion depth mismatch" now and then when several threads read headers at once. NumPy
# parses the header with ast.literal_eval, and this version of Python keeps one recursion depth for all threads: if a
# garbage collection in the middle of a parse lets another thread go on, as one that closes a file does, the two depths
# are mixed up. A server or a data loader that reads small .npy files in a thread pool loses a file in thousands.
# Seen with Python 3.11.7: 2 to 30 of 24,000 headers, read by 6 threads. None of 24,000 in one thread, or with a lock.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11.7 and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import contextlib
import gc
import io
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

file = io.BytesIO()
np.save(file, np.zeros(2, np.uint16))
content = file.getvalue()


class Cycle:
    """Garbage that closes a file when it is collected."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        os.close(os.open(os.devnull, os.O_RDONLY))


def failures(count, lock):
    """Number of headers of so many that could not be read, and the error."""
    found = []
    for _ in range(count):
        Cycle()
        stream = io.BytesIO(content)
        np.lib.format.read_magic(stream)
        with lock:
            try:
                np.lib.format.read_array_header_1_0(stream)
            except SystemError as error:
                found.append(str(error))
    return found


def together(lock):
    with ThreadPoolExecutor(6) as pool:
        return sum(pool.map(failures, [4000] * 6, [lock] * 6), [])


gc.set_threshold(10)
sys.setswitchinterval(1e-6)
free = contextlib.nullcontext()
alone, locked = failures(24_000, free), together(threading.Lock())
threads = next((found for _ in range(10) if (found := together(free))), [])
print(f"numpy {np.__version__}, Python {sys.version.split()[0]}")
print(f"of 24,000 headers: {len(alone)} fail in one thread, {len(locked)} with a lock, {len(threads)} in six threads")
print(*sorted({message.split(" (")[0] for message in threads}))
same = not alone and not locked and threads and all("recursion depth mismatch" in each for each in threads)
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
