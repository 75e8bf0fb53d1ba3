"""Spectra and laws that have a formula; numpy only, no torch."""
