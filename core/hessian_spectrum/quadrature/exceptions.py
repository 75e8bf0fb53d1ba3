"""Exceptions of the numerical engine, in one tree that each caller translates in one place."""


class CurvatureError(Exception):
    """Base of every error that the engine raises deliberately."""


class InvalidProblemError(CurvatureError):
    """Model, data, loss or options are inconsistent: shapes, labels, tokens or counts."""


class NonFiniteError(CurvatureError):
    """A loss, gradient or product is NaN or infinite."""
