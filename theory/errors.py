"""The error tree of the formulas."""


class TheoryError(ValueError):
    """Mathematical input that a formula cannot answer: wrong shape, not finite, outside its domain, or overflowing."""
