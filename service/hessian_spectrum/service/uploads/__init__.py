"""Uploaded arrays and tokens, which are untrusted until this package has checked them."""
