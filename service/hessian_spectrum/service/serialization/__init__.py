"""Results of jobs as JSON, npz and plots, and their curves with another smoothing."""
