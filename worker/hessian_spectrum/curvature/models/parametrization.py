"""How the layers of a network start, scale and learn as its width grows."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from hessian_spectrum.quadrature.errors import InvalidProblemError


@dataclass(frozen=True)
class Layer:
    """z = weight_scale * W h + b with W (fan_out, fan_in); b (fan_out,) where there is one."""

    fan_in: int
    fan_out: int


class Parametrization(ABC):
    """Initial values, forward scale and learning rates of a layer; all random numbers are float64."""

    @abstractmethod
    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """W (fan_out, fan_in)."""

    @abstractmethod
    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """The bias b (fan_out,)."""

    def weight_scale(self, layer: Layer) -> float:
        """What W h is multiplied by."""
        return 1.0

    def weight_rate(self, layer: Layer) -> float:
        """Factor on the learning rate of W."""
        return 1.0

    def bias_rate(self, layer: Layer) -> float:
        """Factor on the learning rate of b."""
        return 1.0


class Standard(Parametrization):
    """PyTorch's `nn.Linear`: weights and biases uniform in +-1/sqrt(fan_in), one learning rate."""

    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Uniform in +-1/sqrt(fan_in)."""
        return self._uniform(layer, (layer.fan_out, layer.fan_in), generator)

    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Uniform in +-1/sqrt(fan_in)."""
        return self._uniform(layer, (layer.fan_out,), generator)

    def _uniform(self, layer: Layer, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) / sqrt(layer.fan_in)


class Ntk(Parametrization):
    """Neural tangent: W, b ~ N(0, 1) and z = W h / sqrt(fan_in) + b, one learning rate.

    The print of Cracking, appendix D.1.3, scales a layer's output by 1/sqrt of its own width n_l; the source of the
    parametrisation, and we, scale by that of its input. The bias is the source's with beta = 1.

    References:
        Jacot, Gabriel & Hongler, Neural Tangent Kernel, NeurIPS 2018, section 2.
    """

    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Standard normal."""
        return torch.randn(layer.fan_out, layer.fan_in, generator=generator, dtype=torch.float64)

    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Standard normal."""
        return torch.randn(layer.fan_out, generator=generator, dtype=torch.float64)

    def weight_scale(self, layer: Layer) -> float:
        """1 / sqrt(fan_in)."""
        return 1 / sqrt(layer.fan_in)


class MaximalUpdate(Parametrization):
    """muP by the spectral condition: features and their updates keep their size at every width.

    W ~ N(0, s^2) with s = min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in), so that ||W||_2 is of order
    sqrt(fan_out / fan_in); the learning rate of W is multiplied by fan_out / fan_in. A bias is a weight of the constant
    input 1, so fan_in = 1: its learning rate is multiplied by fan_out; it starts at 0, which the condition permits.

    Cracking, appendix D.1.3, prints variance fan_out / fan_in and rate 1 / fan_in, which blows up with the width:
    features grow as sqrt(width) from layer to layer, their updates faster still.

    References:
        Yang, Simon & Bernstein, A Spectral Condition for Feature Learning, arXiv:2310.17813, the spectral
        parametrization.
    """

    def initial_weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Normal with standard deviation min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in)."""
        std = min(1.0, sqrt(layer.fan_out / layer.fan_in)) / sqrt(layer.fan_in)
        return std * torch.randn(layer.fan_out, layer.fan_in, generator=generator, dtype=torch.float64)

    def initial_bias(self, layer: Layer, generator: torch.Generator) -> Tensor:
        """Zeros."""
        return torch.zeros(layer.fan_out, dtype=torch.float64)

    def weight_rate(self, layer: Layer) -> float:
        """fan_out / fan_in."""
        return layer.fan_out / layer.fan_in

    def bias_rate(self, layer: Layer) -> float:
        """fan_out."""
        return float(layer.fan_out)


PARAMETRIZATIONS: dict[str, Parametrization] = {"standard": Standard(), "ntk": Ntk(), "mup": MaximalUpdate()}


def parametrization_named(name: str) -> Parametrization:
    """The parametrisation of that name.

    Raises:
        InvalidProblemError: If there is none.
    """
    if name not in PARAMETRIZATIONS:
        raise InvalidProblemError(f"parametrization {name!r} is none of {', '.join(PARAMETRIZATIONS)}")
    return PARAMETRIZATIONS[name]
