"""What service and workers share of a job: its record in Redis, its queue and its result."""
