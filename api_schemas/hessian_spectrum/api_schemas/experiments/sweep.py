"""A sweep: one request over a grid of values of any of its fields."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from hessian_spectrum.api_schemas.experiments.kind import (
    MAX_POINTS,
    ExperimentKind,
    ExperimentRequest,
    ExperimentResult,
    Outcome,
)
from hessian_spectrum.api_schemas.figures.results import Cell
from hessian_spectrum.api_schemas.headlines import headlines
from hessian_spectrum.api_schemas.message import AnyValue, RequestMessage, misfit
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import Estimate, MethodResult, RitzValue

MAX_AXES = 8

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_NOT_VARIED = {"kind", "tags", "shared", "webhook", "time_limit_seconds", "blocks"}
"""Fields of a spectrum job that a sweep does not vary."""

_UNCERTAINTIES = ("standard_error", "residual", "lower", "upper", "converged")
"""Fields of a number that say how sure it is, in the order of their columns."""


class SweepRequest(ExperimentRequest):
    """Request for one spectrum at each point of a grid of values of its fields."""

    kind: Literal["sweep"]
    base: SpectrumRequest = Field(description="A spectrum job; fields of `over` replace its own.")
    over: dict[Annotated[str, Field(max_length=256)], Annotated[list[AnyValue], Field(min_length=1)]] = Field(
        min_length=1,
        max_length=MAX_AXES,
        description="Values of fields, by their path in `base`, such as `model.seed` or `train.learning_rate`; the "
        "first varies slowest. Several paths with commas between them take the same value.",
    )

    @property
    def summary(self) -> str:
        """What the job computes, in a few words."""
        return f"{self.base.summary}, {super().summary}"

    @property
    def location_of_sizes(self) -> tuple[str, ...]:
        """The job whose fields are varied."""
        return ("base",)

    @property
    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The values of the fields at each point, in order."""
        return product(*self.over.values())


class SweepResult(ExperimentResult):
    """A table with a row for each point of the grid, and a column for each field and each number."""

    kind: Literal["sweep"] = "sweep"
    over: list[str] = Field(description="Names of the columns that hold the varied fields.")
    columns: dict[str, list[Cell]] = Field(
        description="The columns by name: each varied field, `loss`, `num_parameters`, the numbers of the method with "
        "the ends of their 95 % intervals as `<name>_lower` and `<name>_upper`, and `problem`, which says why a point "
        "has no numbers. A number that has the name of a varied field is `<name>_value`. Values in "
        "loss per squared parameter unless they are other things by their names."
    )


def _points(request: SweepRequest) -> list[SpectrumRequest]:
    if (num_points := prod(map(len, request.over.values()))) > MAX_POINTS:  # before a single one is made
        raise misfit("over", message=f"a grid of {num_points:,} points; at most {MAX_POINTS:,}")
    if request.base.blocks is not None or request.base.varies_sink:
        raise misfit("base", message="a sweep has one spectrum at each point: give one block and one sink at most")
    if request.base.webhook is not None:
        raise misfit("base", "webhook", message="belongs beside base: one message tells the end of the whole sweep")
    paths = [_paths(name) for name in request.over]
    _require_distinct(request, paths)
    points = []
    for row in request.rows:
        try:
            points.append(_with_values(request.base, paths, row))
        except ValidationError as error:
            raise _at_axis(error, request, paths, row) from None
    return points


def _paths(name: str) -> list[tuple[str, ...]]:
    """Return the paths in the name of an axis."""
    paths = [tuple(path.strip().split(".")) for path in name.split(",")]
    for path in paths:
        if not all(map(_NAME.fullmatch, path)) or path[0] in _NOT_VARIED:
            raise misfit("over", name, message="is not the path of a field that can be varied")
    return paths


def _require_distinct(request: SweepRequest, paths: Sequence[list[tuple[str, ...]]]) -> None:
    """Refuse a path that is given twice, or whose field lies within that of another, which would replace it."""
    seen: list[tuple[str, ...]] = []
    for name, axis in zip(request.over, paths, strict=True):
        for path in axis:
            for other in seen:
                if all(one == two for one, two in zip(path, other, strict=False)):
                    raise misfit("over", name, message=f"varies {max('.'.join(path), '.'.join(other), key=len)} twice")
            seen.append(path)


def _with_values(base: SpectrumRequest, paths: Sequence[list[tuple[str, ...]]], row: Sequence[Any]) -> SpectrumRequest:
    """Return the request of a point; messages that it shares with the base are not validated again."""
    fields: dict[str, Any] = _fields(base)
    for axis, value in zip(paths, row, strict=True):
        for path in axis:
            _set(fields, path, value)
    return SpectrumRequest.model_validate(fields)


def _set(fields: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *outer, last = path
    for depth, name in enumerate(outer, 1):
        inner = fields.get(name)
        if not isinstance(inner, RequestMessage | dict | None):
            raise misfit(*path, message=f"{'.'.join(path[:depth])} has no fields")
        fields[name] = _fields(inner) if isinstance(inner, RequestMessage) else dict(inner or {})
        fields = fields[name]
    fields[last] = value


def _fields(message: RequestMessage) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.model_fields_set}


def _at_axis(
    error: ValidationError, request: SweepRequest, paths: Sequence[list[tuple[str, ...]]], row: Sequence[Any]
) -> ValidationError:
    """Return the first error of a point, at the value of the axis that it concerns."""
    fault = error.errors(include_url=False)[0]
    location = [part for part in fault["loc"] if isinstance(part, str)]
    for name, axis, value in zip(request.over, paths, row, strict=True):
        if any(_meet(each, location) for each in axis):
            index = next(index for index, each in enumerate(request.over[name]) if each is value)  # 1 equals true
            return misfit("over", name, index, message=fault["msg"])
    where = ".".join(map(str, fault["loc"]))
    return misfit("over", message=f"{where}: {fault['msg']}")


def _meet(path: tuple[str, ...], location: Sequence[str]) -> bool:
    """Return whether an error is at a field, above or below it; a union adds the kinds of messages to its location."""
    parts = iter(location)
    return all(part in parts for part in path) or tuple(location) == path[: len(location)] != ()


def _result_fields(request: SweepRequest, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    columns: dict[str, list[Cell]] = {}
    for name, values in zip(request.over, zip(*request.rows, strict=True), strict=True):
        columns[name] = [_cell(value) for value in values]
    numbers = [_numbers(outcome) for outcome in outcomes]
    for name in dict.fromkeys(name for row in numbers for name in row):
        columns[f"{name}_value" if name in request.over else name] = [row.get(name) for row in numbers]
    columns["problem"] = [_problem(outcome) for outcome in outcomes]
    return {"over": list(request.over), "columns": columns}


def _cell(value: Any) -> Cell:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _problem(outcome: Outcome) -> str | None:
    return (outcome.detail or outcome.title) if isinstance(outcome, Problem) else None


def _numbers(outcome: Outcome) -> Mapping[str, Cell]:
    """Return the single numbers of a result by the names of their columns."""
    if not isinstance(outcome, MethodResult):
        return {}
    row: dict[str, Cell] = {"num_parameters": outcome.num_parameters, "loss": outcome.loss}
    if (training := outcome.training) is not None:
        row |= {f"training_{name}": getattr(training, name) for name in ("num_steps", "gradient_norm", "stopped")}
    for name, value in headlines(outcome).items():
        row |= _with_uncertainty(name, value)
    pairs = getattr(outcome, "eigenpairs", [])
    for index, pair in enumerate(pairs if len(pairs) > 1 else []):
        row |= _with_uncertainty(f"eigenvalue_{index}", pair)
    return row


def _with_uncertainty(name: str, number: RitzValue | Estimate) -> dict[str, Cell]:
    fields = [each for each in _UNCERTAINTIES if each in type(number).model_fields]
    return {name: number.value} | {f"{name}_{field}": getattr(number, field) for field in fields}


EXPERIMENTS = (
    ExperimentKind(
        SweepRequest,
        SweepResult,
        _points,
        _result_fields,
        example={
            "kind": "sweep",
            "base": {
                "kind": "spectrum",
                "model": {"kind": "mlp", "widths": [2, 3, 1], "activation": "tanh"},
                "data": {"kind": "gaussian", "num_samples": 8, "input_dim": 2, "output_dim": 1},
                "loss": "mse",
                "method": {"kind": "top-k", "k": 1},
                "train": {"num_steps": 3, "learning_rate": 0.1},
            },
            "over": {"model.seed": [0, 1], "train.learning_rate": [0.1, 0.2]},
        },
        keeps_failures=True,
        position=2,
    ),
)
