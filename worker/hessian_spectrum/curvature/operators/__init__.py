"""Matrices known by their products."""
