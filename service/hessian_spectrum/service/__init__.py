"""The HTTP service. It never imports torch."""

import os

# Requests that run beside each other keep the cores busy. The threads of OpenBLAS wait for one another by spinning:
# with one other busy process on two cores, a reduction that takes 0.3 s took 6 s. It must be set before numpy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
