"""Convolutional networks on small images."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.message import Seed, misfit
from hessian_spectrum.api_schemas.models.kind import (
    ActivationName,
    ModelKind,
    ModelMessage,
    NegativeSlope,
    Shapes,
    settled_slope,
)
from hessian_spectrum.planning.activations import DEFAULT_NEGATIVE_SLOPE
from hessian_spectrum.planning.size import Size, conv_edge, conv_size

IMAGE_EDGE, NUM_CLASSES = 8, 10
"""Edge in pixels of the images that `conv` takes, and number of classes that it tells apart."""


class Conv(ModelMessage):
    """Convolutions on 8 x 8 images (64 pixels a row), each with its activation, then a linear layer to 10 outputs.

    Convolutions are padded with zeros; weights start as PyTorch's do.
    """

    kind: Literal["conv"]
    channels: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        min_length=1, max_length=16, description="The number of output channels of each convolution."
    )
    kernel_size: Literal[1, 3, 5, 7] = Field(default=3, description="Edge length of the square kernels, in pixels.")
    stride: Literal[1, 2] = Field(default=1, description="The stride of every convolution, in pixels.")
    pooling: Literal["none", "mean"] = Field(
        default="none", description="With mean, a mean over 2 x 2 pixels follows every convolution's activation."
    )
    activation: ActivationName = Field(default="relu", description="Activation function after every convolution.")
    negative_slope: NegativeSlope = DEFAULT_NEGATIVE_SLOPE
    bias: bool = Field(default=True, description="Whether convolutions and the linear layer have biases.")
    seed: Seed = Field(default=0, description="Seed of the random weights.")

    def settled(self) -> Mapping[str, Any]:
        """Return the default slope for an activation that does not use it."""
        return settled_slope(self.activation)

    @model_validator(mode="after")
    def _pixels_remain(self) -> Self:
        if self.pooling == "mean" and IMAGE_EDGE // (2 * self.stride) ** len(self.channels) < 1:
            message = f"{len(self.channels)} convolutions of stride {self.stride} with pooling leave nothing of 8 x 8"
            raise misfit("channels", message=message)
        return self


def _parameter_shapes(model: Conv) -> Shapes:
    shapes: Shapes = {}
    edge = IMAGE_EDGE
    for index, (incoming, outgoing) in enumerate(pairwise([1, *model.channels])):
        shapes[f"conv.{index}.weight"] = (outgoing, incoming, model.kernel_size, model.kernel_size)
        shapes[f"conv.{index}.bias"] = (outgoing,)
        edge = conv_edge(edge, model.stride)
        edge = edge // 2 if model.pooling == "mean" else edge
    shapes["head.weight"] = (NUM_CLASSES, model.channels[-1] * edge**2)
    shapes["head.bias"] = (NUM_CLASSES,)
    return {name: size for name, size in shapes.items() if model.bias or name.endswith("weight")}


def _size(model: Conv, num_samples: int, length: int) -> Size:
    return conv_size(
        image_size=IMAGE_EDGE,
        channels=model.channels,
        kernel_size=model.kernel_size,
        stride=model.stride,
        pooling=model.pooling == "mean",
        num_outputs=NUM_CLASSES,
        bias=model.bias,
        num_samples=num_samples,
        activation=model.activation,
    )


def _engine_arguments(model: Conv) -> dict[str, Any]:
    return {
        "channels": tuple(model.channels),
        "kernel_size": model.kernel_size,
        "stride": model.stride,
        "pooling": model.pooling == "mean",
        "activation": model.activation,
        "bias": model.bias,
        "negative_slope": model.negative_slope,
    }


KINDS = (
    ModelKind(
        Conv,
        _parameter_shapes,
        _size,
        example={
            "model": {"kind": "conv", "channels": [2], "stride": 2, "activation": "tanh"},
            "data": {"kind": "digits", "num_samples": 16},
            "loss": "cross-entropy",
        },
        widths=lambda _: (IMAGE_EDGE**2, NUM_CLASSES),
        engine_arguments=_engine_arguments,
        position=2,
    ),
)
