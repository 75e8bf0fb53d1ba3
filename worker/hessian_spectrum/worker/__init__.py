"""The process that computes: the only one that loads torch."""

import os

# Read by OpenMP when torch is loaded. Threads that spin while they wait bring a job to a near halt as soon as another
# process wants a core: 26 s instead of 0.5 s for 160 small products with 2 threads on 2 cores, one busy. Threads
# that sleep at once are slow on an idle machine, where waking a core takes longer than many small operations. Spinning
# for some 50 microseconds before they sleep costs little in the first case and gains nearly everything in the second.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
