"""Figure 8 of Cracking the Hessian and the Poster's evolution: the pair of outliers along gradient descent."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from hessian_spectrum.api_schemas.figures.kind import Figure, FigureParameters, Measurement, MeasurementCost
from hessian_spectrum.api_schemas.figures.scalar_networks import (
    INITIALIZATION,
    Initialization,
    NumSeeds,
    Slopes,
    has_dense_check,
)
from hessian_spectrum.api_schemas.message import Seed

Activation = Literal["linear", "relu"]

Width = Annotated[int, Field(ge=2, le=200, description="Number m of hidden neurons.")]
NumSamples = Annotated[int, Field(ge=2, le=10_000, description="Number n of samples, evenly spaced in [-1, 1].")]
LearningRate = Annotated[float, Field(gt=0, le=1000, description="Learning rate of gradient descent.")]
Momentum = Annotated[float, Field(ge=0, lt=1, description="Momentum: a step also takes this share of the last one.")]
NumSteps = Annotated[int, Field(ge=1, le=20_000, description="Number of steps of gradient descent.")]


class NeuronDescent(Measurement):
    """The Hessian spectrum at every step of gradient descent of a two-layer network on wedge data."""

    kind: Literal["neuron-descent"] = "neuron-descent"
    activation: Activation = Field(description="Activation function of the hidden neurons.")
    width: Width
    num_samples: NumSamples
    slopes: Slopes
    initialization: Initialization = Field(description=INITIALIZATION)
    learning_rate: LearningRate
    momentum: Momentum
    num_steps: NumSteps
    seed: Seed = Field(description="Seed of the initial weights.")

    @property
    def cost(self) -> MeasurementCost:
        """The predicted cost: one step and one closed form for each point, and a few dense matrices."""
        rows = 2 * self.width
        dense = rows * self.width * self.num_samples if has_dense_check(self.width, self.num_samples) else 0
        return MeasurementCost(
            num_parameters=rows,
            num_products=20 * rows if dense else 0,
            num_training_passes=float(self.num_steps),
            peak_bytes=8
            * (self.num_steps * (rows + 20) + 4 * rows**2 + 10 * max(2**22, self.width * self.num_samples)),
            seconds=0.1 + self.num_steps * (6e-4 + 6e-7 * self.num_samples) + 2e-3 * self.width + 1.5e-7 * dense,
        )


class EvolutionParameters(FigureParameters):
    """Parameters of the evolution of outliers along gradient descent."""

    width: Width = 10
    num_samples: NumSamples = 100
    slopes: Slopes = Field(default=[2.0, -1.0])
    initialization: Initialization = Field(default="uniform", description=INITIALIZATION)
    learning_rate: LearningRate = 0.18
    momentum: Momentum = 0.9
    num_steps: NumSteps = 400
    num_seeds: NumSeeds = 10
    varies: bool = Field(default=True, description="Whether the symmetric wedge of slopes 1 and -1 is also computed.")
    seed: Seed = Field(default=0, description="First seed of the initial weights.")

    def runs(self, activation: Activation, slopes: Sequence[float]) -> list[NeuronDescent]:
        """Return one run of descent for each seed."""
        fields = self.model_dump(exclude={"num_seeds", "varies", "seed", "slopes"})
        return [
            NeuronDescent(activation=activation, slopes=list(slopes), **fields, seed=self.seed + index)
            for index in range(self.num_seeds)
        ]

    @property
    def wedges(self) -> list[list[float]]:
        """Slopes of all data sets: the chosen one first."""
        return [self.slopes, *([[1.0, -1.0]] if self.varies and self.slopes != [1.0, -1.0] else [])]


class ReluEvolutionParameters(EvolutionParameters):
    """Parameters of the Poster's evolution, of a ReLU network alone."""


def _points(parameters: EvolutionParameters) -> Sequence[Measurement]:
    activations: tuple[Activation, ...] = ("linear", "relu")
    if isinstance(parameters, ReluEvolutionParameters):
        activations = ("relu",)
    return [run for wedge in parameters.wedges for each in activations for run in parameters.runs(each, wedge)]


FIGURES = (
    Figure(
        name="cracking-8",
        title="The pair of outlying eigenvalues throughout training",
        source="Cracking the Hessian, figure 8, section 3.2 and appendix C",
        parameters=EvolutionParameters,
        quick={"num_steps": 300, "num_seeds": 5},
        points=_points,
        position=8,
    ),
    Figure(
        name="poster-evolution",
        title="Evolution of the outlier pairs of a ReLU network",
        source="Poster, evolution of the outlier eigenvalue pair",
        parameters=ReluEvolutionParameters,
        quick={"num_steps": 300, "num_seeds": 5},
        points=_points,
        position=201,
    ),
)
