"""Costs of the server's responses; each is measured together with its comparison, in one run on one machine."""

import os

# One thread, as in the service, also for the comparisons. It must be set before numpy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
