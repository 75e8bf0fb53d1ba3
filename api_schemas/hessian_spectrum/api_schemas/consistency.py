"""Whether the parts of a spectrum request fit together; each error names the field to change."""

from itertools import chain
from typing import Any, Literal

from pydantic import ValidationError

from hessian_spectrum.api_schemas.arrays import shape
from hessian_spectrum.api_schemas.artifacts import StoredArray, WholeNumbers
from hessian_spectrum.api_schemas.closed_form_models import QuadraticForm, SelfAttention, sample_widths
from hessian_spectrum.api_schemas.data import (
    ArrayData,
    Data,
    DigitsData,
    GaussianData,
    GaussianSequences,
    InlineData,
    Numbers,
    SampleData,
    TextData,
    TokenData,
    sample_shape,
)
from hessian_spectrum.api_schemas.message import misfit
from hessian_spectrum.api_schemas.models import (
    IMAGE_EDGE,
    NUM_CLASSES,
    AttentionLayer,
    CausalLm,
    Conv,
    Gpt2,
    Mlp,
    Model,
    RowNetwork,
    StoredWeights,
    TokenModel,
)

Loss = Literal["mse", "cross-entropy"]

DIGITS_PIXELS, DIGITS_CLASSES = 64, 10
NUM_TOKENS = {"bytes": 256, "gpt2": 50_257}
"""Of each tokenizer."""

IGNORED = -100
SYMMETRY_TOLERANCE = 1e-12
"""Largest |a_ij - a_ji| of a quadratic form's matrix, relative to max |a_ij|, as the closed form has it."""

VectorModel = Mlp | Conv | RowNetwork
"""Networks whose samples are numbers or rows of numbers."""


def loss_of(model: Model, loss: Loss | None) -> Loss | None:
    """The loss that a request means: mse where the model has no other and none is named, None for a quadratic form.

    Raises:
        ValidationError: At `loss` if the model has no such loss, or several and none is named.
    """
    match model:
        case QuadraticForm():
            if loss is not None:
                raise misfit("loss", message="a quadratic form is its own loss")
            return None
        case Mlp() | Conv() | Gpt2() | CausalLm():
            if loss is None:
                raise misfit("loss", message="field required")
            if isinstance(model, TokenModel) and loss != "cross-entropy":
                raise misfit("loss", message=f"{model.kind} predicts tokens: its loss is cross-entropy")
            return loss
        case _:
            if loss == "cross-entropy":
                raise misfit("loss", message=f"the loss of {model.kind} is mse")
            return "mse"


def check_loss(model: Model, data: Data | None, loss: Loss | None) -> None:
    """Raises:  ValidationError at `loss` if model or data have no such loss."""
    if loss_of(model, loss) != "mse" and isinstance(data, GaussianData | GaussianSequences):
        raise misfit("loss", message="gaussian data have real targets: their loss is mse")


def check_training(model: Model, *, is_trained: bool) -> None:
    """Raises:  ValidationError at `train` if the model starts where its gradient is 0."""
    if is_trained and isinstance(model, QuadraticForm):
        raise misfit(
            "train", message="a quadratic form is taken at its critical point, and has the same matrix anywhere"
        )


def check_data(model: Model, data: Data | None, loss: Loss | None) -> None:
    """Raises:  ValidationError at the field of `model` or `data` that does not fit the others."""
    if isinstance(model, QuadraticForm):
        if data is not None:
            raise misfit("data", message="a quadratic form takes no data")
        _check_symmetric(model)
        return
    if data is None:
        raise misfit("data", message="field required")
    match model:
        case Gpt2() | CausalLm():
            _check_tokens(model, data)
        case AttentionLayer() | SelfAttention():
            _check_sequences(model, data)
        case _:
            _check_vectors(model, data, loss_of(model, loss))


def vector_widths(model: VectorModel) -> tuple[int, int]:
    """Numbers of each input and of each output."""
    match model:
        case Mlp():
            return model.layer_widths[0], model.layer_widths[-1]
        case Conv():
            return IMAGE_EDGE**2, NUM_CLASSES
        case _:
            num_inputs, num_outputs = sample_widths(model)
            return num_inputs or 1, num_outputs or 1


def sequence_widths(model: AttentionLayer | SelfAttention) -> tuple[int, int]:
    """Numbers at each position of an input and of an output."""
    return (model.embedding_dim, model.num_outputs) if isinstance(model, AttentionLayer) else (1, 1)


def _check_vectors(model: VectorModel, data: Data, loss: Loss | None) -> None:
    match data:
        case InlineData() | ArrayData():
            _check_samples(model, data, loss)
        case GaussianData():
            _check_gaussian(model, data)
        case DigitsData():
            _check_digits(model)
        case _:
            raise _wrong_kind(model, data)


def _check_sequences(model: AttentionLayer | SelfAttention, data: Data) -> None:
    match data:
        case InlineData() | ArrayData():
            _check_sample_sequences(model, data)
        case GaussianSequences():
            _check_gaussian_sequences(model, data)
        case _:
            raise _wrong_kind(model, data)


def _check_tokens(model: TokenModel, data: Data) -> None:
    match data:
        case InlineData() | ArrayData():
            _check_sample_tokens(model, data)
        case TextData():
            _check_sequence_length(model, data.sequence_length, "sequence_length")
            _check_mean_scores(model, data.sequence_length)
            needed = NUM_TOKENS[data.tokenizer]
            if model.vocab_size < needed:
                raise misfit("model", "vocab_size", message=f"the tokenizer {data.tokenizer} needs at least {needed}")
        case TokenData():
            _check_sequence_length(model, data.sequence_length, "sequence_length")
            _check_mean_scores(model, data.sequence_length)
        case _:
            raise _wrong_kind(model, data)


def _wrong_kind(model: Model, data: Data) -> ValidationError:
    return misfit("data", "kind", message=f"{model.kind} takes no {data.kind} data")


def _check_gaussian(model: VectorModel, data: GaussianData) -> None:
    if isinstance(model, Mlp):
        _check_widths(model, data.input_dim, data.output_dim, "gaussian data")
        return
    for name, have, need in zip(
        ("input_dim", "output_dim"), (data.input_dim, data.output_dim), vector_widths(model), strict=True
    ):
        if have != need:
            raise misfit("data", name, message=f"{name} is {have}, {model.kind} has {need} with these fields")


def _check_digits(model: VectorModel) -> None:
    if isinstance(model, Mlp):
        _check_widths(model, DIGITS_PIXELS, DIGITS_CLASSES, "digits")
    elif vector_widths(model) != (DIGITS_PIXELS, DIGITS_CLASSES):
        have = vector_widths(model)
        message = (
            f"digits have {DIGITS_PIXELS} pixels and {DIGITS_CLASSES} classes, this {model.kind} {have[0]}, {have[1]}"
        )
        raise misfit("data", "kind", message=message)


def _check_widths(model: Mlp, num_inputs: int, num_outputs: int, what: str) -> None:
    widths = model.layer_widths
    last = len(widths) - 1
    for name, index, have, need in (
        ("input", 0, widths[0], num_inputs),
        ("output", last, widths[-1], num_outputs),
    ):
        if have != need:
            place: tuple[str | int, ...] = ("weights", min(index, last - 1))
            if isinstance(model.weights, StoredWeights):
                place = ("weights", "id")
            elif model.weights is None:
                place = ("widths", index)
            raise misfit("model", *place, message=f"the {name} width is {have}, {what} need {need}")


def _check_samples(model: VectorModel, data: SampleData, loss: Loss | None) -> None:
    num_inputs, num_outputs = vector_widths(model)
    _check_row("x", data.x, num_inputs, model.kind)
    if loss == "mse":
        _check_row("y", data.y, num_outputs, model.kind)
        return
    if sample_shape(data.y) != ():
        raise misfit("data", "y", message="cross-entropy takes one class label per sample")
    _check_labels("y", data.y, num_outputs, ignorable=True)


def _check_row(name: str, values: Numbers | StoredArray, width: int, kind: str) -> None:
    have = sample_shape(values) or (1,)
    if have != (width,):
        numbers = " x ".join(map(str, have))
        raise misfit("data", name, message=f"{name} has {numbers} numbers per sample, {kind} {width} with these fields")


def _check_sample_sequences(model: AttentionLayer | SelfAttention, data: SampleData) -> None:
    length = None
    for name, values, width in zip("xy", (data.x, data.y), sequence_widths(model), strict=True):
        have = sample_shape(values)
        if not have or (have[1] if len(have) == 2 else 1) != width:
            wanted = "a number" if width == 1 else f"a row of {width} numbers"
            raise misfit("data", name, message=f"{model.kind} takes sequences with {wanted} at each position of {name}")
        length = length or have[0]
        if have[0] != length:
            raise misfit("data", name, message=f"sequences of {have[0]} positions, those of x have {length}")


def _check_gaussian_sequences(model: AttentionLayer | SelfAttention, data: GaussianSequences) -> None:
    num_inputs, num_outputs = sequence_widths(model)
    if data.embedding_dim != num_inputs:
        message = f"embedding_dim is {data.embedding_dim}, that of the model {num_inputs}"
        raise misfit("data", "embedding_dim", message=message)
    if num_outputs != num_inputs:
        raise misfit(
            "model", "value_dim", message=f"targets of gaussian-sequences have {num_inputs} numbers a position"
        )


def _check_sample_tokens(model: TokenModel, data: SampleData) -> None:
    for name, rows in (("x", data.x), ("y", data.y)):
        have = sample_shape(rows)
        if len(have) != 1:
            raise misfit("data", name, message=f"{model.kind} takes one row of token ids per sequence")
        if have != sample_shape(data.x):
            raise misfit("data", name, message=f"rows of {have[0]} tokens, x has rows of {sample_shape(data.x)[0]}")
        _check_labels(name, rows, model.vocab_size, ignorable=name == "y")
    _check_sequence_length(model, sample_shape(data.x)[0], "x")
    _check_mean_scores(model, sample_shape(data.x)[0])


def _check_mean_scores(model: TokenModel, length: int) -> None:
    """The first query has but one key, so that its share of the mean over all queries is sure."""
    sink = model.attention_sink if isinstance(model, Gpt2) else None
    for variant in sink.variants if sink is not None else ():
        score = variant.mean_score if variant is not None else None
        if isinstance(score, float) and score <= 1 / length:
            message = f"sequences of {length} tokens have a mean score above 1/{length} with any bias"
            raise misfit("model", "attention_sink", "mean_score", message=message)


def _check_sequence_length(model: TokenModel, length: int, name: str) -> None:
    if length > model.n_positions:
        raise misfit("data", name, message=f"sequences of {length} tokens, the model has {model.n_positions} positions")


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


def _check_stored_labels(name: str, found: WholeNumbers | None, num_classes: int, *, ignorable: bool) -> None:
    if found is None:
        raise misfit("data", name, message=f"holds numbers that are no whole ones from 0 to {num_classes - 1}")
    outside = [each for each in (found.smallest, found.largest) if each is not None and not 0 <= each < num_classes]
    if found.num_ignored and not ignorable:
        outside.append(IGNORED)
    if outside:
        raise misfit("data", name, message=f"{outside[0]} is no whole number from 0 to {num_classes - 1}")
    if found.largest is None:
        raise misfit("data", name, message="every target is ignored")


def _check_symmetric(model: QuadraticForm) -> None:
    size, num_columns = shape(model.matrix)
    if size != num_columns:
        raise misfit("model", "matrix", message=f"matrix must be square, not {size} x {num_columns}")
    rows: Any = model.matrix
    largest = max(abs(entry) for row in rows for entry in row)
    for i in range(size):
        for j in range(i):
            # halves: the difference of two large numbers may overflow
            if abs(rows[i][j] / 2 - rows[j][i] / 2) > SYMMETRY_TOLERANCE / 2 * largest:
                message = f"entries ({i}, {j}) and ({j}, {i}) differ: the matrix must be symmetric"
                raise misfit("model", "matrix", message=message)
