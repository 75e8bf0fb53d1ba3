"""Whether the parts of a spectrum request fit together; each error names the field to change."""

from itertools import chain

from api_schemas.data import Data, DigitsData, GaussianData, InlineData, TextData
from api_schemas.message import misfit, row_width
from api_schemas.models import Gpt2, Mlp

DIGITS_PIXELS, DIGITS_CLASSES = 64, 10
BYTE_TOKENS = 256
IGNORED = -100


def check_loss(model: Mlp | Gpt2, data: Data, loss: str) -> None:
    """Raises:  ValidationError at `loss` if model or data have no such loss."""
    if isinstance(model, Gpt2) and loss != "cross-entropy":
        raise misfit("loss", message="gpt2 predicts tokens: its loss is cross-entropy")
    if isinstance(data, GaussianData) and loss != "mse":
        raise misfit("loss", message="gaussian data have real targets: their loss is mse")


def check_data(model: Mlp | Gpt2, data: Data, loss: str) -> None:
    """Raises:  ValidationError at the field of `model` or `data` that does not fit the others."""
    match model, data:
        case Mlp(), InlineData():
            _check_inline_samples(model, data, loss)
        case Mlp(), GaussianData():
            _check_widths(model, data.input_dim, data.output_dim, "gaussian data")
        case Mlp(), DigitsData():
            _check_widths(model, DIGITS_PIXELS, DIGITS_CLASSES, "digits")
        case Gpt2(), InlineData():
            _check_inline_tokens(model, data)
        case Gpt2(), TextData():
            _check_sequence_length(model, data.sequence_length, "sequence_length")
            if model.vocab_size < BYTE_TOKENS:
                raise misfit("model", "vocab_size", message=f"the tokenizer bytes needs at least {BYTE_TOKENS}")
        case _:
            raise misfit("data", "kind", message=f"{model.kind} takes no {data.kind} data")


def _check_widths(model: Mlp, num_inputs: int, num_outputs: int, what: str) -> None:
    for name, index, have, need in (
        ("input", 0, model.widths[0], num_inputs),
        ("output", len(model.widths) - 1, model.widths[-1], num_outputs),
    ):
        if have != need:
            raise misfit("model", "widths", index, message=f"the {name} width is {have}, {what} need {need}")


def _check_inline_samples(model: Mlp, data: InlineData, loss: str) -> None:
    num_inputs, num_outputs = model.widths[0], model.widths[-1]
    if (row_width(data.x) or 1) != num_inputs:
        raise misfit(
            "data", "x", message=f"x has {row_width(data.x) or 1} numbers per sample, widths[0] = {num_inputs}"
        )
    if loss == "mse":
        if (row_width(data.y) or 1) != num_outputs:
            have = row_width(data.y) or 1
            raise misfit("data", "y", message=f"y has {have} numbers per sample, widths[-1] = {num_outputs}")
        return
    if row_width(data.y) is not None:
        raise misfit("data", "y", message="cross-entropy takes one class label per sample")
    _check_labels("y", data.y, num_outputs, ignorable=True)  # type: ignore[arg-type]


def _check_inline_tokens(model: Gpt2, data: InlineData) -> None:
    for name, rows in (("x", data.x), ("y", data.y)):
        if row_width(rows) is None:
            raise misfit("data", name, message="gpt2 takes one row of token ids per sequence")
        if row_width(rows) != row_width(data.x):
            raise misfit("data", name, message=f"rows of {row_width(rows)} tokens, x has rows of {row_width(data.x)}")
        _check_labels(name, list(chain(*rows)), model.vocab_size, ignorable=name == "y")
    _check_sequence_length(model, row_width(data.x) or 1, "x")


def _check_sequence_length(model: Gpt2, length: int, name: str) -> None:
    if length > model.n_positions:
        raise misfit("data", name, message=f"sequences of {length} tokens, the model has {model.n_positions} positions")


def _check_labels(name: str, labels: list[float], num_classes: int, *, ignorable: bool) -> None:
    for label in labels:
        if label != int(label) or not (0 <= label < num_classes or (ignorable and label == IGNORED)):
            raise misfit("data", name, message=f"{label:g} is no whole number from 0 to {num_classes - 1}")
    if all(label == IGNORED for label in labels):
        raise misfit("data", name, message="every target is ignored")
