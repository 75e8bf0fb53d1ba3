"""Curves, moments and extremes of many matrices of one dimension together, from Lanczos runs of one length.

The numbers are those of `curves`, `error_bands` and `estimates` up to rounding. There, each operation treats one rule;
here, one operation treats those of all matrices, whose arrays have a leading axis. For small matrices this takes a
tenth of the time.
"""
