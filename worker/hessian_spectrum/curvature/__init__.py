"""The computational engine: spectra of Hessians of deep networks."""
