"""The computations of jobs: points at which spectra are computed, and the results made from them."""
