"""What operators see of a service: access log, metrics, readiness and the checks of `doctor`."""
