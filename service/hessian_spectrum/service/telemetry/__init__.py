"""Telemetry for operators: metrics, readiness and the checks of `doctor`."""
