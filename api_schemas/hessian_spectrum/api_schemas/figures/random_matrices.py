"""Figure 1 of the Lecture: the densities of Wishart plus Wigner matrices for three ratios and several energies."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hessian_spectrum.api_schemas.figures.kind import Figure, FigureParameters, Measurement, MeasurementCost
from hessian_spectrum.api_schemas.figures.lists import ascending
from hessian_spectrum.api_schemas.message import Seed

Ratio = Annotated[float, Field(ge=0.01, le=10)]
Energy = Annotated[float, Field(ge=0, le=100)]
Size = Annotated[int, Field(ge=50, le=5000, description="Number of rows of each sampled matrix.")]
NumMatrices = Annotated[int, Field(ge=3, le=1000, description="Number of sampled matrices at each point.")]


class HessianDensity(Measurement):
    """Density of the sum of a Wishart and a Wigner matrix, and the eigenvalues of matrices that are sampled."""

    kind: Literal["hessian-density"] = "hessian-density"
    ratio: Ratio = Field(description="Ratio phi of parameters to data.")
    energy: Energy = Field(description="Energy epsilon of the critical point.")
    size: Size
    num_matrices: NumMatrices
    seed: Seed = Field(description="Seed of the first matrix; the others have the following ones.")

    @property
    def cost(self) -> MeasurementCost:
        """The predicted cost: the eigenvalues of dense matrices, and a density on a grid."""
        return MeasurementCost(
            num_parameters=self.size,
            num_products=0,
            num_training_passes=0.0,
            peak_bytes=40 * self.size**2,
            seconds=0.1 + self.num_matrices * (8e-4 + 9e-11 * self.size**3 + 5e-8 * self.size**2),
        )


class DensityParameters(FigureParameters):
    """Parameters of figure 1 of the Lecture."""

    ratios: Annotated[list[Ratio], AfterValidator(ascending)] = Field(
        default=[0.25, 0.5, 0.75],
        min_length=1,
        max_length=20,
        description="Ratios phi of parameters to data, ascending.",
    )
    energies: Annotated[list[Energy], AfterValidator(ascending)] = Field(
        default=[0.0, 0.1, 0.5, 1.0],
        min_length=2,
        max_length=20,
        description="Energies of the critical points, ascending.",
    )
    size: Size = 1000
    num_matrices: NumMatrices = 10
    seed: Seed = Field(default=0, description="Seed of the first matrix.")

    def points(self) -> list[HessianDensity]:
        """Return one measurement for each ratio and energy, with matrices of its own."""
        pairs = [(ratio, energy) for ratio in self.ratios for energy in self.energies]
        return [
            HessianDensity(
                ratio=ratio,
                energy=energy,
                size=self.size,
                num_matrices=self.num_matrices,
                seed=self.seed + index * self.num_matrices,
            )
            for index, (ratio, energy) in enumerate(pairs)
        ]


def _points(parameters: DensityParameters) -> Sequence[Measurement]:
    return parameters.points()


FIGURES = (
    Figure(
        name="lecture-1",
        title="Spectra of Wishart plus Wigner matrices",
        source="Lecture, figure 1; Pennington and Bahri, ICML 2017",
        parameters=DensityParameters,
        quick={"size": 500, "num_matrices": 6},
        points=_points,
        position=301,
    ),
)
