"""Exceptions of the closed forms and random-matrix laws."""


class TheoryError(ValueError):
    """A formula cannot be evaluated: the input has a wrong shape, is not finite, is outside the domain, or overflows.

    Attributes:
        field: Name of the invalid argument; None if the cause is a combination of arguments.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field
