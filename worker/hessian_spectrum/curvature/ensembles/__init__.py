"""Many networks of one shape at once: training, spectra, and the statistics of their weights."""
