"""The interface of all methods that compute a spectrum by matrix-vector products."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol, Self

from hessian_spectrum.curvature.iteration import Iteration, Result, State
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator
from hessian_spectrum.planning.work import Work
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


class Spectrum(Protocol):
    """The part that the results of all methods have in common."""

    @property
    def num_products(self) -> int:
        """Number of matrix-vector products computed."""


class Method(Iteration[SymmetricOperator, State, Result]):
    """A method that computes a spectrum of a symmetric operator; `curvature.iteration.run` runs it.

    Attributes:
        may_end_early: Whether the method may finish before the total of its `count`.
    """

    phase: ClassVar[str] = "products"
    may_end_early: ClassVar[bool] = False

    @abstractmethod
    def cost(self, num_parameters: int) -> Work:
        """Return the largest number of products, memory and other work of the method for so many parameters."""

    def split(self, num_shards: int) -> "Sequence[Self]":
        """Return methods whose finished states `join` combines; each may run in a separate process.

        Args:
            num_shards: Number of methods, >= 1; more than 1 only if the products of the method are independent.

        Raises:
            InvalidProblemError: If the method cannot be split.
        """
        if num_shards != 1:
            raise InvalidProblemError(f"{type(self).__name__} cannot be split into {num_shards} shards")
        return [self]

    def interim(self, problem: SymmetricOperator, states: Sequence[State]) -> Result | None:
        """Return what unfinished states of some shards say of the spectrum; None if that is nothing, the default.

        Args:
            problem: The matrix.
            states: State of each shard that has begun, which stays as it is.
        """
        return None

    def join(self, states: Sequence[State]) -> State:
        """Return the finished state of this method from those of its shards, in their order."""
        (state,) = states
        return state
