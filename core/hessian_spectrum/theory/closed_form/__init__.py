"""Hessian spectra that have a formula, one family a file."""
