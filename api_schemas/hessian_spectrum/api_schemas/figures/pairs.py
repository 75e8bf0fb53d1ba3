"""Figures 3 and 10 to 13 of Cracking the Hessian: pairs of eigenvalues whose sum is a fraction of the trace."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hessian_spectrum.api_schemas.figures.kind import Figure, FigureParameters, Measurement, MeasurementCost
from hessian_spectrum.api_schemas.figures.lists import ascending, distinct
from hessian_spectrum.api_schemas.message import Seed, misfit

MAX_DENSE = 1024
"""Largest number of parameters of networks whose Hessian has no smaller form, and is computed as a dense matrix."""

Activation = Literal["linear", "relu"]
Initialization = Literal["orthonormal", "standard"]
DataSet = Literal["decorrelated", "standardised"]
Teacher = Literal["none", "linear"]

Width = Annotated[int, Field(ge=2, le=400)]
InputDim = Annotated[int, Field(ge=1, le=400)]
ControlFactor = Annotated[float, Field(gt=0.05, lt=2)]
Widths = Annotated[list[Width], AfterValidator(ascending)]
ControlFactors = Annotated[list[ControlFactor], AfterValidator(distinct)]

PRINTED_SAMPLES = {10: 102}
"""Number of samples that appendix D.1.2 prints, by width, where it is probably a misprint of width + 2."""

SETTINGS: tuple[tuple[Initialization, DataSet], ...] = (
    ("orthonormal", "decorrelated"),
    ("standard", "decorrelated"),
    ("standard", "standardised"),
)
"""Initialization and data of the panels."""

PANELS_OF_FIGURE_3 = (SETTINGS[0], SETTINGS[2])
"""Those of figures 3a and 3b."""


class EigenvaluePairs(Measurement):
    """The two pairs of Hessian eigenvalues whose sums are closest to a fraction of the trace, for many networks.

    The networks have one output, no biases and squared error, and are at their initialization.
    """

    kind: Literal["eigenvalue-pairs"] = "eigenvalue-pairs"
    activation: Activation = Field(description="Activation function after every hidden layer.")
    num_layers: int = Field(ge=2, le=6, description="Number of weight matrices.")
    width: Width = Field(description="Width of every hidden layer.")
    input_dim: InputDim = Field(description="Number D of entries of each input.")
    num_samples: int = Field(ge=3, le=10_000, description="Number of samples of each network.")
    initialization: Initialization = Field(
        description="The first matrix has orthonormal columns, or all are PyTorch's default; the others always are."
    )
    data: DataSet = Field(description="Data: columns standardised, or exactly uncorrelated besides.")
    teacher: Teacher = Field(description="Targets before the transformation: noise, or a linear function with noise.")
    shares_data: bool = Field(description="Whether all networks have the same data.")
    num_networks: int = Field(ge=3, le=10_000, description="Number of networks at a point.")
    control_factors: list[ControlFactor] = Field(
        min_length=1, max_length=20, description="Wrong targets, in units of the fraction of the trace."
    )
    seed: Seed = Field(description="Seed of weights and data.")

    @property
    def num_parameters(self) -> int:
        """Number of weights of a network."""
        return self.width * (self.input_dim + 1 + (self.num_layers - 2) * self.width)

    @property
    def is_dense(self) -> bool:
        """Whether the Hessian is computed as a dense matrix: there is no smaller form of it."""
        return self.activation == "relu" and self.num_layers > 2

    @property
    def num_rows(self) -> int:
        """Rows of the matrix of which the eigenvalues are computed."""
        if self.is_dense:
            return self.num_parameters
        if self.activation == "relu":
            return 2 * self.width + min(self.num_samples, self.width * (self.input_dim - 1))
        return self.input_dim + 2 * self.width - 1 + (self.num_layers - 2) * (2 * self.width - 1)

    @property
    def cost(self) -> MeasurementCost:
        """The predicted cost: a dense eigenproblem for each network, and the matrix itself."""
        rows, coordinates = self.num_rows, self.width * self.num_samples * self.input_dim
        seconds = 1.5e-3 + 1.2e-10 * rows**3 + 5e-6 * rows
        if self.activation == "relu":
            seconds += 3e-5 * rows if self.is_dense else 2e-10 * coordinates * self.input_dim
        products = rows if self.is_dense else 0
        numbers = 8 * rows**2 + (4 * coordinates if self.activation == "relu" else 0) + 2 * self.num_parameters
        return MeasurementCost(
            num_parameters=self.num_parameters,
            num_products=products * self.num_networks,
            num_training_passes=0.0,
            peak_bytes=8 * (numbers + 30 * self.num_networks),
            seconds=0.05 + seconds * self.num_networks,
        )


class PairParameters(FigureParameters):
    """Parameters of the figures of paired eigenvalues."""

    widths: Widths = Field(
        default=[10, 150],
        min_length=1,
        max_length=4,
        description="Widths of the hidden layers, ascending; one set of panels each.",
    )
    input_dims: Annotated[list[InputDim], AfterValidator(ascending)] = Field(
        default=[*range(1, 11), 20, 40, 60, 80, 100, 125, 150],
        min_length=1,
        max_length=60,
        description="Numbers D of entries of each input, ascending; at each width, those that do not exceed it.",
    )
    num_networks: int = Field(default=100, ge=3, le=10_000, description="Number of networks at each point.")
    extra_samples: int = Field(
        default=2, ge=2, le=10_000, description="Number of samples, less the width; the source prints 102 for width 10."
    )
    teacher: Teacher = Field(
        default="none",
        description="Targets before they are standardised: normal noise, or a random linear function of the inputs.",
    )
    shares_data: bool = Field(
        default=False, description="Whether the networks of a point have the same data, or each has its own."
    )
    control_factors: ControlFactors = Field(
        default=[0.8, 0.9, 1.1, 1.2],
        min_length=1,
        max_length=20,
        description="Wrong targets of the control: these multiples of the fraction tr / D, for which the theory names "
        "no pair.",
    )
    varies: bool = Field(
        default=True, description="Whether the points are also computed under the choices that the source leaves open."
    )
    seed: Seed = Field(default=0, description="Seed of weights and data.")

    @model_validator(mode="after")
    def _some_input_fits(self) -> Self:
        if min(self.input_dims) > min(self.widths):
            raise misfit("input_dims", message=f"none of them is at most {min(self.widths)}, the smallest width")
        return self

    def dims(self, width: int) -> list[int]:
        """Return the numbers of inputs at a width, ascending."""
        return [dim for dim in self.input_dims if dim <= width]


class DenseWidths(PairParameters):
    """Parameters of figure 13, whose Hessians are dense matrices of all parameters."""

    widths: Widths = Field(
        default=[10],
        min_length=1,
        max_length=4,
        description="Widths of the hidden layers; 150, as in the other figures, would need eigenvalues of matrices of "
        "up to 67,650 rows.",
    )

    @model_validator(mode="after")
    def _matrices_fit(self) -> Self:
        for index, width in enumerate(self.widths):
            size = width * (2 * width + max(self.dims(width), default=0) + 1)
            if size > MAX_DENSE:
                raise misfit("widths", index, message=f"the Hessians have {size} rows, more than {MAX_DENSE}")
        return self


class Variation(FigureParameters):
    """A choice that the source leaves open, under which points are computed."""

    teacher: Teacher = Field(description="Targets before they are standardised.")
    shares_data: bool = Field(description="Whether the networks of a point have the same data.")
    num_samples: int = Field(description="Number of samples of each network.")


def variations(parameters: PairParameters, activation: Activation, data: DataSet, width: int) -> list[Variation]:
    """Return the choices under which the points of a panel are computed, the chosen one first.

    Args:
        parameters: Parameters of the figure.
        activation: Activation function of the networks.
        data: Data of the panel. Nothing of the teacher is left in decorrelated data, and the spectra of linear networks
            on them do not depend on the samples, so that these choices are not varied there.
        width: Width of the networks, with which the number of samples is varied where another one is printed.

    Returns:
        One choice or more.
    """
    num_samples = width + parameters.extra_samples
    chosen = Variation(teacher=parameters.teacher, shares_data=parameters.shares_data, num_samples=num_samples)
    if not parameters.varies:
        return [chosen]
    others = []
    if (activation, data) != ("linear", "decorrelated"):
        others.append(chosen.model_copy(update={"shares_data": not chosen.shares_data}))
        printed = PRINTED_SAMPLES.get(width, num_samples)
        if printed != num_samples:
            others.append(chosen.model_copy(update={"num_samples": printed}))
    if data == "standardised":
        teacher: Teacher = "linear" if chosen.teacher == "none" else "none"
        others.append(chosen.model_copy(update={"teacher": teacher}))
    return [chosen, *others]


def pair_measurements(
    parameters: PairParameters,
    *,
    activation: Activation,
    num_layers: int,
    settings: Sequence[tuple[Initialization, DataSet]] = SETTINGS,
) -> list[EigenvaluePairs]:
    """Return the measurements of a figure: by width, setting, variation and number of inputs, in this order."""
    return [
        EigenvaluePairs(
            activation=activation,
            num_layers=num_layers,
            width=width,
            input_dim=dim,
            num_samples=variation.num_samples,
            initialization=initialization,
            data=data,
            teacher=variation.teacher,
            shares_data=variation.shares_data,
            num_networks=parameters.num_networks,
            control_factors=parameters.control_factors,
            seed=parameters.seed,
        )
        for width in parameters.widths
        for initialization, data in settings
        for variation in variations(parameters, activation, data, width)
        for dim in parameters.dims(width)
    ]


class _ThreeParameters(PairParameters):
    """Parameters of figure 3."""

    widths: Widths = Field(
        default=[150],
        min_length=1,
        max_length=4,
        description="Widths of the hidden layer, ascending; panels a and b for each.",
    )


_QUICK = {"widths": [10, 40], "input_dims": [1, 2, 5, 10, 20, 40], "num_networks": 20}

_SOURCE = "Cracking the Hessian, {}; sections 4.1 and D.1.2"

FIGURES = (
    Figure(
        "cracking-3",
        "Pairs of eigenvalues that sum to a fraction of the trace",
        _SOURCE.format("figure 3"),
        _ThreeParameters,
        quick=_QUICK | {"widths": [40]},
        points=lambda parameters: pair_measurements(
            parameters, activation="linear", num_layers=2, settings=PANELS_OF_FIGURE_3
        ),
        position=3,
    ),
    Figure(
        "cracking-10",
        "Pairs of eigenvalues of two-layer linear networks",
        _SOURCE.format("figure 10"),
        PairParameters,
        quick=_QUICK,
        points=lambda parameters: pair_measurements(parameters, activation="linear", num_layers=2),
        position=10,
    ),
    Figure(
        "cracking-11",
        "Pairs of eigenvalues of four-layer linear networks",
        _SOURCE.format("figure 11"),
        PairParameters,
        quick=_QUICK,
        points=lambda parameters: pair_measurements(parameters, activation="linear", num_layers=4),
        position=11,
    ),
    Figure(
        "cracking-12",
        "Pairs of eigenvalues of two-layer ReLU networks",
        _SOURCE.format("figure 12"),
        PairParameters,
        quick=_QUICK,
        points=lambda parameters: pair_measurements(parameters, activation="relu", num_layers=2),
        position=12,
    ),
    Figure(
        "cracking-13",
        "Pairs of eigenvalues of four-layer ReLU networks",
        _SOURCE.format("figure 13"),
        DenseWidths,
        quick={"input_dims": [1, 2, 5, 10], "num_networks": 20},
        points=lambda parameters: pair_measurements(parameters, activation="relu", num_layers=4),
        position=13,
    ),
)
