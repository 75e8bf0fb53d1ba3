"""Request and response of `POST /v1/random-matrix`."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, RootModel, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.display import DisplayedMessage
from hessian_spectrum.api_schemas.message import Message, RequestMessage, Seed, misfit

MAX_POINTS = 100_000
"""Largest number of points of one density."""

MAX_TRANSFORM_POINTS = 1000
"""Largest number of arguments of the transforms."""

MAX_SAMPLE_SIZE = 2000
"""Number of rows of the largest matrix that is drawn within a request."""

MAX_INDICES = 200_000
"""Largest product of the numbers of ratios and energies of one index curve."""

MIN_MAX_ENERGY = 1e-40
"""Smallest accepted max_energy of an index curve; the grid from 0 to it has to stay representable."""


def _limited(low: float, high: float) -> AfterValidator:
    """Validator that admits 0 and magnitudes from `low` to `high`; `gt` excludes 0 where it is not allowed."""

    def check(value: float) -> float:
        if value and not low <= abs(value) <= high:
            limits = {"low": f"{low:g}", "high": f"{high:g}"}
            raise PydanticCustomError("magnitude", "Input should lie between {low} and {high}", limits)
        return value

    return AfterValidator(check)


Activation = Literal["linear", "relu"]
Variance = Annotated[float, Field(gt=0, description="Variance of the entries, 1e-50 to 1e50."), _limited(1e-50, 1e50)]
Energy = Annotated[
    float, Field(ge=0, description="Energy epsilon, the loss per output: 0, or 1e-50 to 1e50."), _limited(1e-50, 1e50)
]
Ratio = Annotated[float, Field(gt=0, description="Positive ratio, 1e-9 to 1e9."), _limited(1e-9, 1e9)]
Complex = Annotated[
    list[Annotated[float, _limited(1e-250, 1e50)]],
    Field(
        min_length=2,
        max_length=2,
        description="Complex number [real, imaginary], each part 0 or between 1e-250 and 1e50.",
    ),
]


class Wigner(RequestMessage):
    """Law of a symmetric n x n matrix with off-diagonal variance `variance` / n."""

    law: Literal["wigner"]
    variance: Variance = 1.0


class Wishart(RequestMessage):
    """Law of J J^T, where J is n x p with entries of variance `variance` / p."""

    law: Literal["wishart"]
    variance: Variance = 1.0
    ratio: Ratio = Field(description="Ratio n / p of rows to columns, 1e-9 to 1e9.")


class Hessian(RequestMessage):
    """Law of the Hessian of a two-layer network: a Wishart part plus one that grows with the energy."""

    law: Literal["hessian"]
    activation: Activation = Field(description="Activation function of the hidden layer.")
    energy: Energy
    ratio: Ratio = Field(description="Ratio phi of parameters to data, 1e-9 to 1e9.")


SingleLaw = Annotated[Wigner | Wishart | Hessian, Field(discriminator="law")]


class SampleOptions(RequestMessage):
    """A random matrix of finite size, drawn for comparison with the law."""

    size: int = Field(ge=2, le=MAX_SAMPLE_SIZE, description="Number of rows of the matrix.")
    seed: Seed = Field(default=0, description="Seed of the random generator.")
    num_bins: int = Field(default=30, ge=1, le=1000, description="Number of bins of the histogram.")


class _Evaluation(RequestMessage):
    """Points at which a law is evaluated, and the further quantities to return."""

    points: list[float] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_POINTS,
        fail_fast=True,
        description="Eigenvalues at which to evaluate the law.",
    )
    num_points: int | None = Field(
        default=None,
        ge=2,
        le=MAX_POINTS,
        description="Number of points of a grid that spans the support, used instead of `points`; 512 by default.",
    )
    transform_points: list[Complex] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TRANSFORM_POINTS,
        fail_fast=True,
        description="Complex arguments at which to evaluate the R-transform and the Stieltjes transform.",
    )
    sample: SampleOptions | None = Field(default=None, description="A matrix to draw for comparison; null for none.")

    @model_validator(mode="after")
    def _points_or_grid(self) -> Self:
        if self.points is not None and self.num_points is not None:
            raise misfit("num_points", message="give either points or num_points")
        return self


class WignerRequest(Wigner, _Evaluation):
    """The semicircle law, with the points at which to evaluate it."""


class WishartRequest(Wishart, _Evaluation):
    """The Marchenko-Pastur law, with the points at which to evaluate it."""


class HessianRequest(Hessian, _Evaluation):
    """The law of the Hessian of a two-layer network, with the points at which to evaluate it."""


class FreeSumRequest(_Evaluation):
    """The law of the sum of two freely independent matrices, with the points at which to evaluate it."""

    law: Literal["free-sum"]
    laws: list[SingleLaw] = Field(min_length=2, max_length=2, description="Laws of the two summands.")


class IndexCurveRequest(RequestMessage):
    """Share of negative eigenvalues of the Hessian law as a function of the energy, for several ratios."""

    law: Literal["index-curve"]
    activation: Activation = Field(description="Activation function of the hidden layer.")
    ratios: list[Ratio] = Field(
        min_length=1,
        max_length=100,
        fail_fast=True,
        description="Ratios phi of parameters to data, one curve for each.",
    )
    energies: list[Energy] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_POINTS,
        fail_fast=True,
        description="Energies at which to evaluate the index, each 0 or between 1e-50 and 1e50.",
    )
    num_points: int | None = Field(
        default=None,
        ge=2,
        le=MAX_POINTS,
        description="Number of equidistant energies from 0 to max_energy, used instead of `energies`; 257 by default.",
    )
    max_energy: Annotated[float, Field(gt=0), _limited(MIN_MAX_ENERGY, 1e50)] | None = Field(
        default=None,
        description="Largest energy; by default four times the largest critical energy, or 1 if no ratio has one.",
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
"""Values of the field `law` of a request."""

LawRequest = WignerRequest | WishartRequest | HessianRequest | FreeSumRequest


class RandomMatrixRequest(RootModel[Annotated[LawRequest | IndexCurveRequest, Field(discriminator="law")]]):
    """A law and where to evaluate it, or the index of the Hessian law as a function of the energy."""

    model_config = ConfigDict(frozen=True, strict=True)


class LawSample(Message):
    """Histogram of the eigenvalues of one random matrix, with the law's mean density in each bin."""

    size: int = Field(description="Number of rows of the matrix.")
    seed: int = Field(description="Seed of the random generator.")
    edges: list[float] = Field(description="Edges of the bins, one more than there are bins.")
    counts: list[int] = Field(description="Number of eigenvalues in each bin.")
    density: list[float] = Field(description="Density of the sample in each bin: counts / (size x width).")
    expected: list[float] = Field(description="Mean density of the law in each bin: its mass / width.")
    largest_deviation: float = Field(description="Largest |density - expected| over all bins.")
    negative_fraction: float = Field(
        description="Share of negative eigenvalues of the sample, to compare with `index`."
    )
    zero_fraction: float = Field(
        description="Share of zero eigenvalues of the sample, to compare with `atom_at_zero`; if that is positive, "
        "the bins exclude zeros."
    )
    realised_rates: list[float] = Field(
        description="Columns / rows of the factor of each Wishart part, in ascending order of its jump; they differ "
        "from the law's because the number of columns is whole."
    )


class LawAnswer(DisplayedMessage):
    """A law and its derived quantities, in the unit of its eigenvalues; `notes` explain values that are null."""

    law: Literal["wigner", "wishart", "hessian", "free-sum"] = Field(
        description="Law that was evaluated, as in the request."
    )
    parameters: dict[str, Any] = Field(description="Parameters of the law, as in the request.")
    source: str = Field(description="Publication in which the law is derived.")
    grid: list[float] = Field(description="Eigenvalues at which the law was evaluated.")
    density: list[float | None] = Field(
        description="Density at each point of the grid, without the atom at 0; null where it is infinite."
    )
    cumulative: list[float] = Field(description="Mass up to and including each point of the grid, with the atom at 0.")
    support: list[list[float]] = Field(
        description="Ends [low, high] of each interval of the support; an atom at 0 is not included."
    )
    interval_masses: list[float] = Field(description="Mass of each interval of the support.")
    atom_at_zero: float = Field(description="Mass of the point 0.")
    index: float = Field(description="Index alpha, the mass below 0.")
    critical_energy: float | None = Field(
        description="Energy up to which no eigenvalue is negative; for `hessian` only."
    )
    alpha_0: float | None = Field(
        description="Coefficient of alpha ~ alpha_0 (energy / critical_energy - 1)^(3/2) just above the critical "
        "energy; for `hessian` only."
    )
    index_at_small_energy: float | None = Field(
        description="Limit of the index as the energy falls to 0; for `hessian` only."
    )
    empirical_critical_energies: dict[str, float] | None = Field(
        description="Critical energies fitted to trained networks with one hidden layer, by activation; for "
        "`hessian` only."
    )
    moments: list[float] = Field(description="First four moments E l, E l^2, E l^3 and E l^4 of the law.")
    transform_points: list[list[float]] = Field(description="Arguments of the transforms as [real, imaginary].")
    r_transform: list[list[float] | None] = Field(
        description="R-transform at each transform point as [real, imaginary]."
    )
    stieltjes: list[list[float] | None] = Field(
        description="Stieltjes transform G at each transform point as [real, imaginary]; at a real point, its limit "
        "from above."
    )
    sample: LawSample | None = Field(description="The matrix that was drawn; null if the request asked for none.")
    notes: list[str] = Field(description="Remarks on values that are null or inexact.")


class IndexOfRatio(Message):
    """Index as a function of the energy for one ratio."""

    ratio: float = Field(description="Ratio phi of parameters to data.")
    energies: list[float] = Field(description="Energies at which the index was evaluated.")
    index: list[float] = Field(description="Share of negative eigenvalues at each energy.")
    critical_energy: float | None = Field(
        description="Energy up to which no eigenvalue is negative; null for a ratio of 1 or more, as `notes` explains."
    )
    alpha_0: float | None = Field(
        description="Coefficient of index ~ alpha_0 (energy / critical_energy - 1)^(3/2) just above the critical "
        "energy."
    )
    index_at_small_energy: float = Field(description="Limit of the index as the energy falls to 0.")


class IndexCurveAnswer(DisplayedMessage):
    """Index as a function of the energy, one curve for each ratio."""

    law: Literal["index-curve"]
    parameters: dict[str, Any] = Field(description="Parameters of the request.")
    source: str = Field(description="Publication in which the law is derived.")
    curves: list[IndexOfRatio] = Field(description="One curve for each ratio, in the order of the request.")
    notes: list[str] = Field(description="Remarks on values that are null or inexact.")


RandomMatrixAnswer = TypeAliasType(
    "RandomMatrixAnswer", Annotated[LawAnswer | IndexCurveAnswer, Field(discriminator="law")]
)
