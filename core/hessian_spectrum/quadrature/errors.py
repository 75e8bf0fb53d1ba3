"""The errors of the numerical engine: one tree, translated once by whoever calls it."""


class CurvatureError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidProblemError(CurvatureError):
    """Model, data, loss or options do not fit together: shapes, labels, tokens, counts."""


class NonFiniteError(CurvatureError):
    """A loss, gradient or product came out as NaN or infinity."""
