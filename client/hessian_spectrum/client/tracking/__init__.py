"""Tracking of a training run: parameters go to a directory, and from there to the server."""
