"""One interface for every method that takes a spectrum by matrix-vector products."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol, Self

from hessian_spectrum.curvature.iteration import Iteration, Result, State
from hessian_spectrum.curvature.operators.base import SymmetricOperator
from hessian_spectrum.planning.work import Work
from hessian_spectrum.quadrature.errors import InvalidProblemError


class Spectrum(Protocol):
    """What every method returns, among other things."""

    @property
    def num_products(self) -> int:
        """Matrix-vector products that were computed."""


class Method(Iteration[SymmetricOperator, State, Result]):
    """A method that takes a spectrum of a symmetric operator; `curvature.iteration.run` runs it.

    Attributes:
        may_end_early: Whether a method may finish before the total of its `count`.
    """

    phase: ClassVar[str] = "products"
    may_end_early: ClassVar[bool] = False

    @abstractmethod
    def cost(self, num_parameters: int) -> Work:
        """Return the products, memory and other work that the method takes for so many parameters at most."""

    def split(self, num_shards: int) -> "Sequence[Self]":
        """Return methods whose finished states `join` makes one; each may run in a process of its own.

        Args:
            num_shards: At least 1; more than 1 only of methods whose products are independent.

        Raises:
            InvalidProblemError: If the method cannot be split.
        """
        if num_shards != 1:
            raise InvalidProblemError(f"{type(self).__name__} cannot be split into {num_shards} shards")
        return [self]

    def join(self, states: Sequence[State]) -> State:
        """Return the finished state of this method from those of its shards, in their order."""
        (state,) = states
        return state
