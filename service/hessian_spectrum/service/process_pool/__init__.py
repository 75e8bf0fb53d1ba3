"""A pool of processes for expensive requests, which wait in a fair queue and end when their caller disconnects."""
