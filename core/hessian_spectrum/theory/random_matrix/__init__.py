"""Limiting eigenvalue distributions of random matrices and of their free sums."""
