"""Request and answer of `POST /v1/random-matrix`."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, RootModel, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.message import Message, RequestMessage, Seed, misfit

MAX_POINTS = 100_000
"""Points of one density."""

MAX_TRANSFORM_POINTS = 1000
"""Complex points of the transforms."""

MAX_SAMPLE_SIZE = 2000
"""Rows of the largest matrix that is drawn while the caller waits."""

MAX_INDICES = 200_000
"""Ratios times energies of one index curve."""

MIN_MAX_ENERGY = 1e-40
"""Largest energy of an index curve, at least: the steps from 0 to it are energies, too."""


def _limited(low: float, high: float) -> AfterValidator:
    """0 passes, which `gt` excludes where it must not."""

    def check(value: float) -> float:
        if value and not low <= abs(value) <= high:
            limits = {"low": f"{low:g}", "high": f"{high:g}"}
            raise PydanticCustomError("magnitude", "Input should lie between {low} and {high}", limits)
        return value

    return AfterValidator(check)


Activation = Literal["linear", "relu"]
Variance = Annotated[float, Field(gt=0, description="1e-50 to 1e50"), _limited(1e-50, 1e50)]
Energy = Annotated[
    float, Field(ge=0, description="epsilon, the loss per output: 0, or 1e-50 to 1e50"), _limited(1e-50, 1e50)
]
Ratio = Annotated[float, Field(gt=0, description="1e-9 to 1e9"), _limited(1e-9, 1e9)]
Complex = Annotated[
    list[Annotated[float, _limited(1e-250, 1e50)]],
    Field(min_length=2, max_length=2, description="[real part, imaginary part], each 0 or between 1e-250 and 1e50"),
]


class Wigner(RequestMessage):
    """Symmetric n x n matrix with off-diagonal variance `variance` / n."""

    law: Literal["wigner"]
    variance: Variance = 1.0


class Wishart(RequestMessage):
    """J J^T with J n x p of entry variance `variance` / p."""

    law: Literal["wishart"]
    variance: Variance = 1.0
    ratio: Ratio = Field(description="n / p, 1e-9 to 1e9")


class Hessian(RequestMessage):
    """Hessian of a two-layer network: a Wishart part plus one that grows with the energy."""

    law: Literal["hessian"]
    activation: Activation
    energy: Energy
    ratio: Ratio = Field(description="phi, parameters / data, 1e-9 to 1e9")


SingleLaw = Annotated[Wigner | Wishart | Hessian, Field(discriminator="law")]


class SampleOptions(RequestMessage):
    """A random matrix of finite size to draw beside the law."""

    size: int = Field(ge=2, le=MAX_SAMPLE_SIZE, description="rows")
    seed: Seed = 0
    num_bins: int = Field(default=30, ge=1, le=1000, description="bins of the histogram")


class _Evaluation(RequestMessage):
    """Where a law is evaluated, and what else is wanted of it."""

    points: list[float] | None = Field(
        default=None, min_length=1, max_length=MAX_POINTS, fail_fast=True, description="eigenvalues"
    )
    num_points: int | None = Field(
        default=None,
        ge=2,
        le=MAX_POINTS,
        description="size of a grid from edge to edge of the support; 512 if not said",
    )
    transform_points: list[Complex] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TRANSFORM_POINTS,
        fail_fast=True,
        description="complex arguments of the R and the Stieltjes transform",
    )
    sample: SampleOptions | None = None

    @model_validator(mode="after")
    def _points_or_grid(self) -> Self:
        if self.points is not None and self.num_points is not None:
            raise misfit("num_points", message="give either points or num_points")
        return self


class WignerRequest(Wigner, _Evaluation):
    """The semicircle."""


class WishartRequest(Wishart, _Evaluation):
    """The Marchenko-Pastur law."""


class HessianRequest(Hessian, _Evaluation):
    """The law of the Hessian of a two-layer network."""


class FreeSumRequest(_Evaluation):
    """The law of the sum of two freely independent matrices."""

    law: Literal["free-sum"]
    laws: list[SingleLaw] = Field(min_length=2, max_length=2)


class IndexCurveRequest(RequestMessage):
    """Share of negative eigenvalues of the Hessian law against the energy, for several ratios."""

    law: Literal["index-curve"]
    activation: Activation
    ratios: list[Ratio] = Field(min_length=1, max_length=100, fail_fast=True)
    energies: list[Energy] | None = Field(default=None, min_length=1, max_length=MAX_POINTS, fail_fast=True)
    num_points: int | None = Field(
        default=None, ge=2, le=MAX_POINTS, description="number of energies from 0 to max_energy; 257 if not said"
    )
    max_energy: Annotated[float, Field(gt=0), _limited(MIN_MAX_ENERGY, 1e50)] | None = Field(
        default=None, description="if not said, four times the largest critical energy, or 1 where no ratio has one"
    )

    @model_validator(mode="after")
    def _energies_that_are_few(self) -> Self:
        if self.energies is not None:
            for name in ("num_points", "max_energy"):
                if getattr(self, name) is not None:
                    raise misfit(name, message=f"give either energies or {name}")
        name, num_energies = ("energies", len(self.energies)) if self.energies else ("num_points", self.num_points or 0)
        if num_energies * len(self.ratios) > MAX_INDICES:
            message = f"{len(self.ratios)} ratios x {num_energies} energies are more than {MAX_INDICES}"
            raise misfit(name, message=message)
        return self


RANDOM_MATRIX_LAWS = ("wigner", "wishart", "hessian", "free-sum", "index-curve")
"""Values of `law`."""

LawRequest = WignerRequest | WishartRequest | HessianRequest | FreeSumRequest


class RandomMatrixRequest(RootModel[Annotated[LawRequest | IndexCurveRequest, Field(discriminator="law")]]):
    """A law and where it is evaluated, or the index of the Hessian law against the energy."""

    model_config = ConfigDict(frozen=True, strict=True)


class LawSample(Message):
    """Eigenvalues of one random matrix as a histogram, beside the mean density of the law in each bin."""

    size: int
    seed: int
    edges: list[float] = Field(description="of the bins, one more than there are bins")
    counts: list[int]
    density: list[float] = Field(description="counts / (size x width)")
    expected: list[float] = Field(description="mass of the law in the bin / width")
    largest_deviation: float = Field(description="largest |density - expected|")
    negative_fraction: float = Field(description="beside index")
    zero_fraction: float = Field(description="beside atom_at_zero; where that is positive, the bins leave zeros out")
    realised_rates: list[float] = Field(
        description="columns / rows of the factor of each Wishart part, by ascending jump: whole numbers of columns"
    )


class LawAnswer(Message):
    """A law, in the unit of its eigenvalues; null is explained in `notes`."""

    law: Literal["wigner", "wishart", "hessian", "free-sum"]
    parameters: dict[str, Any] = Field(description="what was asked")
    source: str
    grid: list[float]
    density: list[float | None] = Field(description="at the points of the grid, without the atom at 0")
    cumulative: list[float] = Field(description="mass up to and at each point of the grid, with the atom at 0")
    support: list[list[float]] = Field(description="[low, high] of each interval; an atom at 0 is not among them")
    interval_masses: list[float]
    atom_at_zero: float
    index: float = Field(description="alpha, the mass below 0")
    critical_energy: float | None = Field(description="of hessian: up to it no eigenvalue is negative")
    alpha_0: float | None = Field(description="of hessian: alpha ~ alpha_0 (energy / critical_energy - 1)^(3/2)")
    index_at_small_energy: float | None = Field(description="of hessian: limit of the index as the energy falls to 0")
    empirical_critical_energies: dict[str, float] | None = Field(
        description="of hessian: fits to trained networks with one hidden layer, by activation"
    )
    moments: list[float] = Field(description="E l, E l^2, E l^3, E l^4")
    transform_points: list[list[float]]
    r_transform: list[list[float] | None] = Field(description="R at the transform points: [real, imaginary]")
    stieltjes: list[list[float] | None] = Field(
        description="G at the transform points; at a real one its limit from above"
    )
    sample: LawSample | None
    notes: list[str]


class IndexOfRatio(Message):
    """Index against energy for one ratio."""

    ratio: float
    energies: list[float]
    index: list[float]
    critical_energy: float | None = Field(description="null for a ratio of 1 or more, see notes")
    alpha_0: float | None = Field(description="index ~ alpha_0 (energy / critical_energy - 1)^(3/2)")
    index_at_small_energy: float = Field(description="limit of the index as the energy falls to 0")


class IndexCurveAnswer(Message):
    """Index against energy for each ratio."""

    law: Literal["index-curve"]
    parameters: dict[str, Any] = Field(description="what was asked")
    source: str
    curves: list[IndexOfRatio]
    notes: list[str]


RandomMatrixAnswer = TypeAliasType(
    "RandomMatrixAnswer", Annotated[LawAnswer | IndexCurveAnswer, Field(discriminator="law")]
)
