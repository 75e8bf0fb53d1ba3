"""The entry of an experiment: its request, the spectra that it consists of, and the result made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Optional, Self

from pydantic import Field, model_validator

from hessian_spectrum.api_schemas.message import Message, Tags, TimeLimit
from hessian_spectrum.api_schemas.models.kind import KindMessage, kind_name
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import MethodResult, Provenance, StoredArrays


class ExperimentRequest(KindMessage):
    """Base of the requests of all experiments."""

    entry: ClassVar[Optional["ExperimentKind"]] = None

    time_limit_seconds: TimeLimit = None
    tags: Tags = Field(default={})
    shared: bool = Field(
        default=False, description="Whether holders of every API key of the server may read the job and its result."
    )

    @property
    def points(self) -> list[SpectrumRequest]:
        """The spectra that the experiment consists of, in their canonical form."""
        assert self.entry is not None
        return [point.canonical() for point in self.entry.points(self)]

    @model_validator(mode="after")
    def _points_are_requests(self) -> Self:
        if self.entry is not None:
            self.entry.points(self)
        return self


class ExperimentResult(Message):
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
    """A job that takes one spectrum after the other and makes one result of them.

    Attributes:
        message: Request, with a field `kind`.
        result: Result, with a field `kind` of the same value.
        points: The spectra of a request, in the order in which they are taken. Each is a request for one spectrum; a
            ValidationError of one is shown at the field of the experiment that has the same path.
        result_fields: Fields of the result, from the request and the results of its spectra.
        example: A small request.
        position: Position in lists of experiments; new ones come last, in the order of their names.
    """

    message: type[ExperimentRequest]
    result: type[ExperimentResult]
    points: Callable[[Any], Sequence[SpectrumRequest]]
    result_fields: Callable[[Any, Sequence[Any]], dict[str, Any]]
    example: Mapping[str, Any]
    position: int = 100

    @property
    def name(self) -> str:
        """The value of the message's field `kind`."""
        return kind_name(self.message)

    def result_of(self, request: ExperimentRequest, spectra: Sequence[MethodResult]) -> ExperimentResult:
        """The result of a request.

        Args:
            request: The request.
            spectra: The results of its spectra, in order.

        Returns:
            The message.
        """
        return self.result(
            **self.result_fields(request, spectra),
            num_parameters=max(each.num_parameters for each in spectra),
            provenance=[each.provenance for each in spectra],
        )
