"""Figures 1 and 7 of Cracking the Hessian and the Poster's bulk: spectra of two-layer networks of one variable."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hessian_spectrum.api_schemas.figures.kind import Figure, FigureParameters, Measurement, MeasurementCost
from hessian_spectrum.api_schemas.figures.lists import ascending
from hessian_spectrum.api_schemas.message import Seed

Initialization = Literal["uniform", "normal", "unit"]
INITIALIZATION = (
    "Initial weights: `uniform` as in PyTorch's linear layers, with variance 1/(3 fan-in); `normal` with that "
    "variance; `unit` is N(0, 1)."
)
Data = Literal["wedge", "normal"]

MAX_DENSE_NUMBERS = 50_000_000
"""Largest size of intermediate values up to which spectra are compared with dense automatic differentiation."""


def has_dense_check(width: int, num_samples: int) -> bool:
    """Return whether spectra of these networks are compared with dense automatic differentiation."""
    return 2 * width**2 * num_samples <= MAX_DENSE_NUMBERS


Width = Annotated[int, Field(ge=2, le=10_000, description="Number m of hidden neurons.")]
NumSeeds = Annotated[
    int, Field(ge=3, le=1000, description="Number of seeds, over which intervals are taken; the first one is drawn.")
]
Variances = Annotated[
    list[Annotated[float, Field(gt=0, le=1e6)]],
    Field(min_length=3, max_length=200, description="Variances of the inputs, ascending."),
    AfterValidator(ascending),
]
Slopes = Annotated[
    list[Annotated[float, Field(ge=-100, le=100)]],
    Field(min_length=2, max_length=2, description="Slopes of the wedge for x > 0 and for x < 0."),
]


class CellSpectrum(Measurement):
    """Every Hessian eigenvalue of a two-layer ReLU network of one variable, by cell, and by dense differentiation."""

    kind: Literal["cell-spectrum"] = "cell-spectrum"
    width: Width
    num_samples: int = Field(ge=2, le=100_000, description="Number n of samples.")
    data: Data = Field(description="Targets: a wedge, of one slope on each side of 0, or normal noise.")
    slopes: Slopes
    initialization: Initialization = Field(description=INITIALIZATION)
    seed: Seed = Field(description="Seed of weights and data.")

    @property
    def cost(self) -> MeasurementCost:
        """The predicted cost: a dense matrix of 2 m rows."""
        rows = 2 * self.width if has_dense_check(self.width, self.num_samples) else 0
        return MeasurementCost(
            num_parameters=2 * self.width,
            num_products=rows,
            num_training_passes=0.0,
            peak_bytes=8 * (4 * rows**2 + 10 * max(2**22, self.width * self.num_samples)),
            seconds=0.01 + 2e-4 * rows + 1e-9 * rows**3 + 3e-9 * rows * self.width * self.num_samples,
        )


class CellParameters(FigureParameters):
    """Parameters of the figures of ReLU spectra by cell."""

    width: Width = 10
    num_samples: int = Field(default=1000, ge=2, le=100_000, description="Number n of samples, which is not printed.")
    data: Data = Field(default="wedge", description="Targets: a wedge or normal noise; the source does not say.")
    slopes: Slopes = Field(default=[2.0, -1.0])
    initialization: Initialization = Field(default="unit", description=INITIALIZATION)
    num_seeds: NumSeeds = 50
    seed: Seed = Field(default=0, description="First seed of weights and data.")

    def points(self) -> list[CellSpectrum]:
        """Return one spectrum for each seed."""
        fields = self.model_dump(exclude={"num_seeds", "seed"})
        return [CellSpectrum(**fields, seed=self.seed + index) for index in range(self.num_seeds)]


class VarianceSpectra(Measurement):
    """Hessian eigenvalues of a two-layer linear network of one variable, for inputs of growing variance."""

    kind: Literal["variance-spectra"] = "variance-spectra"
    width: Width
    num_samples: int = Field(ge=2, le=1_000_000, description="Number n of samples.")
    variances: Variances
    initialization: Initialization = Field(description=INITIALIZATION)
    shares_weights: bool = Field(description="Whether the weights are the same for all variances, or drawn anew.")
    seed: Seed = Field(description="Seed of weights and data.")

    @property
    def cost(self) -> MeasurementCost:
        """The predicted cost: exact sums over the samples, and one dense matrix."""
        points = len(self.variances)
        dense = 2 * self.width**2 * self.num_samples if has_dense_check(self.width, self.num_samples) else 0
        return MeasurementCost(
            num_parameters=2 * self.width,
            num_products=2 * self.width if dense else 0,
            num_training_passes=float(points),
            peak_bytes=80 * max(2**22, self.width * self.num_samples),
            seconds=points * (6e-4 + 1.8e-7 * self.num_samples) + 5e-9 * dense,
        )


class VarianceParameters(FigureParameters):
    """Parameters of figure 7."""

    width: Width = 10
    num_samples: int = Field(default=100_000, ge=2, le=1_000_000, description="Number n of samples.")
    variances: Variances = Field(default=[float(variance) for variance in range(1, 20)])
    initialization: Initialization = Field(default="normal", description=INITIALIZATION)
    shares_weights: bool = Field(
        default=True, description="Whether the weights are the same for all variances; the other choice is a variant."
    )
    num_seeds: NumSeeds = 20
    seed: Seed = Field(default=0, description="First seed of weights and data.")

    def points(self) -> list[VarianceSpectra]:
        """Return one measurement for each seed, under both choices of the weights."""
        fields = self.model_dump(exclude={"num_seeds", "seed", "shares_weights"})
        return [
            VarianceSpectra(**fields, shares_weights=shares, seed=self.seed + index)
            for shares in (self.shares_weights, not self.shares_weights)
            for index in range(self.num_seeds)
        ]


def _points(parameters: CellParameters | VarianceParameters) -> Sequence[Measurement]:
    return parameters.points()


FIGURES = (
    Figure(
        name="cracking-1",
        title="Hessian spectrum of a two-layer ReLU network by cell",
        source="Cracking the Hessian, figure 1 and Theorem 3.4",
        parameters=CellParameters,
        quick={"num_seeds": 20},
        points=_points,
        position=1,
    ),
    Figure(
        name="cracking-7",
        title="Hessian spectrum of a two-layer linear network against the variance of its inputs",
        source="Cracking the Hessian, figure 7, section 3.1 and appendix D.1.1",
        parameters=VarianceParameters,
        quick={"num_samples": 20_000, "num_seeds": 10},
        points=_points,
        position=7,
    ),
    Figure(
        name="poster-bulk",
        title="Bulk and outliers of a two-layer ReLU network",
        source="Poster, bulk vs outlier spectrum",
        parameters=CellParameters,
        quick={"num_seeds": 20},
        points=_points,
        position=202,
    ),
)
