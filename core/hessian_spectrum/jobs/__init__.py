"""The parts of a job that service and workers share: its record in Redis, its queue and its result."""
