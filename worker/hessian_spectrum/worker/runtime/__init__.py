"""How jobs reach the code that computes: Celery, leases, memory limits, and what happens when a process dies."""
