"""What every model offers: a function of (parameters, inputs), with no state of its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hessian_spectrum.curvature.parameters import Parameters
from hessian_spectrum.planning.size import Size, generic_size
from hessian_spectrum.quadrature.errors import InvalidProblemError


class Model(ABC):
    """A pure function f(parameters, inputs) -> outputs (..., num_outputs), deterministic and twice differentiable."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Length of the last axis of the outputs: regression targets, classes or vocabulary."""

    @property
    @abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter by name, in the order of the flat vector."""

    @abstractmethod
    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Random parameters, drawn in float64 on the CPU and then cast.

        Precisions and devices so start from the same numbers.

        Args:
            generator: A CPU generator, which moves on.
        """

    @abstractmethod
    def check_inputs(self, inputs: Tensor) -> None:
        """Make sure that the model is defined on `inputs`.

        Raises:
            InvalidProblemError: Says what does not fit.
        """

    def size_on(self, inputs: Tensor) -> Size:
        """Parameters, and the numbers that one forward pass over `inputs` produces; counted, unless a model knows."""
        parameters = {name: torch.empty(shape, device="meta") for name, shape in self.parameter_shapes.items()}
        numbers = inputs.to("meta", torch.float32 if inputs.is_floating_point() else inputs.dtype)
        with _Counter() as counter:
            self(parameters, numbers)
        num_parameters = sum(each.numel() for each in parameters.values())
        return generic_size(num_parameters, len(inputs), -(-(inputs.numel() + counter.count) // len(inputs)))

    @abstractmethod
    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs (*sample axes, num_outputs)."""

    @property
    def head_name(self) -> str | None:
        """Of the weight W (num_outputs, d) of an output layer, outputs = features @ W^T; None: it is like other layers.

        Models with many outputs have one, so that not all of them need to exist at once.
        """
        return None

    def features(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """What the output layer reads (*sample axes, d); without one the outputs."""
        return self(parameters, inputs)

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Factor on the learning rate of each parameter by name: 1, unless the parametrisation says otherwise."""
        return dict.fromkeys(self.parameter_shapes, 1.0)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hook without types
    """Counts the numbers of all tensors that operations make, views apart."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.count += sum(each.numel() for each in tree_leaves(made) if isinstance(each, Tensor))
        return made


def check_real_inputs(inputs: Tensor, kind: str, *shape: int | str) -> None:
    """Make sure that `inputs` are finite real numbers of this shape; a letter stands for any length of at least 1.

    Raises:
        InvalidProblemError: Says what does not fit.
    """
    fits = inputs.ndim == len(shape) and all(
        have >= 1 if isinstance(wanted, str) else have == wanted
        for have, wanted in zip(inputs.shape, shape, strict=True)
    )
    if not fits or not inputs.is_floating_point():
        wanted = f"({', '.join(map(str, shape))})"
        found = f"{tuple(inputs.shape)} of {inputs.dtype}"
        raise InvalidProblemError(f"{kind} inputs must be real numbers {wanted}, not {found}")
    if not bool(inputs.isfinite().all()):
        raise InvalidProblemError(f"{kind} inputs hold NaN or infinity")


def check_tokens(inputs: Tensor, kind: str, vocab_size: int, n_positions: int) -> None:
    """Make sure that `inputs` are int64 tokens (n, T) in 0 .. vocab_size - 1 with 1 <= T <= n_positions.

    Raises:
        InvalidProblemError: Says what does not fit.
    """
    if inputs.ndim != 2 or inputs.dtype != torch.int64:
        raise InvalidProblemError(
            f"{kind} inputs must be int64 tokens (n, T), not {tuple(inputs.shape)} {inputs.dtype}"
        )
    if not 1 <= inputs.shape[1] <= n_positions:
        raise InvalidProblemError(f"sequences of {inputs.shape[1]} tokens, but n_positions is {n_positions}")
    if inputs.numel() and (int(inputs.min()) < 0 or int(inputs.max()) >= vocab_size):
        raise InvalidProblemError(f"tokens outside 0 .. {vocab_size - 1} (vocab_size {vocab_size})")
