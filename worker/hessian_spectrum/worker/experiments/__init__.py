"""What jobs compute: points where spectra are taken, and the results made of them."""
