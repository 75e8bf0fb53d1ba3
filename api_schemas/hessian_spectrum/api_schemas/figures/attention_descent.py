"""Figure 27 of Cracking the Hessian: progressive sharpening and the edge of stability of self-attention on scalars."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from hessian_spectrum.api_schemas.figures.kind import Figure, FigureParameters, Measurement, MeasurementCost
from hessian_spectrum.api_schemas.figures.lists import ascending
from hessian_spectrum.api_schemas.figures.scalar_networks import NumSeeds
from hessian_spectrum.api_schemas.message import Seed, misfit

KeyDim = Annotated[int, Field(ge=2, le=100, description="Length d_K of queries and keys.")]
LEAST_TOKEN = 1e-6
"""Smallest magnitude of the largest token of a sequence: without tokens there is no curvature to divide by."""


def _not_all_zero(sequence: list[float]) -> list[float]:
    if max(map(abs, sequence)) < LEAST_TOKEN:
        raise misfit(message=f"a token must have a magnitude of {LEAST_TOKEN:g} or more")
    return sequence


Sequence2 = Annotated[
    list[Annotated[float, Field(ge=-100, le=100)]], Field(min_length=2, max_length=50), AfterValidator(_not_all_zero)
]
InitialStd = Annotated[float, Field(gt=0, le=100, description="Standard deviation of the initial weights.")]
LearningRate = Annotated[float, Field(gt=0, le=1000, description="Learning rate of gradient descent.")]
LossFactor = Annotated[
    float, Field(gt=0, le=10, description="Factor of the mean squared error in the loss: 1/2 in the source's theorems.")
]
NumSteps = Annotated[int, Field(ge=20, le=50_000, description="Number of steps of gradient descent.")]

NUM_VARIANT_SEEDS = 4
"""Largest number of initial weights for which a variant is computed: the fewest that can decide what most of them do.

Wilson's interval of 4 of 4 lies above 1/2, that of 3 of 3 does not.
"""

VARIANTS: dict[str, dict[str, Any]] = {
    "sequence (1.25, -1)": {"sequence": [1.25, -1.0]},
    "sequence (1, -0.5)": {"sequence": [1.0, -0.5]},
    "sequence (1.25, -0.625)": {"sequence": [1.25, -0.625]},
    "sequence (1, -1)": {"sequence": [1.0, -1.0]},
    "sequence (1, 0.5)": {"sequence": [1.0, 0.5]},
    "100 normal sequences": {"sequence": None},
    "loss without the factor 1/2": {"loss_factor": 1.0},
}
"""Other data and losses, by name, with the fields that differ."""


class AttentionDescent(Measurement):
    """Spectrum, norms and loss of self-attention on scalars at every step of gradient descent to reverse sequences."""

    kind: Literal["attention-descent"] = "attention-descent"
    key_dim: KeyDim
    sequence: Sequence2 | None = Field(
        description="The only input sequence; null draws 100 sequences of two normal numbers."
    )
    initial_std: InitialStd
    learning_rate: LearningRate
    loss_factor: LossFactor
    num_steps: NumSteps
    seed: Seed = Field(description="Seed of initial weights, and of data that are drawn.")

    @property
    def cost(self) -> MeasurementCost:
        """The predicted cost: one step and one closed form for each point."""
        scores = 400 if self.sequence is None else len(self.sequence) ** 2
        return MeasurementCost(
            num_parameters=2 * self.key_dim + 1,
            num_products=0,
            num_training_passes=float(self.num_steps),
            peak_bytes=8 * self.num_steps * (2 * self.key_dim + 30) + 300_000_000,
            seconds=0.6 + self.num_steps * (6e-4 + 1e-5 * self.key_dim + 2e-6 * scores),
        )


class EdgeOfStabilityParameters(FigureParameters):
    """Parameters of figure 27."""

    key_dim: KeyDim = 2
    sequence: Sequence2 = Field(
        default=[1.0, -0.8], description="The only input sequence, which the source does not print."
    )
    initial_std: InitialStd = 0.1
    learning_rate: LearningRate = 2.3
    loss_factor: LossFactor = 0.5
    num_steps: NumSteps = 2000
    num_seeds: NumSeeds = 20
    varies: bool = Field(default=True, description="Whether other data, losses and learning rates are also computed.")
    learning_rate_factors: Annotated[list[Annotated[float, Field(gt=0, le=10)]], AfterValidator(ascending)] = Field(
        default=[0.8, 0.9, 1.1, 1.2],
        max_length=10,
        description="Other learning rates as multiples of the chosen one, ascending.",
    )
    seed: Seed = Field(default=0, description="First seed of the initial weights.")

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """Fields that differ from the chosen ones, by variant."""
        return {**VARIANTS, **self.rate_variants} if self.varies else {}

    @property
    def rate_variants(self) -> dict[str, dict[str, Any]]:
        """Learning rates of the variants that have another one, by variant."""
        rates = [round(factor * self.learning_rate, 10) for factor in self.learning_rate_factors if factor != 1]
        return {f"learning rate {rate:g}": {"learning_rate": rate} for rate in rates}

    @property
    def num_variant_seeds(self) -> int:
        """Number of runs of each variant."""
        return min(NUM_VARIANT_SEEDS, self.num_seeds)

    def runs(self, count: int, changes: dict[str, Any]) -> list[AttentionDescent]:
        """Return runs from so many initial weights."""
        fields = self.model_dump(exclude={"num_seeds", "varies", "learning_rate_factors", "seed"}) | changes
        return [AttentionDescent(**fields, seed=self.seed + index) for index in range(count)]


def _points(parameters: EdgeOfStabilityParameters) -> Sequence[Measurement]:
    varied = [parameters.runs(parameters.num_variant_seeds, changes) for changes in parameters.variants.values()]
    return [*parameters.runs(parameters.num_seeds, {}), *[run for runs in varied for run in runs]]


FIGURES = (
    Figure(
        name="cracking-27",
        title="Progressive sharpening and the edge of stability of self-attention",
        source="Cracking the Hessian, figure 27 and appendices D.2 and D.5",
        parameters=EdgeOfStabilityParameters,
        quick={"num_steps": 1000, "num_seeds": 6, "learning_rate_factors": [0.9, 1.1]},
        points=_points,
        position=27,
    ),
)
