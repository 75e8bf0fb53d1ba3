"""Elementwise nonlinearities of networks: all that is known of an activation is in its entry of `ACTIVATIONS`.

Messages, estimates and the engine read them. The service has no torch, so functions of torch are given by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Operation = Literal["piecewise", "smooth", "products"]
"""Sorts of the operations of which activations consist, as in `size.SORTS`."""

DEFAULT_NEGATIVE_SLOPE = 0.01
"""PyTorch's slope of leaky-relu."""


@dataclass(frozen=True)
class Activation:
    """An elementwise map phi, twice differentiable except at single points.

    Attributes:
        function: Name of a function in torch, such as "nn.functional.gelu". It is called as function(x), or as
            function(x, negative_slope=...) if it has a slope, with a tensor x of any shape, and returns phi(x) of the
            same shape; its derivative must support forward-mode differentiation. Where torch has no such function, a
            Python function of (torch, x).
        operations: Sorts of the operations that take at least as much memory, each with one result for each number; by
            default those of the activation that takes most.
        has_slope: Whether the field `negative_slope` of a request has an effect on it.
    """

    function: str | Callable[..., Any]
    operations: tuple[Operation, ...] = ("smooth", "products", "products")
    has_slope: bool = False


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda torch, x: x, operations=()),
    "relu": Activation("relu", operations=("piecewise",)),
    "leaky-relu": Activation("nn.functional.leaky_relu", operations=("piecewise",), has_slope=True),
    "tanh": Activation("tanh", operations=("smooth",)),
    "gelu": Activation("nn.functional.gelu", operations=("smooth", "piecewise")),
    # torch.nn.functional.silu has a backward without a forward derivative (PyTorch 2.13)
    "silu": Activation(lambda torch, x: x * torch.sigmoid(x)),
    "sigmoid": Activation("sigmoid", operations=("smooth",)),
}
