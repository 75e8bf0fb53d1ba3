"""Elementwise nonlinearities of networks: all that is known of an activation is in its entry of `ACTIVATIONS`.

Messages, estimates and the engine read them. The service has no torch, so functions of torch are given by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

ActivationSort = Literal["linear", "piecewise", "tanh", "gelu", "silu", "sigmoid"]
"""Activations whose memory was measured: `memory_coefficients` has the copies of each."""

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
        costs_like: The measured activation that takes at least as much memory; by default the one that takes most.
        has_slope: Whether the field `negative_slope` of a request has an effect on it.
    """

    function: str | Callable[..., Any]
    costs_like: ActivationSort = "silu"
    has_slope: bool = False


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda torch, x: x, costs_like="linear"),
    "relu": Activation("relu", costs_like="piecewise"),
    "leaky-relu": Activation("nn.functional.leaky_relu", costs_like="piecewise", has_slope=True),
    "tanh": Activation("tanh", costs_like="tanh"),
    "gelu": Activation("nn.functional.gelu", costs_like="gelu"),
    # torch.nn.functional.silu has a backward without a forward derivative (PyTorch 2.13)
    "silu": Activation(lambda torch, x: x * torch.sigmoid(x), costs_like="silu"),
    "sigmoid": Activation("sigmoid", costs_like="sigmoid"),
}
