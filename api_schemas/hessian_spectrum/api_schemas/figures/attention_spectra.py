"""Figures 2 and 9 of Cracking the Hessian: attention spectra against the norms of weights and attention sinks."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from hessian_spectrum.api_schemas.figures.kind import Figure, FigureParameters, Measurement, MeasurementCost
from hessian_spectrum.api_schemas.figures.lists import ascending
from hessian_spectrum.api_schemas.figures.scalar_networks import NumSeeds
from hessian_spectrum.api_schemas.message import Seed

Varied = Literal["query-key", "value", "sink"]
Targets = Literal["normal", "reversal"]
TARGETS = "Targets: independent normal numbers, or the sequence in reverse."

KeyDim = Annotated[int, Field(ge=2, le=10_000, description="Length d_K of queries and keys.")]
BatchSize = Annotated[int, Field(ge=1, le=1000, description="Number of sequences in the batch.")]
Length = Annotated[int, Field(ge=2, le=200, description="Length of each sequence.")]
Massive = Annotated[
    float | None,
    Field(ge=-1e3, le=1e3, description="Value of the first token of every sequence; null leaves it as it is drawn."),
]
Norms = Annotated[
    list[Annotated[float, Field(gt=0, le=1e4)]],
    Field(min_length=3, max_length=100, description="Norms of the weights, ascending."),
    AfterValidator(ascending),
]
Biases = Annotated[
    list[Annotated[float, Field(ge=-100, le=100)]],
    Field(min_length=3, max_length=100, description="Biases of the scores of the first token, ascending."),
    AfterValidator(ascending),
]


class ScalarAttention(Measurement):
    """Hessian spectra of self-attention on scalars, where one of its quantities varies."""

    kind: Literal["scalar-attention"] = "scalar-attention"
    varied: Varied = Field(
        description="What varies: the norms of queries and keys, the value weight, or the bias of the first token."
    )
    values: list[float] = Field(min_length=1, max_length=100, description="Values of what varies.")
    key_dim: KeyDim
    batch_size: BatchSize
    length: Length
    targets: Targets = Field(description=TARGETS)
    massive_value: Massive
    is_aligned: bool = Field(description="Whether queries and keys have one direction, or independent ones.")
    seed: Seed = Field(description="Seed of weights and data.")

    @property
    def cost(self) -> MeasurementCost:
        """The predicted cost: the closed form at each value."""
        scores = self.batch_size * self.length**2
        return MeasurementCost(
            num_parameters=2 * self.key_dim + 1,
            num_products=0,
            num_training_passes=0.0,
            peak_bytes=64 * (scores + 10 * self.key_dim),
            seconds=len(self.values) * (2e-3 + 1.5e-5 * self.key_dim + 5e-6 * scores),
        )


class ScalarAttentionParameters(FigureParameters):
    """Parameters of figure 2."""

    key_dim: KeyDim = 1000
    batch_size: BatchSize = 10
    length: Length = 10
    query_key_norms: Norms = Field(default=[0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    wide_query_key_norms: Norms = Field(
        default=[1.0, 10.0, 20.0, 40.0, 70.0, 100.0],
        min_length=3,
        max_length=100,
        description="Norms of a variant, up to scores at which attention is no longer uniform.",
    )
    value_norms: Norms = Field(default=[0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    sink_biases: Biases = Field(default=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    massive_value: float = Field(
        default=5.0, ge=-1e3, le=1e3, description="Value of the first token of every sequence in panel c."
    )
    targets: Targets = Field(default="normal", description=TARGETS)
    num_seeds: NumSeeds = 20
    seed: Seed = Field(default=0, description="First seed of weights and data.")

    def series(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what is computed for each seed: a name, and the fields that differ."""
        other = "reversal" if self.targets == "normal" else "normal"
        norms: dict[str, Any] = {"varied": "query-key", "values": self.query_key_norms}
        sink: dict[str, Any] = {"varied": "sink", "values": self.sink_biases, "massive_value": self.massive_value}
        return [
            ("a", norms),
            ("a aligned", norms | {"is_aligned": True}),
            ("a wide", norms | {"values": self.wide_query_key_norms}),
            ("b", {"varied": "value", "values": self.value_norms}),
            ("c", sink),
            ("c ordinary", sink | {"massive_value": None}),
            ("c targets", sink | {"targets": other}),
        ]

    def points(self) -> list[ScalarAttention]:
        """Return all series, seed by seed."""
        common: dict[str, Any] = {
            "key_dim": self.key_dim,
            "batch_size": self.batch_size,
            "length": self.length,
            "targets": self.targets,
            "massive_value": None,
            "is_aligned": False,
        }
        return [
            ScalarAttention(**(common | fields), seed=self.seed + index)
            for _, fields in self.series()
            for index in range(self.num_seeds)
        ]


class AttentionLayerSpectrum(Measurement):
    """Every Hessian eigenvalue of a self-attention layer with a bias on the first token, from the dense matrix."""

    kind: Literal["attention-layer-spectrum"] = "attention-layer-spectrum"
    embedding_dim: int = Field(ge=1, le=20, description="Length d of each token's vector.")
    key_dim: int = Field(ge=2, le=200, description="Length d_K of queries and keys.")
    batch_size: BatchSize
    length: Length
    sink_bias: float = Field(ge=-100, le=100, description="Bias of the scores of the first token.")
    massive_value: Massive
    initial_std: float = Field(gt=0, le=100, description="Standard deviation of the weights.")
    targets: Targets = Field(description=TARGETS)
    seed: Seed = Field(description="Seed of weights and data.")

    @property
    def num_parameters(self) -> int:
        """Number of weights of values, queries and keys."""
        return self.embedding_dim * (self.embedding_dim + 2 * self.key_dim)

    @property
    def cost(self) -> MeasurementCost:
        """The predicted cost: a dense matrix."""
        rows = self.num_parameters
        return MeasurementCost(
            num_parameters=rows,
            num_products=rows,
            num_training_passes=0.0,
            peak_bytes=16 * rows**2 + 8000 * self.batch_size * self.length**2,
            seconds=0.1 + 1.8e-4 * rows + 5e-11 * rows**3,
        )


class AttentionSinkParameters(FigureParameters):
    """Parameters of figure 9."""

    embedding_dim: int = Field(default=10, ge=1, le=20, description="Length d of each token's vector.")
    key_dim: int = Field(default=100, ge=2, le=200, description="Length d_K of queries and keys.")
    batch_size: BatchSize = 10
    length: Length = 10
    sink_biases: Biases = Field(default=[0.0, 2.0, 4.0, 6.0, 8.0, 10.0])
    massive_value: float = Field(
        default=5.0, ge=-1e3, le=1e3, description="Value of every coordinate of the first token of every sequence."
    )
    other_massive_values: Annotated[list[Annotated[float, Field(ge=-1e3, le=1e3)]], AfterValidator(ascending)] = Field(
        default=[2.0, 10.0],
        max_length=10,
        description="Other values of these coordinates, ascending, for which the verdicts are also given.",
    )
    initial_std: float = Field(default=0.1, gt=0, le=100, description="Standard deviation of the weights.")
    targets: Targets = Field(default="normal", description=TARGETS)
    outlier_percent: float = Field(
        default=5.0, gt=0, le=100, description="Largest share of all eigenvalues that count as outliers, in percent."
    )
    num_seeds: NumSeeds = 6
    seed: Seed = Field(default=0, description="First seed of weights and data.")

    @property
    def massive_values(self) -> list[float | None]:
        """Values of the first token: the chosen one, none, and others."""
        others = [value for value in self.other_massive_values if value != self.massive_value]
        return [self.massive_value, None, *others]

    def points(self) -> list[AttentionLayerSpectrum]:
        """Return one spectrum for each bias and seed, with each value of the first token."""
        own = {"sink_biases", "outlier_percent", "num_seeds", "seed", "massive_value", "other_massive_values"}
        fields = self.model_dump(exclude=own)
        return [
            AttentionLayerSpectrum(**fields, massive_value=value, sink_bias=bias, seed=self.seed + index)
            for value in self.massive_values
            for index in range(self.num_seeds)
            for bias in self.sink_biases
        ]


def _points(parameters: ScalarAttentionParameters | AttentionSinkParameters) -> Sequence[Measurement]:
    return parameters.points()


FIGURES = (
    Figure(
        name="cracking-2",
        title="Attention spectrum against norms of weights and attention sinks",
        source="Cracking the Hessian, figures 2a to 2c, section 3.3 and appendix D.1.1",
        parameters=ScalarAttentionParameters,
        quick={
            "num_seeds": 6,
            "query_key_norms": [0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0],
            "wide_query_key_norms": [1.0, 10.0, 30.0, 100.0],
            "value_norms": [0.5, 1.0, 2.0, 5.0, 10.0],
            "sink_biases": [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0],
        },
        points=_points,
        position=2,
    ),
    Figure(
        name="cracking-9",
        title="Attention sinks with embedding dimension 10",
        source="Cracking the Hessian, figure 9 and appendix D.1.1",
        parameters=AttentionSinkParameters,
        quick={
            "embedding_dim": 5,
            "key_dim": 30,
            "sink_biases": [0.0, 2.0, 4.0, 6.0, 10.0],
            "other_massive_values": [10.0],
        },
        points=_points,
        position=9,
    ),
)
