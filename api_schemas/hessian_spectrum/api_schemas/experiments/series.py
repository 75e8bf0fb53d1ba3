"""A series: one request at many parameters of one network, such as those of a training run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Self, Union, get_args

from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, create_model, model_validator

from hessian_spectrum.api_schemas.checkpoints import CheckpointName, Sha256
from hessian_spectrum.api_schemas.data import Data
from hessian_spectrum.api_schemas.experiments.kind import (
    MAX_POINTS,
    ExperimentKind,
    ExperimentRequest,
    ExperimentResult,
)
from hessian_spectrum.api_schemas.losses import LossField
from hessian_spectrum.api_schemas.matrices import MatrixField
from hessian_spectrum.api_schemas.message import Message, RequestMessage, Seed, misfit
from hessian_spectrum.api_schemas.methods import METHODS, Method
from hessian_spectrum.api_schemas.models import CausalLm, Gpt2, Model
from hessian_spectrum.api_schemas.models.exported import Exported, StoredParameters
from hessian_spectrum.api_schemas.models.kind import StoredWeights
from hessian_spectrum.api_schemas.models.mlp import Mlp
from hessian_spectrum.api_schemas.spectrum import Precision, SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import Estimate, Interval, MethodResult, RitzValue

MAX_CURVE_NUMBERS = 500_000
"""Largest number of grid points of all densities of a series."""

TAG = "series"
"""Name of the tag that the job of a series has, whose value is the name of the series."""

SERIES_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


def _as_in_a_spectrum_job(name: str, **options: Any) -> Any:
    """Return the field of a spectrum job, with its default and description."""
    field = SpectrumRequest.model_fields[name]
    return Field(default=field.default, description=field.description, **options)


_MEASURED_FIELDS = ("data", "loss", "weight_decay", "matrix", "block")
"""Fields of a spectrum job that say, beside the model, of which matrix the spectrum is."""

_SPECTRUM_FIELDS = (*_MEASURED_FIELDS, "method", "precision", "seed")
"""Fields of a spectrum job that all points share, beside the model."""

_SOURCES: dict[type, str] = {Exported: "parameters", Mlp: "weights", Gpt2: "checkpoint", CausalLm: "checkpoint"}
"""Field of a model that a point replaces, for each kind whose parameters can be replaced."""

_MODEL: TypeAdapter[Any] = TypeAdapter(Model)


class SeriesPoint(RequestMessage):
    """Parameters of the network at one step: uploaded ones, or those of a checkpoint."""

    step: int = Field(ge=0, le=2**53, description="Step of training, which orders the points.")
    parameters: StoredParameters | None = Field(
        default=None, description="Uploaded parameters, by their names in the network; for `exported` and `mlp` models."
    )
    checkpoint: CheckpointName | None = Field(
        default=None, description="Name of a checkpoint in the models directory; for `gpt2` and `causal-lm` models."
    )
    checkpoint_sha256: Sha256 | None = Field(
        default=None, description="Digest of the checkpoint, which the server fills in."
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="Learning rate at this step; 2 / learning_rate is given beside the sharpness."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.parameters is None) == (self.checkpoint is None):
            raise misfit("parameters", message="give either uploaded parameters or a checkpoint")
        return self


class SeriesRequest(ExperimentRequest):
    """Request for one spectrum at each point of a training run, with the fields of a spectrum job."""

    kind: Literal["series"]
    name: Annotated[str, Field(pattern=SERIES_NAME)] = Field(
        description="Name of the series. Points that are posted later under the same name are added to it."
    )
    points: list[SeriesPoint] = Field(
        min_length=1,
        max_length=MAX_POINTS,
        description="Points of the run. Those that were computed before, by this or by another job, are reused.",
    )
    model: Model = Field(description="Network; each point replaces its parameters.")
    data: Data | None = _as_in_a_spectrum_job("data")
    loss: LossField | None = _as_in_a_spectrum_job("loss")
    weight_decay: float | None = _as_in_a_spectrum_job("weight_decay", ge=0)
    matrix: MatrixField = _as_in_a_spectrum_job("matrix")
    method: Method = _as_in_a_spectrum_job("method")
    block: str | None = _as_in_a_spectrum_job("block", min_length=1, max_length=256)
    precision: Precision | None = _as_in_a_spectrum_job("precision")
    seed: Seed = _as_in_a_spectrum_job("seed")

    @model_validator(mode="after")
    def _points_fit(self, info: ValidationInfo) -> Self:
        first: dict[int, int] = {}
        for index, point in enumerate(self.points):
            if (other := first.setdefault(point.step, index)) != index:
                raise misfit("points", index, "step", message=f"step {point.step} is that of point {other}, too")
        if self.tags.get(TAG, self.name) != self.name:
            raise misfit("tags", TAG, message="is the name of the series, or left out")
        num_numbers = len(self.points) * getattr(self.method, "num_points", 0)
        if num_numbers > MAX_CURVE_NUMBERS:
            message = f"{num_numbers:,} points of all densities; at most {MAX_CURVE_NUMBERS:,}: lower it, or post fewer"
            raise misfit("method", "num_points", message=message)
        points = [_resolved(self.model, point, index, info) for index, point in enumerate(self.points)]
        return self if points == self.points else self.model_copy(update={"points": points})

    def settled(self) -> Mapping[str, Any]:
        """Points by ascending step."""
        return {"points": sorted(self.points, key=lambda point: point.step)}

    @property
    def summary(self) -> str:
        """What the job computes, in a few words."""
        return f"{self.name}: {self.method.kind}, {super().summary}"

    @property
    def all_tags(self) -> dict[str, str]:
        """The caller's own labels, and the name of the series."""
        return dict(self.tags) | {TAG: self.name}

    @property
    def settings_sha256(self) -> str:
        """SHA-256 of what is measured: the network without its parameters, data, loss, weight decay, matrix, block."""
        fields = self._first_point.model_dump(mode="json", include={"model", *_MEASURED_FIELDS})
        replaced = {_SOURCES[type(self.model)], "checkpoint_sha256", "seed"}
        fields["model"] = {name: value for name, value in fields["model"].items() if name not in replaced}
        return _sha256(fields)

    @property
    def method_sha256(self) -> str:
        """SHA-256 of the method and the precision."""
        return _sha256(self._first_point.model_dump(mode="json", include={"method", "precision"}))

    @property
    def _first_point(self) -> SpectrumRequest:
        """The request of the first point, in the form that is equal for all spellings of one request."""
        return _point_request(self, self.ordered_points[0]).canonical()

    @property
    def ordered_points(self) -> list[SeriesPoint]:
        """The points by ascending step."""
        return sorted(self.points, key=lambda point: point.step)


def _sha256(fields: Any) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _resolved(model: Model, point: SeriesPoint, index: int, info: ValidationInfo) -> SeriesPoint:
    """Return the point with the digest of its checkpoint, after its parameters were compared with the network's."""
    source = _SOURCES.get(type(model))
    if source is None:
        message = f"the parameters of a model of kind {model.kind} cannot be replaced"
        raise misfit("model", "kind", message=message)
    given = "checkpoint" if source == "checkpoint" else "parameters"
    if getattr(point, given) is None:
        raise misfit("points", index, given, message=f"is what a model of kind {model.kind} needs")
    if not info.context:  # a request that was accepted earlier is read again
        return point
    # plain fields, as in a request: those of a message would not be compared with the uploaded program again
    fields = model.model_dump(exclude={"checkpoint_sha256"}, exclude_unset=True)
    value = {"kind": "artifact", "id": point.parameters.id} if point.parameters else point.checkpoint
    try:
        found = _MODEL.validate_python(fields | {source: value}, context=info.context)
    except ValidationError as error:
        raise misfit("points", index, given, message=error.errors(include_url=False)[0]["msg"]) from None
    if given == "parameters":
        return point
    return point.model_copy(update={"checkpoint_sha256": found.checkpoint_sha256})


def model_at(model: Model, point: SeriesPoint) -> Model:
    """Return the network with the parameters of a point."""
    if isinstance(model, Gpt2 | CausalLm):
        return model.model_copy(
            update={"checkpoint": point.checkpoint, "checkpoint_sha256": point.checkpoint_sha256, "seed": 0}
        )
    assert point.parameters is not None
    if isinstance(model, Exported):
        return model.model_copy(update={"parameters": point.parameters})
    return model.model_copy(update={"weights": StoredWeights(kind="artifact", id=point.parameters.id), "seed": 0})


class Overlap(Interval):
    """Overlap of the spaces of the leading eigenvectors at two steps."""

    size: int = Field(description="Number of leading eigenvectors.")
    value: float = Field(
        description="Mean squared cosine of the principal angles between the spaces, ||U^T V||_F^2 / size: 1 if they "
        "are equal, 0 if they are orthogonal."
    )


class Overlaps(Message):
    """Overlaps with the leading eigenvectors at an earlier step."""

    since_step: int = Field(description="Step of training of the earlier point.")
    spaces: list[Overlap] = Field(description="Overlap of the spaces of one leading eigenvector, of two, and so on.")


class SeriesEntry(Message):
    """The numbers at one step."""

    step: int = Field(description="Step of training of this point.")
    learning_rate: float | None = Field(default=None, description="Learning rate at this step; null if unknown.")
    stability_threshold: float | None = Field(
        default=None,
        description="Two divided by the learning rate, above which gradient descent is unstable along the leading "
        "eigenvector of a quadratic loss; null if the learning rate is unknown.",
    )
    parameters_sha256: str | None = Field(
        default=None,
        description="SHA-256 of the parameters at this step: the id of uploaded ones, or the checkpoint's.",
    )
    problem: str | None = Field(default=None, description="Why there are no numbers at this step; null if there are.")
    overlaps: Overlaps | None = Field(
        default=None,
        description="Overlaps of the leading eigenvectors with those at the step before; null unless one job has both "
        "steps, with the eigenvectors of `top-k` for the `largest` eigenvalues or `both-ends`.",
    )
    jobs: list[str] = Field(
        default=[],
        description="Ids of the jobs that computed these numbers, newest first; empty in the result of a job.",
    )


def _with_result_fields(entry: type[SeriesEntry]) -> type[SeriesEntry]:
    """Return the message with the fields of the results of all methods, each null where a method has none."""
    fields: dict[str, Any] = {"loss": (float | None, Field(default=None, description="Loss at the parameters."))}
    for kind in METHODS.values():
        for name, field in kind.result.model_fields.items():
            if name not in MethodResult.model_fields and name != "method":
                known = get_args(fields[name][0]) if name in fields else ()
                union: Any = Union.__getitem__((*known, field.annotation, None))
                fields[name] = (union, Field(default=None, description=field.description))
    for name, what in (("largest", "Largest"), ("smallest", "Smallest")):
        description = f"{what} eigenvalue of the matrix; null if the method does not give it."
        fields[name] = (Optional[Union[RitzValue, Estimate]], Field(default=None, description=description))  # noqa: UP007, UP045
    return create_model("SeriesEntry", __base__=entry, __doc__=entry.__doc__, __module__=entry.__module__, **fields)


_SINGLE_NUMBERS = frozenset({"loss", "largest", "smallest", "trace", "frobenius"})
"""Numbers at a step that stand alone, whatever method gives them."""

_OWN_FIELDS = frozenset(SeriesEntry.model_fields)

if not TYPE_CHECKING:
    SeriesEntry = _with_result_fields(SeriesEntry)

_METHOD_FIELDS = frozenset(SeriesEntry.model_fields) - _OWN_FIELDS
"""Numbers that methods give."""


class SeriesResult(ExperimentResult):
    """The numbers along a training run."""

    kind: Literal["series"] = "series"
    name: str = Field(description="Name of the series.")
    matrix: str = Field(description="Matrix of second derivatives, as in the request.")
    settings_sha256: str | None = Field(
        default=None,
        description="SHA-256 of what is measured: network, data, loss, weight decay, matrix and block of parameters.",
    )
    methods: dict[str, str] = Field(
        default={}, description="Kinds of the methods, each with the SHA-256 of its settings and of the precision."
    )
    points: list[SeriesEntry] = Field(description="The numbers at each step, by ascending step.")
    other_jobs: list[str] = Field(
        default=[],
        description="Ids of jobs of the same name whose points are left out: those that measure something else than "
        "the newest job, and those that have other settings of a method than the newest job with this method.",
    )


def merged_series(parts: Sequence[tuple[str, SeriesResult]]) -> SeriesResult:
    """Merge the results of the jobs of a series.

    Args:
        parts: Id and result of each job, oldest first.

    Returns:
        The points, by ascending step, of the jobs that measure what the last one does, and of these the jobs that have
        the settings of the newest job with their method. Each point has the numbers of the newest job that did not
        fail; what that one does not give is taken from earlier jobs with other methods, if they have the same
        parameters at this step. Overlaps are those that one of the jobs computed for the parameters at both steps.
    """
    last = parts[-1][1]
    alike = [(job_id, part) for job_id, part in parts if part.settings_sha256 == last.settings_sha256]
    methods = {kind: settings for _, part in alike for kind, settings in part.methods.items()}
    counted = [(job_id, part) for job_id, part in alike if part.methods.items() <= methods.items()]
    kinds = {job_id: set(part.methods) for job_id, part in counted}
    entries: dict[int, SeriesEntry] = {}
    known: dict[tuple[Any, ...], Overlaps] = {}
    for job_id, part in reversed(counted):
        own = {point.step: point for point in part.points}
        for point in part.points:
            entry, earlier = entries.get(point.step), point.model_copy(update={"jobs": [job_id]})
            if entry is None or entry.problem is not None:
                entries[point.step] = earlier if entry is None or point.problem is None else entry
            elif not kinds[job_id] <= set().union(*(kinds[each] for each in entry.jobs)):
                entries[point.step] = _completed(entry, earlier)
            if point.overlaps is not None:
                known.setdefault(_steps(own[point.overlaps.since_step], point), point.overlaps)
    points = [entries[step] for step in sorted(entries)]
    followed = [None, *(known.get(_steps(before, point)) for before, point in pairwise(points))]
    ids = {job_id for job_id, _ in counted}
    update = {
        "points": [point.model_copy(update={"overlaps": each}) for point, each in zip(points, followed, strict=True)],
        "methods": methods,
        "provenance": [origin for _, part in counted for origin in part.provenance],
        "other_jobs": [job_id for job_id, _ in parts if job_id not in ids],
        "arrays": None,
    }
    merged: SeriesResult = last.model_copy(update=update)
    return merged


def _completed(entry: SeriesEntry, earlier: SeriesEntry) -> SeriesEntry:
    """Return the numbers at a step, with those that only an earlier job with another method gives."""
    if earlier.problem is not None or earlier.parameters_sha256 != entry.parameters_sha256:
        return entry
    given = {name for name in _METHOD_FIELDS if getattr(earlier, name) is not None}
    both = {name for name in given if getattr(entry, name) is not None}
    # Numbers that belong together, such as eigenpairs and which they are, come from one job.
    added = given & _SINGLE_NUMBERS - both if both - _SINGLE_NUMBERS else given - both
    update = {name: getattr(earlier, name) for name in added} | {"jobs": [*entry.jobs, *earlier.jobs]}
    return entry.model_copy(update=update) if added else entry


def _steps(before: SeriesEntry, point: SeriesEntry) -> tuple[Any, ...]:
    """Return two steps with the parameters at each."""
    return before.step, before.parameters_sha256, point.step, point.parameters_sha256


def _point_request(request: SeriesRequest, point: SeriesPoint) -> SpectrumRequest:
    shared = {name: getattr(request, name) for name in _SPECTRUM_FIELDS if name in request.model_fields_set}
    return SpectrumRequest.model_validate({"kind": "spectrum", "model": model_at(request.model, point), **shared})


def _points(request: SeriesRequest) -> list[SpectrumRequest]:
    points = request.ordered_points
    first = _point_request(request, points[0])
    rest = (first.model_copy(update={"model": model_at(request.model, point)}) for point in points[1:])
    return [first, *rest]


EXPERIMENTS = (
    ExperimentKind(
        SeriesRequest,
        SeriesResult,
        _points,
        None,
        example={
            "kind": "series",
            "name": "run-7",
            "points": [{"step": 0, "parameters": {"kind": "artifact", "id": 64 * "0"}, "learning_rate": 0.1}],
            "model": {"kind": "mlp", "widths": [2, 3, 1], "activation": "tanh"},
            "data": {"kind": "gaussian", "num_samples": 8, "input_dim": 2, "output_dim": 1},
            "loss": "mse",
            "method": {"kind": "top-k", "k": 1},
        },
        keeps_failures=True,
        position=1,
    ),
)
