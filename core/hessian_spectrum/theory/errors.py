"""The error tree of the formulas."""


class TheoryError(ValueError):
    """Mathematical input that a formula cannot answer: wrong shape, not finite, outside its domain, or overflowing.

    `field` is the argument that is wrong, None where it takes several to be wrong.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field
