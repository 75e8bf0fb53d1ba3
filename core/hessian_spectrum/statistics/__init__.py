"""Estimates with 95 % intervals from independent samples; for processes with scipy, as the worker's are."""
