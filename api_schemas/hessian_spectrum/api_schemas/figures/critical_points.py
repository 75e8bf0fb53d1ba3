"""Figure 6 of the Lecture: index and energy of critical points of networks with one hidden layer."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hessian_spectrum.api_schemas.figures.kind import Figure, FigureParameters, Measurement, MeasurementCost
from hessian_spectrum.api_schemas.figures.lists import ascending
from hessian_spectrum.api_schemas.message import Seed

Activation = Literal["tanh", "linear"]
Objective = Literal["gradient-norm", "loss"]

Width = Annotated[int, Field(ge=2, le=24, description="Number n of inputs, of hidden units and of outputs.")]
Ratio = Annotated[float, Field(ge=0.05, le=2)]
Count = Annotated[int, Field(ge=3, le=100_000)]
Tolerance = Annotated[float, Field(ge=1e-12, le=1e-2)]


class CriticalPointsAt(Measurement):
    """Critical points of random networks with one hidden layer, one search for each network."""

    kind: Literal["critical-points"] = "critical-points"
    activation: Activation = Field(description="Activation function of the hidden layer.")
    objective: Objective = Field(description="What is minimised: the norm of the gradient, or the loss.")
    width: Width
    ratio: Ratio = Field(description="Ratio phi = 2n/m of parameters to data; m is rounded.")
    num_searches: Count = Field(description="Number of networks, each with data of its own and one search.")
    initial_scale: float = Field(
        gt=0, le=100, description="Standard deviation of weights, times the root of the width."
    )
    max_descent_steps: int = Field(
        ge=0, le=100_000, description="Largest number of steps of gradient descent before a search."
    )
    seed: Seed = Field(description="Seed of data and weights.")

    @property
    def num_samples(self) -> int:
        """Number m of samples."""
        return max(1, round(2 * self.width / self.ratio))

    @property
    def cost(self) -> MeasurementCost:
        """The predicted cost: more than a hundred iterations of each search, with a dense matrix each."""
        rows = 2 * self.width**2
        iterations = 170 if self.objective == "gradient-norm" else 150
        solve = 1.2e-9 * rows**3 if self.objective == "loss" else 2e-10 * rows**3
        iteration = 3e-5 + solve + 3e-9 * rows**2 + 2e-10 * self.num_samples * rows**2 / 4
        descent = 3e-6 + 1.2e-8 * self.num_samples * rows / self.width
        seconds = self.num_searches * (iterations * iteration + self.max_descent_steps / 7 * descent)
        return MeasurementCost(
            num_parameters=rows,
            num_products=self.num_searches * iterations * rows,
            num_training_passes=self.num_searches * self.max_descent_steps / 7,
            peak_bytes=8 * (32 * (6 * rows**2 + 4 * rows * self.num_samples) + 3 * self.num_searches * rows),
            seconds=0.2 + seconds,
        )


class LandscapeParameters(FigureParameters):
    """Parameters of figure 6 of the Lecture."""

    width: Width = 6
    ratios: Annotated[list[Ratio], AfterValidator(ascending)] = Field(
        default=[0.15, 0.25, 0.375, 0.5, 0.625],
        min_length=2,
        max_length=20,
        description="Ratios phi of parameters to data at which critical points are searched, ascending.",
    )
    num_searches: Count = Field(
        default=4000, ge=3, le=100_000, description="Number of searches of critical points at each ratio."
    )
    num_minimizers: Count = Field(
        default=100, ge=3, le=100_000, description="Number of networks at each ratio whose loss is minimised."
    )
    tolerance: Tolerance = Field(
        default=1e-9, description="Norm of the gradient, at a mean square of 1 of the targets, of a critical point."
    )
    loose_tolerance: Tolerance = Field(
        default=1e-3, description="Norm of the gradient of a variant, in which points with almost no gradient count."
    )
    largest_index: float = Field(
        default=0.15, gt=0, le=1, description="Index up to which the power law, which holds near 0 only, is fitted."
    )
    initial_scale: float = Field(
        default=1.0, gt=0, le=100, description="Standard deviation of weights, times the root of the width."
    )
    max_descent_steps: int = Field(
        default=3000, ge=0, le=100_000, description="Largest number of steps of gradient descent before a search."
    )
    seed: Seed = Field(default=0, description="Seed of data and weights.")

    def at(self, ratio: float, activation: Activation, objective: Objective) -> CriticalPointsAt:
        """Return the measurement at a ratio."""
        is_search = objective == "gradient-norm"
        return CriticalPointsAt(
            activation=activation,
            objective=objective,
            width=self.width,
            ratio=ratio,
            num_searches=self.num_searches if is_search else self.num_minimizers,
            initial_scale=self.initial_scale,
            max_descent_steps=self.max_descent_steps if is_search else 0,
            seed=self.seed,
        )


SERIES: tuple[tuple[Activation, Objective], ...] = (("tanh", "gradient-norm"), ("tanh", "loss"), ("linear", "loss"))
"""What is computed at every ratio."""


def _points(parameters: LandscapeParameters) -> Sequence[Measurement]:
    return [parameters.at(ratio, *series) for series in SERIES for ratio in parameters.ratios]


FIGURES = (
    Figure(
        name="lecture-6",
        title="Index and energy of critical points, and energy of minimizers",
        source="Lecture, figures 6a and 6b; Pennington and Bahri, ICML 2017",
        parameters=LandscapeParameters,
        quick={"width": 5, "ratios": [0.25, 0.4, 0.55], "num_searches": 600, "num_minimizers": 40},
        points=_points,
        position=302,
    ),
)
