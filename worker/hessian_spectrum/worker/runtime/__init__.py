"""The runtime of jobs: Celery, leases, memory limits, and recovery from processes that die."""
