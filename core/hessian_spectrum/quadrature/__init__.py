"""Densities with error bands from the Gauss quadratures of Lanczos runs; requires only numpy."""
