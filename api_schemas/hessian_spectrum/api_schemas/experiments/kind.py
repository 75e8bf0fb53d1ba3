"""The entry of an experiment: its request, the computations that it consists of, and the result made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Optional, Self

from pydantic import Field, ValidationInfo, model_validator

from hessian_spectrum.api_schemas.display import DisplayedMessage
from hessian_spectrum.api_schemas.figures.kind import Measurement
from hessian_spectrum.api_schemas.message import Tags, TimeLimit, Webhook
from hessian_spectrum.api_schemas.models.kind import KindMessage, kind_name
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import MethodResult, Provenance, StoredArrays

MAX_POINTS = 10_000
"""Largest number of points of an experiment."""

PointRequest = SpectrumRequest | Measurement
"""What is computed at one point of an experiment: one spectrum, or the measurement of a figure."""

Outcome = MethodResult | Problem
"""The result of a spectrum, or why it cannot be computed."""


class ExperimentRequest(KindMessage):
    """Base of the requests of all experiments."""

    entry: ClassVar[Optional["ExperimentKind"]] = None

    time_limit_seconds: TimeLimit = None
    tags: Tags = Field(default={})
    shared: bool = Field(
        default=False, description="Whether holders of every API key of the server may read the job and its result."
    )
    webhook: Webhook = None

    @cached_property
    def _points(self) -> Sequence[PointRequest]:
        assert self.entry is not None
        return self.entry.points(self)

    @cached_property
    def computations(self) -> Sequence[PointRequest]:
        """What the experiment consists of, in canonical form: one computation for each point."""
        return [each.canonical() for each in self._points]

    @property
    def location_of_sizes(self) -> tuple[str, ...]:
        """Path to the message that holds model, data and method of the points."""
        return ()

    @property
    def seconds(self) -> float | None:
        """Predicted time on two cores, in seconds, good to a factor of two; None if it is not predicted."""
        return None

    @property
    def gpu_seconds(self) -> float:
        """The part of the predicted time that a GPU may shorten."""
        return 0.0

    @property
    def summary(self) -> str:
        """What the job computes, in a few words."""
        count = len(self._points)
        return "1 point" if count == 1 else f"{count} points"

    @property
    def all_tags(self) -> dict[str, str]:
        """The labels of the job: the caller's own, and those that the server adds."""
        return dict(self.tags)

    @model_validator(mode="after")
    def _points_are_requests(self, info: ValidationInfo) -> Self:
        if self.entry is not None:
            _ = self._points
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy as pydantic does, without the cached computations, which follow from the fields.

        Args:
            update: New values by name of the field; they are not validated.
            deep: Whether to copy nested messages, too.

        Returns:
            The copy.
        """
        copied = super().model_copy(update=update, deep=deep)
        for name in ("_points", "computations"):
            copied.__dict__.pop(name, None)
        return copied


class ExperimentResult(DisplayedMessage):
    """Base of the results of all experiments."""

    if TYPE_CHECKING:
        kind: str
    num_parameters: int = Field(description="Number of rows of the largest matrix.")
    provenance: list[Provenance] = Field(description="Origin of the numbers of each spectrum, in order.")
    arrays: StoredArrays | None = Field(
        default=None, description="Arrays in the npz file that this document lacks; null if it holds everything."
    )


@dataclass(frozen=True)
class ExperimentKind:
    """A job that consists of independent computations and makes one result of them.

    Attributes:
        message: Request, with a field `kind`.
        result: Result, with a field `kind` of the same value.
        points: The computations of a request, in order. Each spectrum is a request for one spectrum; a ValidationError
            of one is shown at the field of the experiment that has the same path.
        result_fields: Fields of the result, from the request and the results of its spectra; None if the result is made
            of more than that, by a function of `worker.experiments`.
        example: A small request.
        keeps_failures: Whether the experiment has a result although some of its points have none: they are given as
            problems.
        position: Position in lists of experiments; new ones come last, in the order of their names.
    """

    message: type[ExperimentRequest]
    result: type[ExperimentResult]
    points: Callable[[Any], Sequence[PointRequest]]
    result_fields: Callable[[Any, Sequence[Any]], dict[str, Any]] | None
    example: Mapping[str, Any]
    keeps_failures: bool = False
    position: int = 100

    @property
    def name(self) -> str:
        """The value of the message's field `kind`."""
        return kind_name(self.message)

    def result_of(self, request: ExperimentRequest, outcomes: Sequence[Outcome]) -> ExperimentResult:
        """The result of a request whose computations are spectra.

        Args:
            request: The request.
            outcomes: The results of its spectra, in order; problems only if the kind keeps failures.

        Returns:
            The message.
        """
        assert self.result_fields is not None
        return self.result(**self.result_fields(request, outcomes), **common_fields(outcomes))


def common_fields(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the fields that the results of all experiments share, from those of their spectra."""
    results = [each for each in outcomes if isinstance(each, MethodResult)]
    return {
        "num_parameters": max((each.num_parameters for each in results), default=0),
        "provenance": [each.provenance for each in results],
    }
