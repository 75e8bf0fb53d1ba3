"""Symmetric matrices that are defined by their products with vectors."""
