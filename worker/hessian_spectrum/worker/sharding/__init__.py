"""How the probes of a long spectrum are computed by several workers at once."""
