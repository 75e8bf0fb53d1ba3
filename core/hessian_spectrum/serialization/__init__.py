"""Conversion between arrays and the messages and files that carry them, shared by workers and the service."""
