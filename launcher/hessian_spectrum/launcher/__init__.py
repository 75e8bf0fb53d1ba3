"""The complete stack on one machine with one command; it starts processes that load torch without loading it."""
