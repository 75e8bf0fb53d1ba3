"""The HTTP service. It never imports torch."""
