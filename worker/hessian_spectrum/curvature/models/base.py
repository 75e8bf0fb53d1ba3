"""The interface of all models: named parameters with their layout, activations, and outputs as a pure function."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from math import prod
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from hessian_spectrum.planning.activations import ACTIVATIONS, DEFAULT_NEGATIVE_SLOPE
from hessian_spectrum.planning.size import Size, generic_size
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Parameters = dict[str, Tensor]

GROUP_COLUMNS = 256  # fewer than these are not worth a recording of their own

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ParameterLayout:
    """Order and shape of the parameters inside the flat vector theta (P,)."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> "ParameterLayout":
        """Return the layout of parameters of these shapes, in the order of the mapping."""
        return cls(tuple(shapes), tuple(shapes.values()))

    @property
    def sizes(self) -> list[int]:
        """Number of entries of each parameter."""
        return [prod(shape) for shape in self.shapes]

    @property
    def dim(self) -> int:
        """Number P of entries of all parameters."""
        return sum(self.sizes)

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return one vector (P,) in the order of `names`.

        Args:
            parameters: Parameters by name, of the layout's shapes.

        Returns:
            The flat vector.

        Raises:
            InvalidProblemError: If names or shapes differ from the layout.
        """
        self.check(parameters)
        return torch.cat([parameters[name].reshape(-1) for name in self.names])

    def check(self, parameters: Mapping[str, Tensor]) -> None:
        """Check that names and shapes are those of the layout.

        Args:
            parameters: Parameters by name.

        Raises:
            InvalidProblemError: If names or shapes differ; the message says which.
        """
        if set(parameters) != set(self.names):
            raise InvalidProblemError(f"expected parameters {sorted(self.names)}, not {sorted(parameters)}")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if tuple(parameters[name].shape) != shape:
                raise InvalidProblemError(f"{name} has shape {tuple(parameters[name].shape)}, not {shape}")

    def unflatten(self, vector: Tensor) -> Parameters:
        """Return views of `vector` (P,) by name."""
        # split, not slices: its backward is one cat, that of slices one zero-padded vector (P,) per parameter
        pieces = torch.split(vector, self.sizes)
        return {name: piece.view(shape) for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)}


def select(names: Iterable[str], globs: str | Sequence[str] | None) -> list[str]:
    """Return the names that match a glob (*, ?, [...]; case-sensitive), or one of several, in their order.

    Args:
        names: Names of all parameters.
        globs: One glob or several; None selects all names.

    Returns:
        The matching names.

    Raises:
        InvalidProblemError: If no name matches.
    """
    names = list(names)
    if globs is None:
        return names
    patterns = [globs] if isinstance(globs, str) else globs
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise InvalidProblemError(f"no parameter matches {globs!r}; the parameters are {', '.join(names[:20])}")
    return chosen


@dataclass(frozen=True)
class ColumnGroup:
    """Neighbouring parameters whose columns are computed together."""

    columns: ParameterLayout  # parameters of the group
    rows: ParameterLayout  # all parameters up to the last one of the group

    @property
    def start(self) -> int:
        """First column."""
        return self.rows.dim - self.columns.dim

    @property
    def stop(self) -> int:
        """Index after the last column."""
        return self.rows.dim

    @property
    def num_columns(self) -> int:
        """Number of columns of the group."""
        return self.columns.dim


def column_groups(layout: ParameterLayout) -> list[ColumnGroup]:
    """Return all columns, in order, in groups of whole parameters."""
    groups: list[ColumnGroup] = []
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    group: dict[str, tuple[int, ...]] = {}
    done: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        group[name] = done[name] = shape
        if ParameterLayout.of(group).dim >= GROUP_COLUMNS or len(done) == len(shapes):
            groups.append(ColumnGroup(ParameterLayout.of(group), ParameterLayout.of(done)))
            group = {}
    return groups


def activation_named(name: str, negative_slope: float = DEFAULT_NEGATIVE_SLOPE) -> Activation:
    """Return an elementwise activation function by its name; gelu is the exact one, with the error function.

    Args:
        name: One of `planning.activations.ACTIVATIONS`.
        negative_slope: Slope of leaky-relu below and at 0, any finite number; other activations ignore it.

    Returns:
        The function.

    Raises:
        InvalidProblemError: If the name is unknown, or the slope is not finite.
    """
    if name not in ACTIVATIONS:
        raise InvalidProblemError(f"unknown activation {name!r}: must be one of {', '.join(ACTIVATIONS)}")
    if not abs(negative_slope) < float("inf"):
        raise InvalidProblemError(f"the negative slope must be finite, not {negative_slope}")
    activation = ACTIVATIONS[name]
    if isinstance(activation.function, str):
        function: Callable[..., Tensor] = attrgetter(activation.function)(torch)
    else:
        function = partial(activation.function, torch)
    return partial(function, negative_slope=negative_slope) if activation.has_slope else function


class Model(ABC):
    """A pure, deterministic and twice differentiable function f(parameters, inputs) -> outputs (..., num_outputs)."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Length of the last axis of the outputs: number of regression targets, classes or tokens."""

    @property
    @abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter by name, in the order of the flat vector."""

    @property
    def fixed_size(self) -> int | None:
        """The one number of samples on which the model is defined; None if it is any."""
        return None

    @property
    def is_built_in(self) -> bool:
        """Whether the operators of the model are known, and with them the rounding of their derivatives."""
        return True

    @abstractmethod
    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Return random parameters, which are drawn in float64 on the CPU and then cast.

        Args:
            generator: CPU generator, which advances.
            dtype: Precision of the parameters.
            device: Device of the parameters.
        """

    @abstractmethod
    def check_inputs(self, inputs: Tensor) -> None:
        """Check that the model is defined on `inputs`.

        Raises:
            InvalidProblemError: If it is not; the message says why.
        """

    def size_on(self, inputs: Tensor) -> Size:
        """Return the number of parameters, and how many numbers a forward pass over `inputs` produces.

        They are counted by a forward pass on the meta device; a model may override this with a formula.

        Args:
            inputs: Inputs of the forward pass.

        Returns:
            The size.
        """
        parameters = {name: torch.empty(shape, device="meta") for name, shape in self.parameter_shapes.items()}
        numbers = tree_map(lambda each: each.to("meta", torch.float32 if each.is_floating_point() else None), inputs)
        with _Counter() as counter:
            self(parameters, numbers)
        num_parameters = sum(each.numel() for each in parameters.values())
        leaves = tree_leaves(inputs)
        num_samples, num_inputs = len(leaves[0]), sum(each.numel() for each in leaves)
        return generic_size(num_parameters, num_samples, -(-(num_inputs + counter.count) // num_samples))

    def sample_shape(self, inputs: Tensor) -> tuple[int, ...]:
        """Return the axes of the outputs without the last one: those of tokens (n, T), or of vectors (n, d) without d.

        Args:
            inputs: Inputs of a forward pass.

        Returns:
            The lengths of the axes.
        """
        return tuple(inputs.shape[:-1] if inputs.is_floating_point() else inputs.shape)

    @abstractmethod
    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the outputs (*sample axes, num_outputs)."""

    @property
    def head_name(self) -> str | None:
        """Name of the weight W (num_outputs, d) of an output layer, outputs = features @ W^T; None if there is none.

        Models with many outputs have such a layer, so that not all outputs need to be in memory at once.
        """
        return None

    def features(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the inputs of the output layer (*sample axes, d), or the outputs if there is no output layer."""
        return self(parameters, inputs)

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Return the factor on the learning rate of each parameter, by name; it is 1 by default."""
        return dict.fromkeys(self.parameter_shapes, 1.0)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the entries of all tensors that operations create, except views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.count += sum(each.numel() for each in tree_leaves(result) if isinstance(each, Tensor))
        return result


def check_real_inputs(inputs: Tensor, kind: str, *shape: int | str) -> None:
    """Check that inputs are finite real numbers of a shape.

    Args:
        inputs: Inputs of a model.
        kind: Name of the model for the message.
        *shape: Length of each axis; a letter stands for any length of at least 1.

    Raises:
        InvalidProblemError: If they are not; the message says why.
    """
    has_shape = inputs.ndim == len(shape) and all(
        length >= 1 if isinstance(expected, str) else length == expected
        for length, expected in zip(inputs.shape, shape, strict=True)
    )
    if not has_shape or not inputs.is_floating_point():
        message = f"{kind} inputs must be real numbers ({', '.join(map(str, shape))})"
        raise InvalidProblemError(f"{message}, not {tuple(inputs.shape)} of {inputs.dtype}")
    if not bool(inputs.isfinite().all()):
        raise InvalidProblemError(f"{kind} inputs hold NaN or infinity")


def check_tokens(inputs: Tensor, kind: str, *, vocab_size: int, n_positions: int) -> None:
    """Check that inputs are int64 tokens (n, T) in 0 .. vocab_size - 1, with 1 <= T <= n_positions.

    Args:
        inputs: Inputs of a language model.
        kind: Name of the model for the message.
        vocab_size: Number of tokens.
        n_positions: Largest length T of a sequence.

    Raises:
        InvalidProblemError: If they are not; the message says why.
    """
    if inputs.ndim != 2 or inputs.dtype != torch.int64:
        raise InvalidProblemError(
            f"{kind} inputs must be int64 tokens (n, T), not {tuple(inputs.shape)} {inputs.dtype}"
        )
    if not 1 <= inputs.shape[1] <= n_positions:
        raise InvalidProblemError(f"sequences of {inputs.shape[1]} tokens, but n_positions is {n_positions}")
    if inputs.numel() and (int(inputs.min()) < 0 or int(inputs.max()) >= vocab_size):
        raise InvalidProblemError(f"tokens outside 0 .. {vocab_size - 1} (vocab_size {vocab_size})")
