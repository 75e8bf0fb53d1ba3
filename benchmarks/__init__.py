"""What the server's answers cost, each measured beside what it is compared with, in one run on one machine."""

import os

# One thread, as in the service, for what it is compared with too. It must be set before numpy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
