"""Samples that a caller gives: in the request, or in an uploaded file."""

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from hessian_spectrum.api_schemas.artifacts import ProgramInput, StoredArray, WholeNumbers, listed
from hessian_spectrum.api_schemas.data.kind import Check, DataKind, DataMessage
from hessian_spectrum.api_schemas.data.targets import (
    IGNORED,
    check_class_axis,
    check_label_axes,
    check_target_values,
    num_classes,
    target_axes,
)
from hessian_spectrum.api_schemas.data.uploaded import ArrayData, PartsData, UploadedSamples
from hessian_spectrum.api_schemas.losses import AnyLoss, kind_of_loss, loss_name
from hessian_spectrum.api_schemas.message import MAX_NUMBERS, Rows, Vector, misfit
from hessian_spectrum.api_schemas.models import Model, kind_of
from hessian_spectrum.api_schemas.models.kind import Samples as SampleSort

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
    """Samples in the request: numbers, rows, or for attention, sequences: rows of numbers or of vectors.

    Class labels and token ids are whole numbers; the label -100 is ignored. The loss `output` needs no targets.
    """

    kind: Literal["inline"]
    x: Samples = Field(description="Inputs of the network, one row per sample.")
    y: Samples | None = Field(
        default=None,
        description="Targets, one per sample: rows of numbers, class indices or tokens; null if the loss needs none.",
    )

    @model_validator(mode="after")
    def _as_many_targets_as_inputs(self) -> Self:
        if self.y is not None and len(self.y) != len(self.x):
            raise misfit("y", message=f"y holds {len(self.y)} samples, x holds {len(self.x)}")
        return self


SampleData = InlineData | UploadedSamples
"""Samples that a caller gives."""


def _one_input(data: SampleData) -> Numbers | StoredArray:
    """Return x for a model that reads this alone.

    Raises:
        ValidationError: At the reference to the files, if they hold other arrays.
    """
    if data.x is None:
        assert isinstance(data, UploadedSamples)
        raise misfit("data", data.reference, message=f"holds {listed(data.arrays)}; the model needs the arrays x and y")
    return data.x


def _targets(data: SampleData, loss: AnyLoss | None) -> Numbers | StoredArray:
    """Return y for a loss that needs it.

    Raises:
        ValidationError: At `y` or the reference to the files, if there is none.
    """
    if data.y is not None:
        return data.y
    needed = "the model needs" if loss is None else f"the loss {loss_name(loss)} needs"
    if isinstance(data, UploadedSamples):
        raise misfit("data", data.reference, message=f"holds no targets y, which {needed}")
    raise misfit("data", "y", message=f"field required: targets, which {needed}")


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
    _check_row("x", _one_input(data), width=num_inputs, kind=model.kind)
    assert loss is not None
    kind = kind_of_loss(loss)
    if not kind.needs_targets:
        return
    y = _targets(data, loss)
    if not kind.needs_labels:
        (width,) = target_axes([num_outputs], loss)
        _check_row("y", y, width=width or 0, kind=model.kind)
        check_target_values(y, loss)
        return
    check_unscaled(data, "y")
    check_label_axes([num_outputs], sample_shape(y), loss)
    check_labels("y", y, num_outputs, ignorable=True)


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
    for name, values, width in zip("xy", (_one_input(data), _targets(data, loss)), widths(model), strict=True):
        have = sample_shape(values)
        if len(have) not in (1, 2) or (have[1] if len(have) == 2 else 1) != width:
            needed = "a number" if width == 1 else f"a row of {width} numbers"
            raise misfit("data", name, message=f"{model.kind} takes sequences with {needed} at each position of {name}")
        length = length or have[0]
        if have[0] != length:
            raise misfit("data", name, message=f"sequences have {have[0]} positions, but those of x have {length}")


def check_tokens(model: Any, data: SampleData, loss: AnyLoss | None) -> None:
    """Check that the samples are rows of token ids for a model.

    Args:
        model: Model of the request.
        data: Data of the request.
        loss: Loss of the request, or the model's own.

    Raises:
        ValidationError: At `x` or `y` if they are not.
    """
    x, y = _one_input(data), _targets(data, loss)
    for name, rows in (("x", x), ("y", y)):
        check_unscaled(data, name)
        have = sample_shape(rows)
        if len(have) != 1:
            raise misfit("data", name, message=f"{model.kind} takes one row of token ids per sequence")
        if have != sample_shape(x):
            raise misfit("data", name, message=f"has rows of {have[0]} tokens, but x has rows of {sample_shape(x)[0]}")
        check_labels(name, rows, model.vocab_size, ignorable=name == "y")
    check_length(model, sample_shape(x)[0], "x")


_RANGES = {
    "bool": (0, 2),
    "uint8": (0, 2**8),
    "int8": (-(2**7), 2**7),
    "int16": (-(2**15), 2**15),
    "int32": (-(2**31), 2**31),
    "int64": (-(2**63), 2**63),
}
"""Whole numbers that inputs of a program may hold, by type: the smallest, and the end of the range."""


def check_program(model: Any, data: SampleData, loss: AnyLoss | None) -> None:
    """Check that the samples have the names, shapes and types of a program's inputs and output.

    Args:
        model: Model of the request.
        data: Data of the request.
        loss: Loss of the request.

    Raises:
        ValidationError: At the array that does not fit.
    """
    for name, values, expected in _program_inputs(model, data):
        _check_axes(name, sample_shape(values), expected.shape[1:])
        _check_program_numbers(data, name, values, expected)
    num_samples = _num_samples(data)
    if model.num_samples is not None and num_samples % model.num_samples:
        message = (
            f"{num_samples} samples; the program was exported for {model.num_samples} at a time: give a multiple, or "
            "export it with a number of samples that may vary"
        )
        raise misfit("data", "x" if data.x is not None else "inputs", message=message)
    assert loss is not None
    outputs = model.output.shape[1:] or [1]
    needed = target_axes(outputs, loss)
    if kind_of_loss(loss).needs_targets:
        _check_program_targets(data, loss, outputs=outputs, needed=needed)


def _program_inputs(model: Any, data: SampleData) -> Iterator[tuple[str, Numbers | StoredArray, ProgramInput]]:
    """Yield the name and the numbers of each array of inputs, with the input of the program that it is for."""
    given = data.stored_inputs if isinstance(data, UploadedSamples) else {"x": data.x}
    if given.keys() == {"x"} and len(model.inputs) == 1:
        yield "x", given["x"], model.inputs[0]
        return
    expected = {each.name: each for each in model.inputs}
    if given.keys() != expected.keys():
        have, needed = listed(given), ", ".join(expected)
        location = data.reference if isinstance(data, UploadedSamples) else "kind"
        raise misfit("data", location, message=f"holds the inputs {have}; those of the program are {needed}")
    for name, values in given.items():
        yield name, values, expected[name]


def _check_program_numbers(data: SampleData, name: str, values: Numbers | StoredArray, expected: ProgramInput) -> None:
    """Check that stored numbers can be those of an input; numbers in the request are checked by the worker."""
    if expected.dtype.startswith("complex"):
        message = f"the input {expected.name} is complex: export a network that takes real and imaginary parts"
        raise misfit("model", "program", message=message)
    if not isinstance(values, StoredArray):
        return
    is_scaled = isinstance(data, UploadedSamples) and name in data.scaling
    if "float" in expected.dtype:
        if values.dtype == "U8" and not is_scaled:
            example = json.dumps({name: {"scale": 1 / 255}})
            message = (
                f"{name} holds uint8 and the program takes {expected.dtype}: give {example} for numbers from 0 to "
            )
            message += "1, or a scale of 1 for the numbers as they are"
            raise misfit("data", "scaling", message=message)
        return
    check_unscaled(data, name)
    whole = values.whole_numbers
    if whole is None:
        raise misfit("data", name, message=f"holds numbers that are not whole; the program takes {expected.dtype}")
    first, end = _RANGES[expected.dtype]
    what = expected.dtype
    if expected.num_rows is not None:
        first, end, what = 0, expected.num_rows, f"indices into a table of {expected.num_rows} rows"
    ends = [each for each in (whole.smallest, whole.largest) if each is not None]
    for number in [*ends, *([IGNORED] if whole.num_ignored else [])]:
        if not first <= number < end:
            raise misfit("data", name, message=f"holds {number}; the program takes {what}: {first} to {end - 1}")


def _check_program_targets(
    data: SampleData, loss: AnyLoss, *, outputs: Sequence[int | None], needed: Sequence[int | None]
) -> None:
    y = _targets(data, loss)
    targets = sample_shape(y)
    if kind_of_loss(loss).needs_labels:
        check_unscaled(data, "y")
        check_class_axis(outputs, targets, loss)
        check_label_axes(outputs, targets, loss)
        if isinstance(y, StoredArray) or not targets:
            check_labels("y", y, num_classes(outputs, loss) or MAX_NUMBERS, ignorable=True)
    elif targets or needed != [1]:
        _check_axes("y", targets, needed)
        check_target_values(y, loss)


def _check_axes(name: str, have: tuple[int, ...], needed: Sequence[int | None]) -> None:
    fits = len(have) == len(needed) and all(need in (None, length) for length, need in zip(have, needed, strict=True))
    if not fits:
        spelled = " x ".join("any" if each is None else str(each) for each in needed) or "one number"
        own = " x ".join(map(str, have)) or "one number"
        raise misfit("data", name, message=f"each sample of {name} is {own}; the program has {spelled}")


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
        message = f"sequences have {length} tokens, but the model has {model.n_positions} positions"
        raise misfit("data", name, message=message)
    kind_of(model).check_length(model, length)


def _check_row(name: str, values: Numbers | StoredArray, *, width: int, kind: str) -> None:
    have = sample_shape(values) or (1,)
    if have != (width,):
        numbers = " x ".join(map(str, have))
        message = f"{name} has {numbers} numbers per sample, but {kind} with these fields has {width}"
        raise misfit("data", name, message=message)


def check_unscaled(data: SampleData, name: str) -> None:
    """Check that an array of labels or tokens has no scaling.

    Raises:
        ValidationError: At the scaling, if it has one.
    """
    if isinstance(data, UploadedSamples) and name in data.scaling:
        raise misfit("data", "scaling", name, message=f"{name} holds labels or indices, which have no scaling")


def check_labels(name: str, values: Numbers | StoredArray, num_classes: int, *, ignorable: bool) -> None:
    """Check that whole numbers from 0 to num_classes - 1 are given, and some that are not ignored.

    Args:
        name: Field of `data`.
        values: Labels or tokens.
        num_classes: Number of values that are allowed.
        ignorable: Whether -100 is allowed, too.

    Raises:
        ValidationError: At the field, if they are not.
    """
    if isinstance(values, StoredArray):
        _check_stored_labels(name, values.whole_numbers, num_classes, ignorable=ignorable)
        return
    labels: Any = chain(*values) if sample_shape(values) else values
    every_one_is_ignored = True
    for label in labels:
        if label != int(label) or not (0 <= label < num_classes or (ignorable and label == IGNORED)):
            raise misfit("data", name, message=f"{label:g} is not a whole number from 0 to {num_classes - 1}")
        every_one_is_ignored = every_one_is_ignored and label == IGNORED
    if every_one_is_ignored:
        raise misfit("data", name, message="every target is ignored")


def _check_stored_labels(name: str, labels: WholeNumbers | None, num_classes: int, *, ignorable: bool) -> None:
    if labels is None:
        raise misfit("data", name, message=f"holds numbers that are not whole numbers from 0 to {num_classes - 1}")
    outside = [each for each in (labels.smallest, labels.largest) if each is not None and not 0 <= each < num_classes]
    if labels.num_ignored and not ignorable:
        outside.append(IGNORED)
    if outside:
        raise misfit("data", name, message=f"{outside[0]} is not a whole number from 0 to {num_classes - 1}")
    if labels.largest is None:
        raise misfit("data", name, message="every target is ignored")


def _num_samples(data: SampleData) -> int:
    return data.num_samples if isinstance(data, UploadedSamples) else len(data.x)


def _num_numbers(data: SampleData) -> int:
    arrays = data.arrays.values() if isinstance(data, UploadedSamples) else (data.x, data.y)
    return sum(len(values) * prod(sample_shape(values)) for values in arrays if values is not None)


def _sequence_length(data: SampleData) -> int:
    x = next(iter(data.stored_inputs.values())) if isinstance(data, UploadedSamples) else data.x
    return (sample_shape(x) or (1,))[0]


_CHECKS: dict[SampleSort, Check] = {
    "vectors": check_vectors,
    "sequences": check_sequences,
    "tokens": check_tokens,
    "arrays": check_program,
}

KINDS = tuple(
    DataKind(
        message,
        num_samples=_num_samples,
        num_numbers=_num_numbers,
        sequence_length=_sequence_length,
        checks=_CHECKS,
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
        (8, PartsData, {"kind": "parts", "parts": [64 * "0"]}),
    )
)
