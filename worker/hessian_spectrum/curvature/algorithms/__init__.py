"""Algorithms that see an abstract operator only."""
