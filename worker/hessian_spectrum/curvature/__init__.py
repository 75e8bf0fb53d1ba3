"""Curvature of the loss: spectra of Hessians of deep networks, computed."""
