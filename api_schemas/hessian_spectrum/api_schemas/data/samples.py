"""Samples that a caller gives: in the request, or in an uploaded file."""

from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, ValidationInfo, model_validator

from hessian_spectrum.api_schemas.artifacts import ArtifactId, StoredArray, WholeNumbers, arrays_of, listed
from hessian_spectrum.api_schemas.data.kind import DataKind, DataMessage
from hessian_spectrum.api_schemas.data.targets import (
    IGNORED,
    check_class_axis,
    check_target_values,
    num_classes,
    target_axes,
)
from hessian_spectrum.api_schemas.losses import AnyLoss, kind_of_loss, loss_name
from hessian_spectrum.api_schemas.message import MAX_NUMBERS, Rows, Vector, misfit
from hessian_spectrum.api_schemas.models import Model, kind_of

MAX_SAMPLE_DIMENSIONS = 8

Numbers = list[float] | list[list[float]] | list[list[list[float]]]
"""List of samples, each a number, a row of numbers, or several rows of equal length."""


def sample_shape(values: Numbers | StoredArray) -> tuple[int, ...]:
    """Return the shape of one sample: () for a number, (length,) for a row, (rows, columns) for several rows."""
    if isinstance(values, StoredArray):
        return tuple(values.shape[1:])
    first = values[0]
    if not isinstance(first, Sequence):
        return ()
    return (len(first), len(first[0])) if isinstance(first[0], Sequence) else (len(first),)


def _depth(values: object) -> str:
    """Return the name of the type of samples, from the depth to which the first entries are nested."""
    depth = 0
    while isinstance(values, list) and depth < 3:
        values, depth = values[0] if values else None, depth + 1
    return ("numbers", "numbers", "rows", "sequences")[depth]


def _one_shape(sequences: list[list[list[float]]]) -> list[list[list[float]]]:
    first_shape = sample_shape(sequences)
    for index, sequence in enumerate(sequences):
        if (len(sequence), len(sequence[0])) != first_shape:
            own = f"{len(sequence)} rows of {len(sequence[0])} numbers"
            first = f"{first_shape[0]} of {first_shape[1]}"
            raise misfit(index, message=f"sequence {index} holds {own}, sequence 0 holds {first}")
    if len(sequences) * prod(first_shape) > MAX_NUMBERS:
        raise misfit(message=f"more than the {MAX_NUMBERS} numbers that an array may hold")
    return sequences


Sequences = Annotated[
    list[Rows], Field(min_length=1, max_length=MAX_NUMBERS, fail_fast=True), AfterValidator(_one_shape)
]
Samples = Annotated[
    Annotated[Vector, Tag("numbers")] | Annotated[Rows, Tag("rows")] | Annotated[Sequences, Tag("sequences")],
    Discriminator(_depth),
]


class InlineData(DataMessage):
    """Samples in the request: numbers, rows, or for attention sequences: rows of numbers, or of vectors.

    Class labels and token ids are whole numbers, -100 is ignored.
    """

    kind: Literal["inline"]
    x: Samples = Field(description="Inputs of the network, one row per sample.")
    y: Samples = Field(description="Targets, one per sample: rows of numbers, class indices or tokens.")

    @model_validator(mode="after")
    def _as_many_targets_as_inputs(self) -> Self:
        if len(self.y) != len(self.x):
            raise misfit("y", message=f"y holds {len(self.y)} samples, x holds {len(self.x)}")
        return self


class ArrayData(DataMessage):
    """Samples in an uploaded npz or safetensors file that holds the arrays x and y, as `inline` has them.

    What x and y are is filled in from the file; where it is given, it must agree.
    """

    model_config = ConfigDict(json_schema_extra={"required": ["kind", "id"]})

    kind: Literal["artifact"]
    id: ArtifactId
    x: StoredArray = Field(description="Type and shape of the stored inputs.")
    y: StoredArray = Field(description="Type and shape of the stored targets.")

    @model_validator(mode="before")
    @classmethod
    def _with_arrays(cls, fields: Any, info: ValidationInfo) -> Any:
        arrays = arrays_of(fields, info)
        if arrays is None:
            return fields
        if arrays.keys() != {"x", "y"}:
            raise misfit("id", message=f"holds {listed(arrays)}; data are the arrays x and y")
        known = {name: array.model_dump() for name, array in arrays.items()}
        for name, array in known.items():
            if fields.get(name) not in (None, array):
                raise misfit(name, message="the artifact holds another array; it may be left out")
        return fields | known

    @model_validator(mode="after")
    def _samples_with_targets(self) -> Self:
        for name, array in (("x", self.x), ("y", self.y)):
            if len(array.shape) > MAX_SAMPLE_DIMENSIONS:
                raise misfit(
                    "id",
                    message=f"{name} has {len(array.shape)} dimensions, at most {MAX_SAMPLE_DIMENSIONS} are supported",
                )
        if len(self.y) != len(self.x):
            raise misfit("id", message=f"y holds {len(self.y)} samples, x holds {len(self.x)}")
        return self


SampleData = InlineData | ArrayData
"""Samples that a caller gives."""


def check_vectors(model: Model, data: SampleData, loss: AnyLoss | None) -> None:
    """Check that the samples are rows of numbers, with rows or labels as targets, for a model.

    Args:
        model: Model of the request.
        data: Data of the request.
        loss: Loss of the request, or the model's own.

    Raises:
        ValidationError: At `x` or `y` if they are not.
    """
    widths = kind_of(model).widths
    assert widths is not None
    num_inputs, num_outputs = widths(model)
    _check_row("x", data.x, width=num_inputs, kind=model.kind)
    assert loss is not None
    if kind_of_loss(loss).is_linear:
        return
    if not kind_of_loss(loss).needs_labels:
        (width,) = target_axes([num_outputs], loss)
        _check_row("y", data.y, width=width or 0, kind=model.kind)
        check_target_values(data.y, loss)
        return
    if sample_shape(data.y) != ():
        raise misfit("data", "y", message=f"{loss_name(loss)} takes one class label per sample")
    _check_labels("y", data.y, num_outputs, ignorable=True)


def check_sequences(model: Model, data: SampleData, loss: AnyLoss | None) -> None:
    """Check that the samples are sequences of vectors for a model.

    Args:
        model: Model of the request.
        data: Data of the request.
        loss: Loss of the request, or the model's own.

    Raises:
        ValidationError: At `x` or `y` if they are not.
    """
    widths = kind_of(model).widths
    assert widths is not None
    length = None
    for name, values, width in zip("xy", (data.x, data.y), widths(model), strict=True):
        have = sample_shape(values)
        if len(have) not in (1, 2) or (have[1] if len(have) == 2 else 1) != width:
            needed = "a number" if width == 1 else f"a row of {width} numbers"
            raise misfit("data", name, message=f"{model.kind} takes sequences with {needed} at each position of {name}")
        length = length or have[0]
        if have[0] != length:
            raise misfit("data", name, message=f"sequences of {have[0]} positions, those of x have {length}")


def check_tokens(model: Any, data: SampleData, loss: AnyLoss | None) -> None:
    """Check that the samples are rows of token ids for a model.

    Args:
        model: Model of the request.
        data: Data of the request.
        loss: Loss of the request, or the model's own.

    Raises:
        ValidationError: At `x` or `y` if they are not.
    """
    for name, rows in (("x", data.x), ("y", data.y)):
        have = sample_shape(rows)
        if len(have) != 1:
            raise misfit("data", name, message=f"{model.kind} takes one row of token ids per sequence")
        if have != sample_shape(data.x):
            raise misfit("data", name, message=f"rows of {have[0]} tokens, x has rows of {sample_shape(data.x)[0]}")
        _check_labels(name, rows, model.vocab_size, ignorable=name == "y")
    check_length(model, sample_shape(data.x)[0], "x")


def check_arrays(model: Any, data: SampleData, loss: AnyLoss | None) -> None:
    """Check that the samples have the shapes of a program's input and output.

    Args:
        model: Model of the request.
        data: Data of the request.
        loss: Loss of the request.

    Raises:
        ValidationError: At `x` or `y` if they have not.
    """
    (expected,) = model.inputs
    _check_axes("x", sample_shape(data.x), expected.shape[1:])
    if "float" not in expected.dtype and isinstance(data.x, StoredArray) and data.x.whole_numbers is None:
        raise misfit("data", "x", message=f"holds numbers that are not whole; the program takes {expected.dtype}")
    if model.num_samples is not None and len(data.x) % model.num_samples:
        message = f"{len(data.x)} samples; the program was exported for {model.num_samples} at a time: give a multiple"
        raise misfit("data", "x", message=message)
    assert loss is not None
    outputs, targets = model.output.shape[1:] or [1], sample_shape(data.y)
    needed = target_axes(outputs, loss)
    if kind_of_loss(loss).needs_labels:
        check_class_axis(outputs, targets, loss)
        _check_axes("y", targets, needed)
        _check_stored_or_inline_labels(data.y, num_classes(outputs, loss))
    elif not kind_of_loss(loss).is_linear and (targets or needed != [1]):
        _check_axes("y", targets, needed)
        check_target_values(data.y, loss)


def _check_axes(name: str, have: tuple[int, ...], needed: Sequence[int | None]) -> None:
    fits = len(have) == len(needed) and all(need in (None, length) for length, need in zip(have, needed, strict=True))
    if not fits:
        spelled = " x ".join("any" if each is None else str(each) for each in needed) or "one number"
        own = " x ".join(map(str, have)) or "one number"
        raise misfit("data", name, message=f"each sample of {name} is {own}; the program has {spelled}")


def _check_stored_or_inline_labels(labels: Numbers | StoredArray, num_classes: int | None) -> None:
    if isinstance(labels, StoredArray) or not sample_shape(labels):
        _check_labels("y", labels, num_classes or MAX_NUMBERS, ignorable=True)


def check_length(model: Any, length: int, name: str) -> None:
    """Check that a model takes sequences of a length.

    Args:
        model: Model of the request.
        length: Tokens of each sequence.
        name: Field of `data` that determines the length.

    Raises:
        ValidationError: At that field, or at a field of `model`, if it does not.
    """
    if length > model.n_positions:
        raise misfit("data", name, message=f"sequences of {length} tokens, the model has {model.n_positions} positions")
    kind_of(model).check_length(model, length)


def _check_row(name: str, values: Numbers | StoredArray, *, width: int, kind: str) -> None:
    have = sample_shape(values) or (1,)
    if have != (width,):
        numbers = " x ".join(map(str, have))
        raise misfit("data", name, message=f"{name} has {numbers} numbers per sample, {kind} {width} with these fields")


def _check_labels(name: str, values: Numbers | StoredArray, num_classes: int, *, ignorable: bool) -> None:
    if isinstance(values, StoredArray):
        _check_stored_labels(name, values.whole_numbers, num_classes, ignorable=ignorable)
        return
    labels: Any = chain(*values) if sample_shape(values) else values
    every_one_is_ignored = True
    for label in labels:
        if label != int(label) or not (0 <= label < num_classes or (ignorable and label == IGNORED)):
            raise misfit("data", name, message=f"{label:g} is no whole number from 0 to {num_classes - 1}")
        every_one_is_ignored = every_one_is_ignored and label == IGNORED
    if every_one_is_ignored:
        raise misfit("data", name, message="every target is ignored")


def _check_stored_labels(name: str, labels: WholeNumbers | None, num_classes: int, *, ignorable: bool) -> None:
    if labels is None:
        raise misfit("data", name, message=f"holds numbers that are no whole ones from 0 to {num_classes - 1}")
    outside = [each for each in (labels.smallest, labels.largest) if each is not None and not 0 <= each < num_classes]
    if labels.num_ignored and not ignorable:
        outside.append(IGNORED)
    if outside:
        raise misfit("data", name, message=f"{outside[0]} is no whole number from 0 to {num_classes - 1}")
    if labels.largest is None:
        raise misfit("data", name, message="every target is ignored")


def _num_numbers(data: SampleData) -> int:
    return sum(len(values) * prod(sample_shape(values)) for values in (data.x, data.y))


def _sequence_length(data: SampleData) -> int:
    return (sample_shape(data.x) or (1,))[0]


KINDS = tuple(
    DataKind(
        message,
        num_samples=lambda data: len(data.x),
        num_numbers=_num_numbers,
        sequence_length=_sequence_length,
        checks={"vectors": check_vectors, "sequences": check_sequences, "tokens": check_tokens, "arrays": check_arrays},
        example={
            "model": {"kind": "mlp", "widths": [2, 3, 1], "activation": "tanh"},
            "data": example,
            "loss": "mse",
        },
        position=position,
    )
    for position, message, example in (
        (1, InlineData, {"kind": "inline", "x": [[0.0, 1.0], [1.0, 0.5]], "y": [[1.0], [-1.0]]}),
        (7, ArrayData, {"kind": "artifact", "id": 64 * "0"}),
    )
)
