"""Telemetry that every process writes: log lines, as JSON or as text on a terminal."""
