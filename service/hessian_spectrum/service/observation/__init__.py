"""What operators see of a service: lines, metrics, readiness, checks."""
