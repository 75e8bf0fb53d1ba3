"""What a data kind lists of itself, apart from torch: its message, how much it is, and which models it fits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hessian_spectrum.api_schemas.losses import LossName, Target
from hessian_spectrum.api_schemas.message import misfit
from hessian_spectrum.api_schemas.models import kind_of
from hessian_spectrum.api_schemas.models.kind import KindMessage, ModelMessage, Samples, fields_of, kind_name


class DataMessage(KindMessage):
    """What a request says of its data."""


Check = Callable[[Any, Any, LossName | None], None]
"""check(model, data, loss) raises a ValidationError at a place in `model` or `data` where the two do not fit."""


@dataclass(frozen=True)
class DataKind:
    """A kind of data on which jobs evaluate the loss.

    Attributes:
        message: What a request says of it, with a field `kind`. Where data are drawn it has a field `seed`.
        num_samples: Samples of a message, or sequences.
        num_numbers: Numbers that it is while a worker makes it, a random teacher's for example among them.
        example: The fields `model`, `data` and `loss` of a small job.
        checks: For each sort of samples that the data can be, whether a model that reads these fits them.
        targets: What its targets are; None: what the loss wants.
        sequence_length: Positions of each sequence, 1 where samples are vectors.
        extra_bytes: What a worker needs besides the numbers while it makes them.
        engine_arguments: Keyword arguments, beside the generator of random numbers, of the function in
            `curvature.data` that makes the data.
        position: Where it stands in lists of kinds; new ones come last, in the order of their names.
    """

    message: type[DataMessage]
    num_samples: Callable[[Any], int]
    num_numbers: Callable[[Any], int]
    example: Mapping[str, Any]
    checks: Mapping[Samples, Check]
    targets: Target | None = None
    sequence_length: Callable[[Any], int] = lambda _: 1
    extra_bytes: Callable[[Any], int] = lambda _: 0
    engine_arguments: Callable[[Any], dict[str, Any]] = fields_of
    position: int = 100

    @property
    def name(self) -> str:
        """The value of the message's field `kind`."""
        return kind_name(self.message)


def check_widths(model: ModelMessage, needed: tuple[int, int], what: str) -> None:
    """Compare the numbers of inputs and outputs of a model that reads vectors with those of data.

    Args:
        model: The model, which the message of an error is about.
        needed: Inputs and outputs of the data.
        what: The data, in the words of the message.

    Raises:
        ValidationError: At the field of the model that says how many it has, else at the kind of the data.
    """
    kind = kind_of(model)
    assert kind.widths is not None
    have = kind.widths(model)
    places = kind.width_places(model) if kind.width_places is not None else None
    if places is None and have != needed:
        message = f"{what} have {needed[0]} inputs and {needed[1]} outputs, this {model.kind} {have[0]} and {have[1]}"
        raise misfit("data", "kind", message=message)
    for name, place, number, need in zip(("input", "output"), places or ((), ()), have, needed, strict=True):
        if number != need:
            raise misfit("model", *place, message=f"the {name} width is {number}, {what} need {need}")
