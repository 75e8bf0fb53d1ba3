"""Background tasks of a service: lost jobs are queued again, expired results are removed."""
