"""Figures 4, 14 to 22 and 26 of Cracking the Hessian: what sharpness and trace correlate with over many networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hessian_spectrum.api_schemas.figures.kind import Figure, FigureParameters, Measurement, MeasurementCost
from hessian_spectrum.api_schemas.figures.lists import ascending, distinct
from hessian_spectrum.api_schemas.message import RequestMessage, Seed, misfit

Activation = Literal["linear", "relu"]
Parametrization = Literal["standard", "mup", "ntk"]
SharedData = Literal["all", "teacher", "none"]
Reduction = Literal["half-sum", "mean"]
MupRates = Literal["fan-in", "spectral"]
OpenChoice = Literal["shared_data", "reduction", "mup_rates", "teacher_scale", "patience", "large_mup_dim"]

Dim = Annotated[int, Field(ge=1, le=200)]
Depth = Annotated[int, Field(ge=2, le=8)]
Parametrizations = Annotated[list[Parametrization], AfterValidator(distinct)]

OTHER_TEACHER_SCALE = 3.0
"""Factor by which the scale of the teacher is larger where it is varied."""

_PARAMETRIZATIONS = (
    "Initial weights, scales and learning rates of the layers: PyTorch's default (`standard`), the maximal update "
    "parametrization (`mup`) or the neural tangent parametrization (`ntk`). Each has two panels."
)

_VARIED = (
    "Parameters that the source leaves open. For each of them, the points are also computed with another value, and "
    "the verdicts are given for both."
)


class Training(RequestMessage):
    """Data of the networks, and how they are trained."""

    num_samples: int = Field(default=1024, ge=8, le=20_000, description="Number of samples in a data set.")
    batch_size: int = Field(default=128, ge=1, le=20_000, description="Number of samples in a training step.")
    patience: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="Number of epochs without improvement that a plateau has; after one more, the learning rate is cut "
        "to a tenth.",
    )
    threshold: float = Field(
        default=1e-4,
        ge=0,
        lt=1,
        description="Decrease of the loss, relative to the lowest one, that counts as an improvement.",
    )
    min_learning_rate: float = Field(
        default=1e-5, gt=0, le=1, description="Smallest base learning rate; training ends at the first plateau with it."
    )
    max_epochs: int = Field(
        default=2000, ge=1, le=100_000, description="Largest number of epochs; training ends there without a plateau."
    )
    noise: float = Field(default=0.1, ge=0, le=10, description="Standard deviation of the noise of the targets.")
    teacher_scale: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="Scale of the teacher. The entries of its matrix are normal with standard deviation "
        "teacher_scale / sqrt(D).",
    )
    shared_data: SharedData = Field(
        default="all",
        description="What the networks of a point share: one data set (`all`), one teacher with a data set for each "
        "network (`teacher`), or nothing (`none`).",
    )
    reduction: Reduction = Field(
        default="half-sum",
        description="Loss of a sample in training: half the sum of the squared errors over the outputs, or their mean, "
        "which has 2/D times the gradient.",
    )
    mup_rates: MupRates = Field(
        default="fan-in",
        description="Learning rate of a layer in the maximal update parametrization: the base rate divided by fan_in, "
        "as printed, or multiplied by fan_out / fan_in (`spectral`).",
    )


class TrainedNetworks(Measurement):
    """Sharpness, trace and norms of the weights of many networks, at initialization and after training."""

    kind: Literal["trained-networks"] = "trained-networks"
    activation: Activation = Field(description="Activation function of the hidden layers.")
    parametrization: Parametrization = Field(description="Initial weights, scales and learning rates of the layers.")
    depth: Depth = Field(description="Number B of weight matrices.")
    width: int = Field(ge=1, le=1000, description="Width of the hidden layers.")
    dim: Dim = Field(description="Number D of inputs, and of outputs.")
    learning_rate: float = Field(gt=0, le=100, description="Base learning rate at the start of training.")
    num_networks: int = Field(ge=3, le=10_000, description="Number of networks at each point.")
    training: Training = Field(description="Data and training of the networks.")
    seed: Seed = Field(description="Seed of the weights, the data and the order of samples.")

    @property
    def num_parameters(self) -> int:
        """Number of weights of a network."""
        return self.width * (2 * self.dim + (self.depth - 2) * self.width)

    @property
    def has_trace(self) -> bool:
        """Whether trace and Gauss-Newton matrix are measured, too: of linear networks of two layers."""
        return self.activation == "linear" and self.depth == 2

    @property
    def expected_epochs(self) -> float:
        """Number of passes until the plateau at the smallest rate, as measured at width 100."""
        rate = self.learning_rate * (1.0 if self.training.reduction == "half-sum" else 2 / self.dim)
        epochs = 100.0 + 5 * self.dim
        if self.parametrization == "ntk":
            epochs += 0.55 * self.dim / rate
        elif self.parametrization == "mup" and self.training.mup_rates == "fan-in":
            epochs += 0.75 * self.dim / rate
        epochs *= max(1, self.depth - 2)
        return min(float(self.training.max_epochs), epochs)

    @property
    def cost(self) -> MeasurementCost:
        """The predicted cost: mostly that of training."""
        training, size = self.training, self.num_networks
        passes = self.expected_epochs * size
        steps = passes * -(-training.num_samples // training.batch_size)
        seconds = 0.3 + steps * self._seconds_of_step + _NUM_PRODUCTS * size * self._seconds_of_product
        numbers = size * training.num_samples * 2 * self.dim * (1 if training.shared_data == "all" else 2)
        numbers += 12 * size * self.num_parameters + 2**21
        return MeasurementCost(
            num_parameters=self.num_parameters,
            num_products=_NUM_PRODUCTS * size,
            num_training_passes=passes,
            peak_bytes=8 * numbers,
            seconds=seconds + (0.2 if self.has_trace else 0.0),
        )

    @property
    def _seconds_of_step(self) -> float:
        """Time of a step of one network, fitted on two cores."""
        batch, hidden = self.training.batch_size, self.width * (self.depth - 1)
        if self.activation == "relu":
            return 1.5e-5 + 6 * batch * self.num_parameters / 2e10 + 7e-9 * batch * hidden
        moments = 0 if self.training.shared_data == "all" else 4 * batch * self.dim**2
        return 1e-5 + (6 * self.dim * self.num_parameters / 2 + moments) / 2e10

    @property
    def _seconds_of_product(self) -> float:
        """Time of a product of one network's Hessian, fitted on two cores; linear networks need D samples only."""
        samples = self.training.num_samples if self.activation == "relu" else self.dim
        return 2e-5 + samples * (12 * self.num_parameters / 1.5e10 + 5e-9 * self.width * (self.depth - 1))


_NUM_PRODUCTS = 60
"""Products of each network, at both ends of training."""


class CorrelationParameters(Training, FigureParameters):
    """Parameters that all figures of correlations have, those of data and training among them."""

    parametrizations: Parametrizations = Field(
        default=["standard", "mup", "ntk"],
        min_length=1,
        max_length=3,
        description=_PARAMETRIZATIONS,
    )
    width: int = Field(default=100, ge=2, le=400, description="Width of the hidden layers.")
    num_networks: int = Field(default=200, ge=5, le=10_000, description="Number of networks at each point.")
    varied: Annotated[list[OpenChoice], AfterValidator(distinct)] = Field(
        default=["shared_data"],
        max_length=6,
        description=_VARIED,
    )
    seed: Seed = Field(default=0, description="Seed of the weights, the data and the order of samples.")

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        if self.batch_size > self.num_samples:
            raise misfit("batch_size", message=f"there are {self.num_samples} samples only")
        return self


class TwoLayerParameters(CorrelationParameters):
    """Parameters of the figures of two-layer networks."""

    dims: Annotated[list[Dim], AfterValidator(ascending)] = Field(
        default=[1, 2, 5, 10, 20, 30, 50, 75, 100],
        min_length=1,
        max_length=40,
        description="Numbers D of inputs, and of outputs, ascending.",
    )
    learning_rate: float = Field(default=0.01, gt=0, le=10, description="Base learning rate at the start of training.")
    varied: Annotated[list[OpenChoice], AfterValidator(distinct)] = Field(
        default=["shared_data", "large_mup_dim"], max_length=6, description=_VARIED
    )
    large_mup_learning_rate: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Base learning rate at the start of training in the maximal update parametrization, from "
        "`large_mup_dim` on.",
    )
    large_mup_dim: int = Field(
        default=30,
        ge=1,
        le=1000,
        description="Smallest D with `large_mup_learning_rate`; the source does not say which.",
    )

    @property
    def dims_with_small_mup_rate(self) -> list[int]:
        """Numbers D with the smaller learning rate of the maximal update parametrization, ascending."""
        return [dim for dim in self.dims if dim < self.large_mup_dim]


class _SpAndMup(TwoLayerParameters):
    """Parameters of figure 4."""

    parametrizations: Parametrizations = Field(
        default=["standard", "mup"],
        min_length=1,
        max_length=3,
        description=_PARAMETRIZATIONS,
    )


class _Ntp(TwoLayerParameters):
    """Parameters of figure 14."""

    parametrizations: Parametrizations = Field(
        default=["ntk"],
        min_length=1,
        max_length=3,
        description=_PARAMETRIZATIONS,
    )


class DeepParameters(CorrelationParameters):
    """Parameters of the figures of deeper networks."""

    depths: Annotated[list[Depth], AfterValidator(ascending)] = Field(
        default=[2, 3, 4, 5, 6], min_length=1, max_length=7, description="Numbers B of weight matrices, ascending."
    )
    learning_rate: float = Field(default=0.01, gt=0, le=10, description="Base learning rate at the start of training.")
    deep_learning_rate: float = Field(
        default=0.001,
        gt=0,
        le=10,
        description="Base learning rate at the start of training for D = 1 and more than two layers, in the standard "
        "and the maximal update parametrization.",
    )


@dataclass(frozen=True)
class FigurePoint:
    """The networks of a point of a figure.

    Attributes:
        option: What differs from the chosen options; empty for nothing.
        networks: The networks.
    """

    option: str
    networks: TrainedNetworks


def measurements(points: Sequence[FigurePoint]) -> list[TrainedNetworks]:
    """Return the networks of points, each once, in the order in which they appear first."""
    return list(dict.fromkeys(point.networks for point in points))


def options(parameters: CorrelationParameters, parametrization: Parametrization) -> dict[str, dict[str, Any]]:
    """Return what differs from the chosen options under each varied one.

    Args:
        parameters: Parameters of the figure.
        parametrization: That of the networks; choices about `mup` are varied for that one only.

    Returns:
        The fields that differ, by a description; the first is empty, and stands for the chosen options.
    """
    others: dict[str, Any] = {
        "shared_data": "none" if parameters.shared_data == "all" else "all",
        "reduction": "mean" if parameters.reduction == "half-sum" else "half-sum",
        "teacher_scale": parameters.teacher_scale * OTHER_TEACHER_SCALE,
        "patience": parameters.patience // 2 if parameters.patience else 1,
    }
    if parametrization == "mup":
        others["mup_rates"] = "spectral" if parameters.mup_rates == "fan-in" else "fan-in"
        if isinstance(parameters, TwoLayerParameters) and (smaller := parameters.dims_with_small_mup_rate):
            others["large_mup_dim"] = smaller[-1]
    varied = [choice for choice in parameters.varied if choice in others]
    return {"": {}} | {f"{choice} = {others[choice]}": {choice: others[choice]} for choice in varied}


def two_layer_points(parameters: TwoLayerParameters, *, activation: Activation) -> list[FigurePoint]:
    """Return the points of a figure: by parametrization, option and D, in this order."""
    return [
        FigurePoint(option, _networks(parameters, activation, parametrization, 2, dim, rate, changes))
        for parametrization in parameters.parametrizations
        for option, changes in options(parameters, parametrization).items()
        for dim in parameters.dims
        for is_large in [parametrization == "mup" and dim >= changes.get("large_mup_dim", parameters.large_mup_dim)]
        for rate in [parameters.large_mup_learning_rate if is_large else parameters.learning_rate]
    ]


def deep_points(parameters: DeepParameters, *, activation: Activation, dims: Sequence[int]) -> list[FigurePoint]:
    """Return the points of a figure: by parametrization, option, D and depth, in this order."""
    return [
        FigurePoint(option, _networks(parameters, activation, parametrization, depth, dim, rate, changes))
        for parametrization in parameters.parametrizations
        for option, changes in options(parameters, parametrization).items()
        for dim in dims
        for depth in parameters.depths
        for is_deep in [dim == 1 and depth > 2 and parametrization != "ntk"]
        for rate in [parameters.deep_learning_rate if is_deep else parameters.learning_rate]
    ]


def _networks(
    parameters: CorrelationParameters,
    activation: Activation,
    parametrization: Parametrization,
    depth: int,
    dim: int,
    learning_rate: float,
    changes: Mapping[str, Any],
) -> TrainedNetworks:
    training = {name: changes.get(name, getattr(parameters, name)) for name in Training.model_fields}
    return TrainedNetworks(
        activation=activation,
        parametrization=parametrization,
        depth=depth,
        width=parameters.width,
        dim=dim,
        learning_rate=learning_rate,
        num_networks=parameters.num_networks,
        training=Training(**training),
        seed=parameters.seed,
    )


_QUICK = {
    "width": 32,
    "num_networks": 60,
    "num_samples": 256,
    "batch_size": 64,
    "patience": 3,
    "max_epochs": 150,
}
_QUICK_TWO = _QUICK | {"dims": [1, 3, 16, 32], "large_mup_dim": 16}
_QUICK_DEEP = _QUICK | {"depths": [2, 3, 4]}

_SOURCE = "Cracking the Hessian, {}; sections 4.2, {}"


def _two_layer_figure(
    number: int,
    title: str,
    *,
    activation: Activation = "linear",
    parameters: type[TwoLayerParameters] = TwoLayerParameters,
    sections: str = "D.1.3 and D.3.3",
    varied: Sequence[OpenChoice] = ("shared_data", "patience", "large_mup_dim"),
) -> Figure:
    return Figure(
        f"cracking-{number}",
        title,
        _SOURCE.format(f"figure {number}", sections),
        parameters,
        quick=_QUICK_TWO | {"varied": list(varied)} | ({"dims": [1, 3, 16]} if activation == "relu" else {}),
        points=lambda chosen: measurements(two_layer_points(chosen, activation=activation)),
        position=number,
    )


def _deep_figure(number: int, title: str, activation: Activation, *dims: int) -> Figure:
    return Figure(
        f"cracking-{number}",
        title,
        _SOURCE.format(f"figure {number}", "D.1.4 and D.3.4"),
        DeepParameters,
        quick=_QUICK_DEEP | ({"depths": [2, 4]} if activation == "relu" else {"varied": ["shared_data", "patience"]}),
        points=lambda chosen: measurements(deep_points(chosen, activation=activation, dims=dims)),
        position=number,
    )


FIGURES = (
    _two_layer_figure(
        4,
        "Sharpness and norms of weights, SP and muP",
        parameters=_SpAndMup,
        varied=("shared_data", "reduction", "mup_rates", "teacher_scale", "patience", "large_mup_dim"),
    ),
    _two_layer_figure(
        14,
        "Sharpness and norms of weights, NTP",
        parameters=_Ntp,
        varied=("shared_data", "reduction", "teacher_scale", "patience"),
    ),
    _two_layer_figure(15, "Sharpness and alignment of weights"),
    _two_layer_figure(
        16,
        "Sharpness and norms of weights of ReLU networks",
        activation="relu",
        varied=("shared_data", "large_mup_dim"),
    ),
    _deep_figure(17, "Sharpness and products of weights, D = 1", "linear", 1),
    _deep_figure(18, "Sharpness and products of weights, D = 10", "linear", 10, 1),
    _deep_figure(19, "Sharpness and single weights, D = 1", "linear", 1),
    _deep_figure(20, "Sharpness and single weights, D = 10", "linear", 10),
    _deep_figure(21, "Sharpness and products of weights of ReLU networks, D = 1", "relu", 1),
    _deep_figure(22, "Sharpness and Frobenius norms of weights of ReLU networks, D = 1", "relu", 1),
    _two_layer_figure(26, "Trace and norms of weights", sections="D.1.3 and D.4"),
)
