"""The process that computes: the only one that loads torch."""

import os

# Read by OpenMP when torch is loaded. Threads that spin while they wait bring a job to a near halt as soon as another
# process wants a core: 26 s instead of 0.5 s for 160 small products with 2 threads on 2 cores, one of them busy.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
