"""The entry of a kind of data, apart from torch: its message, its size, and the models that it fits.

The checks of whether data, model and loss of a request fit together name the field to change.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hessian_spectrum.api_schemas.data.targets import check_class_weights, class_axis, num_classes
from hessian_spectrum.api_schemas.losses import TARGETS, AnyLoss, Target, kind_of_loss, loss_name, losses_where
from hessian_spectrum.api_schemas.message import misfit
from hessian_spectrum.api_schemas.models.kind import KindMessage, ModelMessage, Samples, fields_of, kind_name
from hessian_spectrum.api_schemas.models.kind import kind_of as model_kind_of


class DataMessage(KindMessage):
    """The data in a request; the registry of kinds sets the entry of each message."""

    data_kind: ClassVar["DataKind"]


Check = Callable[[Any, Any, AnyLoss | None], None]
"""check(model, data, loss) raises a ValidationError at a location in `model` or `data` where the two do not fit."""


@dataclass(frozen=True)
class DataKind:
    """A kind of data on which jobs evaluate the loss.

    Attributes:
        message: What a request says of it, with a field `kind`. Where data are drawn it has a field `seed`.
        num_samples: Samples of a message, or sequences.
        num_numbers: Numbers that it is while a worker makes it, a random teacher's for example among them.
        example: The fields `model`, `data` and `loss` of a small job.
        checks: For each sort of samples that the data can be, whether a model that reads these fits them.
        targets: What its targets are; None: whatever the loss needs.
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


def kind_of(data: DataMessage) -> DataKind:
    """Return the entry of the kind of the data."""
    return data.data_kind


def num_samples(data: DataMessage | None) -> int:
    """Return the number of samples or sequences; 1 where a matrix takes the place of data."""
    return 1 if data is None else kind_of(data).num_samples(data)


def sequence_length(data: DataMessage | None) -> int:
    """Return the number of positions of each sequence; 1 where samples are vectors."""
    return 1 if data is None else kind_of(data).sequence_length(data)


def check_widths(model: ModelMessage, needed: tuple[int, int], what: str) -> None:
    """Compare the numbers of inputs and outputs of a model that reads vectors with those of data.

    Args:
        model: The model, which the message of an error is about.
        needed: Inputs and outputs of the data.
        what: The data, in the words of the message.

    Raises:
        ValidationError: At the field of the model that says how many it has, else at the kind of the data.
    """
    kind = model_kind_of(model)
    assert kind.widths is not None
    have = kind.widths(model)
    locations = kind.width_locations(model) if kind.width_locations is not None else None
    if locations is None and have != needed:
        message = f"{what} have {needed[0]} inputs and {needed[1]} outputs, this {model.kind} {have[0]} and {have[1]}"
        raise misfit("data", "kind", message=message)
    for name, location, number, need in zip(("input", "output"), locations or ((), ()), have, needed, strict=True):
        if number != need:
            raise misfit("model", *location, message=f"the {name} width is {number}, {what} need {need}")


def loss_of(model: ModelMessage, loss: AnyLoss | None) -> AnyLoss | None:
    """Return the loss that a request implies.

    Args:
        model: ModelMessage of the request.
        loss: Loss of the request; None if it names none.

    Returns:
        The loss; mse if the model accepts no other, and None for a quadratic form.

    Raises:
        ValidationError: At `loss` if the model does not accept it, or accepts several and none is named.
    """
    kind = model_kind_of(model)
    if kind.samples == "none":
        if loss is not None:
            raise misfit("loss", message="a quadratic form is its own loss")
        return None
    if kind.only_loss is not None:
        if loss is not None and loss_name(loss) != kind.only_loss:
            raise misfit("loss", message=f"the loss of {model.kind} is {kind.only_loss}")
        return kind.only_loss
    if loss is None:
        raise misfit("loss", message="field required")
    if kind.samples == "tokens" and not kind_of_loss(loss).predicts_tokens:
        losses = losses_where(predicts_tokens=True)
        raise misfit("loss", message=f"{model.kind} predicts tokens: its loss is {losses}")
    return loss


def check_loss(model: ModelMessage, data: DataMessage | None, loss: AnyLoss | None) -> None:
    """Check that model and data accept the loss.

    Args:
        model: ModelMessage of the request.
        data: DataMessage of the request.
        loss: Loss of the request; None if it names none.

    Raises:
        ValidationError: At `loss` if model or data do not accept it.
    """
    effective = loss_of(model, loss)
    target = kind_of(data).targets if data is not None else None
    if effective is None or target is None or target in kind_of_loss(effective).targets:
        return
    assert data is not None
    raise misfit("loss", message=f"{data.kind} data have {TARGETS[target]}: their loss is {losses_where(target)}")


def check_training(model: ModelMessage, *, is_trained: bool, batch_size: int | None = None) -> None:
    """Check that the model can be trained.

    Args:
        model: ModelMessage of the request.
        is_trained: Whether the request trains it.
        batch_size: Samples of each step; None: all.

    Raises:
        ValidationError: At `train` if training does not apply to the model, as for a quadratic form.
    """
    kind = model_kind_of(model)
    if is_trained and not kind.is_trainable:
        raise misfit(
            "train", message="a quadratic form is taken at its critical point, and has the same matrix anywhere"
        )
    at_once = kind.samples_at_once(model)
    if batch_size is not None and at_once is not None and batch_size % at_once:
        message = f"the program was exported for {at_once} samples at a time: give a multiple of that"
        raise misfit("train", "batch_size", message=message)


def check_data(model: ModelMessage, data: DataMessage | None, loss: AnyLoss | None) -> None:
    """Check that the data fit model and loss.

    Args:
        model: ModelMessage of the request.
        data: DataMessage of the request.
        loss: Loss of the request; None if it names none.

    Raises:
        ValidationError: At the field of `model` or `data` that does not fit the others.
    """
    kind = model_kind_of(model)
    if kind.samples == "none" and data is not None:
        raise misfit("data", message="a quadratic form takes no data")
    kind.check(model)
    if kind.samples == "none":
        return
    if data is None:
        raise misfit("data", message="field required")
    check = kind_of(data).checks.get(kind.samples)
    if check is None:
        raise misfit("data", "kind", message=f"{model.kind} takes no {data.kind} data")
    effective = loss_of(model, loss)
    check(model, data, effective)
    if effective is not None:
        _check_options(model, effective)


def _check_options(model: ModelMessage, loss: AnyLoss) -> None:
    kind = model_kind_of(model)
    axis = class_axis(loss)
    if axis is not None and kind.samples != "arrays":
        message = f"the classes of {model.kind} lie along the last axis; only exported programs have others"
        raise misfit("loss", "class_axis", message=message)
    number: int | None = getattr(model, "vocab_size", None)
    if kind.widths is not None:
        number = kind.widths(model)[1]
    elif kind.samples == "arrays":
        output: Any = getattr(model, "output", None)
        number = num_classes(output.shape[1:], loss)
    check_class_weights(loss, number)
    if kind.widths is not None and kind_of_loss(loss).is_linear and number != 1:
        raise misfit("loss", message=f"{loss_name(loss)}: the model must have one output, not {number}")
