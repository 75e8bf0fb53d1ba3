"""The entry of a figure: its parameters, and the measurements of which its numbers are made."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hessian_spectrum.api_schemas.message import RequestMessage
from hessian_spectrum.api_schemas.models.kind import KindMessage

Scale = Literal["quick", "paper"]
"""Sizes of a figure: those of the source, or smaller ones that two cores compute within a few minutes."""


@dataclass(frozen=True)
class MeasurementCost:
    """The predicted cost of a measurement.

    Attributes:
        num_parameters: Parameters of the largest network.
        num_products: Matrix-vector products of all networks together; the columns of dense matrices count.
        num_training_passes: Forward and backward passes over the data of one network, over all networks.
        peak_bytes: Peak memory in bytes, apart from that of an idle worker.
        seconds: Time on two cores, good to a factor of two.
    """

    num_parameters: int
    num_products: int
    num_training_passes: float
    peak_bytes: int
    seconds: float


class Measurement(KindMessage):
    """What is computed at one point of a figure; equal measurements are computed once, whatever figures need them.

    Attributes:
        can_use_gpu: Whether workers with a GPU compute it there, and may be far faster than predicted for two cores.
    """

    can_use_gpu: ClassVar[bool] = False

    @property
    @abstractmethod
    def cost(self) -> MeasurementCost:
        """The predicted cost."""

    @property
    def job_request(self) -> Any:
        """The request of the job that the measurement consists of, whose plan is that of the measurement; or None."""
        return None


class FigureParameters(RequestMessage):
    """Base of the parameters of all figures; defaults are the values of the source."""


@dataclass(frozen=True)
class Figure:
    """A figure of a source, which a job computes.

    Attributes:
        name: Name in requests, such as `cracking-4`.
        title: What it shows, in a few words.
        source: Where it is printed and described.
        parameters: Its parameters; the defaults are those of the scale `paper`.
        quick: Values of the parameters that differ at the scale `quick`.
        points: Its measurements, in order.
        position: Position in lists of figures; equal ones are sorted by name.
    """

    name: str
    title: str
    source: str
    parameters: type[FigureParameters]
    quick: Mapping[str, Any]
    points: Callable[[Any], Sequence[Measurement]]
    position: int = 100

    def defaults(self, scale: Scale) -> dict[str, Any]:
        """Return the values that differ from the defaults of the parameters at a scale."""
        return dict(self.quick) if scale == "quick" else {}
