"""Figures 4, 14 to 22 and 26 of Cracking the Hessian: what sharpness and trace correlate with over many networks."""

from collections.abc import Sequence
from functools import partial
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
OpenChoice = Literal["shared_data", "reduction", "mup_rates", "teacher_scale"]

Dim = Annotated[int, Field(ge=1, le=200)]
Depth = Annotated[int, Field(ge=2, le=8)]
Parametrizations = Annotated[list[Parametrization], AfterValidator(distinct)]

OTHER_TEACHER_SCALE = 3.0
"""Factor on the scale of the teacher where that is varied."""


class Training(RequestMessage):
    """How the networks are trained, with the data that they are trained on."""

    num_samples: int = Field(default=1024, ge=8, le=20_000, description="Number of samples of a data set.")
    batch_size: int = Field(default=128, ge=1, le=20_000, description="Number of samples of a step.")
    patience: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="Number of epochs without improvement after which the learning rate is cut to a tenth.",
    )
    threshold: float = Field(
        default=1e-4, ge=0, lt=1, description="Relative decrease of an epoch's loss that counts as an improvement."
    )
    min_learning_rate: float = Field(
        default=1e-5, gt=0, le=1, description="Smallest base learning rate; training ends at a plateau there."
    )
    max_epochs: int = Field(
        default=2000, ge=1, le=100_000, description="Number of passes over the data after which training ends anyway."
    )
    noise: float = Field(default=0.1, ge=0, le=10, description="Standard deviation of the noise of the targets.")
    teacher_scale: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="Scale of the teacher: the entries of its matrix have the standard deviation "
        "teacher_scale / sqrt(D).",
    )
    shared_data: SharedData = Field(
        default="all",
        description="What the networks of a point have in common: the samples (`all`), the teacher that drew them "
        "(`teacher`), or neither (`none`).",
    )
    reduction: Reduction = Field(
        default="half-sum",
        description="Loss of a sample in training: half the sum of the squared errors, or their mean, whose gradient "
        "is 2/D times as long.",
    )
    mup_rates: MupRates = Field(
        default="fan-in",
        description="Learning rates of the maximal update parametrization, in units of the base rate: 1 / fan_in as "
        "printed, or fan_out / fan_in.",
    )


class TrainedNetworks(Measurement):
    """Sharpness, trace and norms of the weights of many networks, at initialization and after training."""

    kind: Literal["trained-networks"] = "trained-networks"
    activation: Activation = Field(description="Activation function after every hidden layer.")
    parametrization: Parametrization = Field(description="Initialization, scales and learning rates of the layers.")
    depth: Depth = Field(description="Number B of weight matrices.")
    width: int = Field(ge=1, le=1000, description="Width of every hidden layer.")
    dim: Dim = Field(description="Number D of inputs, and of outputs.")
    learning_rate: float = Field(gt=0, le=100, description="First base learning rate.")
    num_networks: int = Field(ge=3, le=10_000, description="Number of networks at a point.")
    training: Training = Field(description="Data and training of the networks.")
    seed: Seed = Field(description="Seed of weights, data and the order of samples.")

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
        return min(float(self.training.max_epochs), epochs)

    @property
    def cost(self) -> MeasurementCost:
        """The predicted cost: mostly that of training."""
        training, size = self.training, self.num_networks
        passes = self.expected_epochs * size
        steps = passes * -(-training.num_samples // training.batch_size)
        seconds = 1.0 + steps * self._seconds_of_step + _NUM_PRODUCTS * size * self._seconds_of_product
        numbers = size * training.num_samples * 2 * self.dim * (1 if training.shared_data == "all" else 2)
        numbers += 12 * size * self.num_parameters + 2**21
        return MeasurementCost(
            num_parameters=self.num_parameters,
            num_products=_NUM_PRODUCTS * size,
            num_training_passes=passes,
            peak_bytes=8 * numbers,
            seconds=seconds + (1.0 if self.has_trace else 0.0),
        )

    @property
    def _seconds_of_step(self) -> float:
        """Time of a step of one network, fitted on two cores."""
        batch, hidden = self.training.batch_size, self.width * (self.depth - 1)
        if self.activation == "relu":
            return 1.5e-5 + 6 * batch * self.num_parameters / 2e10 + 7e-9 * batch * hidden
        moments = 0 if self.training.shared_data == "all" else 4 * batch * self.dim**2
        return 1.5e-5 + (6 * self.dim * self.num_parameters / 2 + moments) / 2e10

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
        description="Initialization, scales and learning rates of the layers: two panels each.",
    )
    width: int = Field(default=100, ge=2, le=400, description="Width of the hidden layers.")
    num_networks: int = Field(default=200, ge=5, le=10_000, description="Number of networks at each point.")
    varied: Annotated[list[OpenChoice], AfterValidator(distinct)] = Field(
        default=["shared_data"],
        max_length=4,
        description="Choices that the source leaves open under which the points are computed again: whether networks "
        "share their data, the reduction of the loss, the learning rates of the maximal update parametrization, and "
        "the scale of the teacher.",
    )
    seed: Seed = Field(default=0, description="Seed of weights, data and the order of samples.")

    @property
    def training(self) -> Training:
        """Data and training under the chosen options."""
        return Training(**{name: getattr(self, name) for name in Training.model_fields})

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
    learning_rate: float = Field(default=0.01, gt=0, le=10, description="First base learning rate.")
    large_mup_learning_rate: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="First base learning rate of the maximal update parametrization with many inputs and outputs.",
    )
    large_mup_dim: int = Field(
        default=30, ge=1, le=1000, description="Smallest D that counts as many; the source does not say."
    )


class _SpAndMup(TwoLayerParameters):
    """Parameters of figure 4."""

    parametrizations: Parametrizations = Field(
        default=["standard", "mup"],
        min_length=1,
        max_length=3,
        description="Initialization, scales and learning rates of the layers: two panels each.",
    )


class _Ntp(TwoLayerParameters):
    """Parameters of figure 14."""

    parametrizations: Parametrizations = Field(
        default=["ntk"],
        min_length=1,
        max_length=3,
        description="Initialization, scales and learning rates of the layers: two panels each.",
    )


class DeepParameters(CorrelationParameters):
    """Parameters of the figures of deeper networks."""

    depths: Annotated[list[Depth], AfterValidator(ascending)] = Field(
        default=[2, 3, 4, 5, 6], min_length=1, max_length=7, description="Numbers B of weight matrices, ascending."
    )
    learning_rate: float = Field(default=0.01, gt=0, le=10, description="First base learning rate.")
    deep_learning_rate: float = Field(
        default=0.001,
        gt=0,
        le=10,
        description="First base learning rate for D = 1 and more than two layers, in the standard and the maximal "
        "update parametrization.",
    )


def trainings(parameters: CorrelationParameters, parametrization: Parametrization) -> dict[str, Training]:
    """Return how networks are trained under the chosen options and under each varied one.

    Args:
        parameters: Parameters of the figure.
        parametrization: That of the networks, whose learning rates are varied for `mup` only.

    Returns:
        The training by what differs from the chosen options; the first name is empty.
    """
    chosen = parameters.training
    others: dict[OpenChoice, Any] = {
        "shared_data": "none" if chosen.shared_data == "all" else "all",
        "reduction": "mean" if chosen.reduction == "half-sum" else "half-sum",
        "mup_rates": "spectral" if chosen.mup_rates == "fan-in" else "fan-in",
        "teacher_scale": chosen.teacher_scale * OTHER_TEACHER_SCALE,
    }
    varied = [choice for choice in others if choice in parameters.varied]
    if parametrization != "mup":
        varied = [choice for choice in varied if choice != "mup_rates"]
    return {"": chosen} | {f"{c} = {others[c]}": chosen.model_copy(update={c: others[c]}) for c in varied}


def two_layer_measurements(parameters: TwoLayerParameters, *, activation: Activation) -> list[TrainedNetworks]:
    """Return the measurements of a figure: by parametrization, option and D, in this order."""
    return [
        _networks(parameters, activation, parametrization, 2, dim, rate, training)
        for parametrization in parameters.parametrizations
        for training in trainings(parameters, parametrization).values()
        for dim in parameters.dims
        for is_large in [parametrization == "mup" and dim >= parameters.large_mup_dim]
        for rate in [parameters.large_mup_learning_rate if is_large else parameters.learning_rate]
    ]


def deep_measurements(parameters: DeepParameters, *, activation: Activation, dim: int) -> list[TrainedNetworks]:
    """Return the measurements of a figure: by parametrization, option and depth, in this order."""
    return [
        _networks(parameters, activation, parametrization, depth, dim, rate, training)
        for parametrization in parameters.parametrizations
        for training in trainings(parameters, parametrization).values()
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
    training: Training,
) -> TrainedNetworks:
    return TrainedNetworks(
        activation=activation,
        parametrization=parametrization,
        depth=depth,
        width=parameters.width,
        dim=dim,
        learning_rate=learning_rate,
        num_networks=parameters.num_networks,
        training=training,
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
    varied: Sequence[OpenChoice] = ("shared_data",),
) -> Figure:
    return Figure(
        f"cracking-{number}",
        title,
        _SOURCE.format(f"figure {number}", sections),
        parameters,
        quick=_QUICK_TWO | {"varied": list(varied)} | ({"dims": [1, 3, 16]} if activation == "relu" else {}),
        points=partial(two_layer_measurements, activation=activation),
        position=number,
    )


def _deep_figure(number: int, title: str, activation: Activation, dim: int) -> Figure:
    return Figure(
        f"cracking-{number}",
        title,
        _SOURCE.format(f"figure {number}", "D.1.4 and D.3.4"),
        DeepParameters,
        quick=_QUICK_DEEP | ({"depths": [2, 4]} if activation == "relu" else {}),
        points=partial(deep_measurements, activation=activation, dim=dim),
        position=number,
    )


FIGURES = (
    _two_layer_figure(
        4,
        "Sharpness and norms of weights, SP and muP",
        parameters=_SpAndMup,
        varied=("shared_data", "reduction", "mup_rates", "teacher_scale"),
    ),
    _two_layer_figure(
        14,
        "Sharpness and norms of weights, NTP",
        parameters=_Ntp,
        varied=("shared_data", "reduction", "teacher_scale"),
    ),
    _two_layer_figure(15, "Sharpness and alignment of weights"),
    _two_layer_figure(16, "Sharpness and norms of weights of ReLU networks", activation="relu"),
    _deep_figure(17, "Sharpness and products of weights, D = 1", "linear", 1),
    _deep_figure(18, "Sharpness and products of weights, D = 10", "linear", 10),
    _deep_figure(19, "Sharpness and single weights, D = 1", "linear", 1),
    _deep_figure(20, "Sharpness and single weights, D = 10", "linear", 10),
    _deep_figure(21, "Sharpness and products of weights of ReLU networks, D = 1", "relu", 1),
    _deep_figure(22, "Sharpness and Frobenius norms of weights of ReLU networks, D = 1", "relu", 1),
    _two_layer_figure(26, "Trace and norms of weights", sections="D.1.3 and D.4"),
)
