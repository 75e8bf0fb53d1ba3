"""Convolutional networks on small square images."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from math import prod, sqrt

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hessian_spectrum.curvature.models.base import Model, Parameters, activation_named, check_real_inputs
from hessian_spectrum.planning.activations import DEFAULT_NEGATIVE_SLOPE
from hessian_spectrum.planning.size import Size, conv_edge, conv_size
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


@dataclass(frozen=True)
class Conv(Model):
    """A convolutional network without batch norm on square images of one channel.

    Each convolution is followed by phi, and perhaps by a mean over 2 x 2 pixels; a linear layer follows the last one.

    Convolutions are padded with zeros to ceil(edge / stride) positions along an edge. An image is a row of image_size^2
    pixels.

    Its parameters are "conv.{l}.weight" (channels, channels before, kernel_size, kernel_size), "conv.{l}.bias"
    (channels,), "head.weight" (num_outputs, channels * positions) and "head.bias" (num_outputs,), as in torch.nn.

    Args:
        channels: Number of output channels of each convolution; at least one convolution.
        kernel_size: Edge of the kernel in pixels, odd.
        stride: Pixels between neighbouring positions.
        pooling: Whether a mean over 2 x 2 pixels follows each phi; a last odd row or column is left out.
        activation: Name of phi, one of `planning.activations.ACTIVATIONS`.
        bias: Whether layers have biases.
        negative_slope: Slope of leaky-relu for negative inputs.
        image_size: Edge of the images in pixels.
        num_classes: Number of outputs.

    Raises:
        InvalidProblemError: If a count is below 1, the kernel is even, the activation is unknown, or pooling leaves no
            pixel.
    """

    channels: tuple[int, ...]
    _: KW_ONLY
    kernel_size: int = 3
    stride: int = 1
    pooling: bool = False
    activation: str = "relu"
    bias: bool = True
    negative_slope: float = DEFAULT_NEGATIVE_SLOPE
    image_size: int = 8
    num_classes: int = 10

    def __post_init__(self) -> None:
        counts = (*self.channels, self.kernel_size, self.stride, self.image_size, self.num_classes)
        if not self.channels or min(counts) < 1:
            raise InvalidProblemError(
                "a conv network needs at least one convolution, and every count must be at least 1"
            )
        if self.kernel_size % 2 == 0:
            raise InvalidProblemError(f"the kernel's edge must be odd, not {self.kernel_size}")
        activation_named(self.activation, self.negative_slope)
        if min(self.edges) < 1:
            raise InvalidProblemError(
                f"no pixel of {self.image_size} is left after {len(self.channels)} convolutions and poolings"
            )

    @property
    def num_outputs(self) -> int:
        """Number of classes."""
        return self.num_classes

    @property
    def edges(self) -> list[int]:
        """Number of positions along an edge after each convolution and its pooling."""
        edges = [self.image_size]
        for _ in self.channels:
            edge = conv_edge(edges[-1], self.stride)
            edges.append(edge // 2 if self.pooling else edge)
        return edges[1:]

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of weight and bias, layer by layer."""
        shapes: dict[str, tuple[int, ...]] = {}
        for index, (incoming, outgoing) in enumerate(zip((1, *self.channels[:-1]), self.channels, strict=True)):
            shapes[f"conv.{index}.weight"] = (outgoing, incoming, self.kernel_size, self.kernel_size)
            shapes[f"conv.{index}.bias"] = (outgoing,)
        shapes["head.weight"] = (self.num_outputs, self.channels[-1] * self.edges[-1] ** 2)
        shapes["head.bias"] = (self.num_outputs,)
        return {name: shape for name, shape in shapes.items() if self.bias or name.endswith("weight")}

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Return weights and biases that are uniform in +-1/sqrt(fan_in), as in torch.nn."""
        shapes = self.parameter_shapes
        parameters = {}
        for name, shape in shapes.items():
            fan_in = prod(shapes[name.removesuffix("bias").removesuffix("weight") + "weight"][1:])
            uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
            parameters[name] = ((2 * uniform - 1) / sqrt(fan_in)).to(dtype=dtype, device=device)
        return parameters

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are finite real numbers (n, image_size^2)."""
        check_real_inputs(inputs, "conv", "n", self.image_size**2)

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size, with patches, pre- and post-activations of every layer, inputs included."""
        return conv_size(
            image_size=self.image_size,
            channels=self.channels,
            kernel_size=self.kernel_size,
            stride=self.stride,
            pooling=self.pooling,
            num_outputs=self.num_outputs,
            bias=self.bias,
            num_samples=inputs.shape[0],
            activation=self.activation,
        )

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return outputs (n, num_outputs) for inputs (n, image_size^2)."""
        activation = activation_named(self.activation, self.negative_slope)
        images = inputs.reshape(-1, 1, self.image_size, self.image_size)
        for index in range(len(self.channels)):
            images = activation(self._convolution(parameters, index, images))
            images = F.avg_pool2d(images, 2) if self.pooling else images
        return F.linear(images.flatten(1), parameters["head.weight"], parameters.get("head.bias"))

    def _convolution(self, parameters: Mapping[str, Tensor], index: int, images: Tensor) -> Tensor:
        # not F.conv2d: vmap over its linearised gradient fails (PyTorch 2.13: view of a tensor that is not contiguous)
        weight, bias = parameters[f"conv.{index}.weight"], parameters.get(f"conv.{index}.bias")
        patches = F.unfold(images, self.kernel_size, padding=self.kernel_size // 2, stride=self.stride)
        values = weight.flatten(1) @ patches
        if bias is not None:
            values = values + bias.unsqueeze(-1)
        edge = conv_edge(images.shape[-1], self.stride)
        return values.reshape(images.shape[0], weight.shape[0], edge, edge)


MODELS = {"conv": Conv}
