"""Results as JSON, npz and pictures."""
