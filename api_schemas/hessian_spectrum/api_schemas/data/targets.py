"""Targets of samples that a caller gives: whether they fit the outputs of a model and its loss."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hessian_spectrum.api_schemas.losses import TARGETS, AnyLoss, LossKind, kind_of_loss, loss_name
from hessian_spectrum.api_schemas.message import misfit

IGNORED = -100
"""Label of targets that the loss ignores, and target that binary cross-entropy ignores."""

Axes = Sequence[int | None]
"""Lengths of the axes of one sample, None where it may vary."""


def class_axis(loss: AnyLoss | None) -> int | None:
    """Return the axis of the outputs along which classes lie, where axis 0 counts samples; None: the last."""
    return None if loss is None else getattr(loss, "class_axis", None)


def target_axes(outputs: Axes, loss: AnyLoss) -> Axes:
    """Return the axes that targets must have for outputs of a program (axes of one sample).

    Args:
        outputs: Axes of the outputs of one sample; none where that is one number.
        loss: Loss of the request.

    Returns:
        The axes of the targets of one sample.

    Raises:
        ValidationError: At `loss` if the outputs do not fit it.
    """
    kind, axis = kind_of_loss(loss), class_axis(loss)
    axes = list(outputs) or [1]
    if kind.is_linear and axes != [1]:
        message = f"{loss_name(loss)}: the program must return one number for each sample, not {_spelled(axes)}"
        raise misfit("loss", message=message)
    if axis is not None and axis > len(axes):
        message = f"the output has only axes 1 to {len(axes)} besides that of the samples"
        raise misfit("loss", "class_axis", message=message)
    if kind.needs_labels:
        del axes[-1 if axis is None else axis - 1]
    elif kind.outputs_per_target > 1 and axes[-1] is not None:
        number, rest = divmod(axes[-1], kind.outputs_per_target)
        if rest:
            message = (
                f"{loss_name(loss)} needs a mean and a log variance for each target, but the number of outputs, "
                f"{axes[-1]}, is odd"
            )
            raise misfit("loss", message=message)
        axes[-1] = number
    return axes


def num_classes(outputs: Axes, loss: AnyLoss) -> int | None:
    """Return the number of classes of the outputs of one sample; None if it may vary."""
    axis = class_axis(loss)
    return (outputs or [1])[-1 if axis is None else axis - 1]


def check_class_axis(outputs: Axes, targets: tuple[int, ...], loss: AnyLoss) -> None:
    """Check that labels say along which axis the classes of an output lie, or that the request does.

    Args:
        outputs: Axes of the outputs of one sample.
        targets: Axes of the targets of one sample.
        loss: Loss of the request.

    Raises:
        ValidationError: At the field `class_axis` of the loss if labels fit classes along the first axis of a sample.
    """
    if len(outputs) < 2 or class_axis(loss) is not None or not fits(targets, outputs[1:]):
        return
    if fits(targets, outputs[:-1]):
        message = "the labels fit classes along axis 1 of the output as well as along the last: state class_axis"
    else:
        message = "the labels fit classes along axis 1 of the output, but the last is the default: state class_axis"
    raise misfit("loss", "class_axis", message=message)


def check_label_axes(outputs: Axes, targets: tuple[int, ...], loss: AnyLoss) -> None:
    """Check that there is one label for all outputs along the axis of the classes.

    Args:
        outputs: Axes of the outputs of one sample.
        targets: Axes of the targets of one sample.
        loss: Loss of the request.

    Raises:
        ValidationError: At `y` if there are more or fewer labels.
    """
    needed = target_axes(outputs, loss)
    if fits(targets, needed):
        return
    count = num_classes(outputs, loss)
    numbers = "1 number" if list(outputs) == [1] else f"{_spelled(outputs)} numbers"
    classes = "classes" if count is None else f"{count} class" if count == 1 else f"{count} classes"
    message = (
        f"y has shape {_with_samples(targets)}, and the model returns {numbers} per sample, for {classes}: labels are "
        f"whole numbers from 0 of shape {_with_samples(needed)}"
    )
    if count == 1:
        message += "; for two classes with one output, use the loss binary-cross-entropy"
    elif fits(targets, outputs):
        message += "; for probabilities of the classes, such as one-hot rows, use the loss kl"
    raise misfit("data", "y", message=message)


def check_class_weights(loss: AnyLoss, number: int | None) -> None:
    """Check that there is one class weight for each class.

    Args:
        loss: Loss of the request.
        number: Number of classes; None: unknown.

    Raises:
        ValidationError: At the weights if there are fewer or more.
    """
    weights = getattr(loss, "class_weights", None)
    if weights is not None and number is not None and len(weights) != number:
        raise misfit("loss", "class_weights", message=f"{len(weights)} weights for {number} classes")


def check_target_values(values: Any, loss: AnyLoss) -> None:
    """Check that targets in a request lie where the loss is defined.

    Args:
        values: Numbers, or lists of them; of uploaded arrays the numbers are checked when the job runs.
        loss: Loss of the request.

    Raises:
        ValidationError: At `y` if one does not.
    """
    kind = kind_of_loss(loss)
    if not isinstance(values, list) or kind.is_linear:
        return
    for value in _numbers(values):
        if not _is_allowed(value, kind):
            raise misfit("data", "y", message=f"{value:g}: targets of {loss_name(loss)} are {_allowed(kind)}")
    if kind.only_target == "distributions":
        for index, row in enumerate(_rows(values)):
            if abs(math.fsum(row) - 1) > SUM_TOLERANCE:
                raise misfit("data", "y", index, message=f"the probabilities sum to {math.fsum(row):g} instead of 1")


SUM_TOLERANCE = 1e-4
"""Largest distance from 1 of the sum of a target's probabilities."""


def fits(have: Sequence[int], needed: Axes) -> bool:
    """Return whether axes have the needed lengths."""
    return len(have) == len(needed) and all(need in (None, own) for own, need in zip(have, needed, strict=True))


def _is_allowed(value: float, kind: LossKind) -> bool:
    match kind.only_target:
        case "counts":
            return value >= 0
        case "probabilities":
            return 0 <= value <= 1 or value == IGNORED
        case "distributions":
            return 0 <= value <= 1
    return True


def _allowed(kind: LossKind) -> str:
    assert kind.only_target is not None
    ignored = ", or -100, which is ignored" if kind.only_target == "probabilities" else ""
    return TARGETS[kind.only_target] + ignored


def _numbers(values: Iterable[Any]) -> Iterator[float]:
    for value in values:
        if isinstance(value, list):
            yield from _numbers(value)
        else:
            yield value


def _rows(values: list[Any]) -> Iterator[list[float]]:
    """Yield the innermost lists; a number alone is the probability of the only class."""
    for value in values:
        if not isinstance(value, list):
            yield [value]
        elif value and isinstance(value[0], list):
            yield from _rows(value)
        else:
            yield value


def _with_samples(axes: Axes) -> str:
    """Return the shape of an array with n samples, such as (n,) or (n, 3)."""
    return f"(n, {', '.join('any' if each is None else str(each) for each in axes)})" if axes else "(n,)"


def _spelled(axes: Axes) -> str:
    return " x ".join("any" if each is None else str(each) for each in axes)
