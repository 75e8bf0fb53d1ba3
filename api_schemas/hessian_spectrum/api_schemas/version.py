"""The version of every distribution of this project, which are released together."""

__version__ = "0.2.0"
