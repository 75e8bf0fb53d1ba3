"""Which models, data, losses and trainings fit together; each misfit names the field to change."""

from typing import Any

import pytest
from pydantic import ValidationError

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest

MLP = {"kind": "mlp", "widths": [3, 4, 2]}
LAYERS = [{"weight": [[1.0, 2.0, 3.0]] * 4, "bias": [0.0] * 4}, {"weight": [[1.0] * 4] * 2, "bias": [0.0] * 2}]
GIVEN = {"kind": "mlp", "weights": LAYERS}
CONV = {"kind": "conv", "channels": [4, 8]}
ATTENTION = {"kind": "attention-layer", "key_dim": 2}
WIDE = ATTENTION | {"embedding_dim": 2, "value_dim": 3}
GPT2 = {"kind": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 256}
LINEAR = {"kind": "linear", "w": [1.0, 2.0], "v": [1.0, 0.5]}
SCALAR = {"kind": "self-attention", "w_v": 1.0, "w_q": [1.0], "w_k": [1.0]}
INPUTS = {"kind": "multi-input", "w": [[1.0], [2.0], [3.0]], "v": [[1.0]] * 3}
OUTPUTS = {"kind": "multi-output", "w": [[1.0], [2.0]], "v": [[1.0]] * 2}
TWO_LAYER = {"kind": "two-layer-linear", "W1": [[1.0, 2.0, 3.0]] * 4, "W2": [[1.0] * 4] * 2}
QUADRATIC = {"kind": "quadratic", "matrix": [[2.0, 1.0], [1.0, 3.0]]}

INLINE = {"kind": "inline", "x": [[1.0, 2.0, 3.0]], "y": [[0.0, 1.0]]}
NUMBERS = {"kind": "inline", "x": [1.0, 2.0], "y": [0.0, 1.0]}
ROWS = {"kind": "inline", "x": [[1.0, 2.0], [3.0, 4.0]], "y": [[2.0, 1.0], [4.0, 3.0]]}
NESTED = {"kind": "inline", "x": [[[1.0, 2.0], [3.0, 4.0]]], "y": [[[0.0] * 3] * 2]}
GAUSSIAN = {"kind": "gaussian", "num_samples": 9, "input_dim": 3, "output_dim": 2}
SEQUENCES = {"kind": "gaussian-sequences", "num_sequences": 3, "sequence_length": 2}
DIGITS = {"kind": "digits"}
TEXT = {"kind": "text", "name": "pydoc-topics", "num_sequences": 1, "sequence_length": 8}
TOKENS = {"kind": "artifact", "id": "0" * 64, "num_sequences": 1, "sequence_length": 8}
TRAIN = {"num_steps": 3, "learning_rate": 0.1}
SCHEDULE = {"kind": "plateau"}
COSINE = {"kind": "warmup-cosine", "warmup_steps": 2}
ADAMW = {"optimizer": {"kind": "adamw"}}

MODELS = [MLP, GIVEN, CONV, ATTENTION, WIDE, GPT2, LINEAR, SCALAR, INPUTS, OUTPUTS, TWO_LAYER]
"""All but the quadratic form."""


def body_of(**parts: Any) -> dict[str, Any]:
    return {"kind": "spectrum", "method": {"kind": "exact"}} | parts


def location(body: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        SpectrumRequest.model_validate(body)
    return ".".join(str(part) for part in caught.value.errors()[0]["loc"])


@pytest.mark.parametrize(
    ("parts", "loss"),
    [
        ({"model": MLP, "data": GAUSSIAN, "loss": "mse"}, "mse"),
        ({"model": MLP, "data": INLINE | {"y": [1.0]}, "loss": "cross-entropy"}, "cross-entropy"),
        ({"model": GIVEN, "data": INLINE, "loss": "mse"}, "mse"),
        ({"model": GIVEN | {"widths": [3, 4, 2], "bias": True}, "data": INLINE, "loss": "mse"}, "mse"),
        ({"model": GIVEN | {"weights": [{"weight": [[1.0] * 3] * 2}]}, "data": INLINE, "loss": "mse"}, "mse"),
        ({"model": CONV, "data": DIGITS, "loss": "cross-entropy"}, "cross-entropy"),
        ({"model": CONV, "data": DIGITS | {"transform": "standardised"}, "loss": "mse"}, "mse"),
        ({"model": CONV, "data": GAUSSIAN | {"input_dim": 64, "output_dim": 10}, "loss": "mse"}, "mse"),
        ({"model": ATTENTION, "data": SEQUENCES}, "mse"),
        ({"model": ATTENTION, "data": ROWS, "loss": "mse"}, "mse"),
        ({"model": WIDE, "data": NESTED}, "mse"),
        ({"model": SCALAR, "data": ROWS}, "mse"),
        ({"model": SCALAR, "data": SEQUENCES | {"task": "linear"}}, "mse"),
        ({"model": LINEAR, "data": NUMBERS}, "mse"),
        ({"model": LINEAR, "data": GAUSSIAN | {"input_dim": 1, "output_dim": 1}}, "mse"),
        ({"model": INPUTS, "data": INLINE | {"y": [0.0]}}, "mse"),
        ({"model": OUTPUTS, "data": {"kind": "inline", "x": [1.0], "y": [[1.0, 2.0]]}}, "mse"),
        ({"model": TWO_LAYER, "data": GAUSSIAN | {"transform": "decorrelated"}}, "mse"),
        ({"model": GPT2, "data": TOKENS, "loss": "cross-entropy"}, "cross-entropy"),
        (
            {"model": GPT2 | {"vocab_size": 50_257}, "data": TEXT | {"tokenizer": "gpt2"}, "loss": "cross-entropy"},
            "cross-entropy",
        ),
        ({"model": QUADRATIC}, None),
        ({"model": QUADRATIC, "data": None, "loss": None}, None),
        ({"model": MLP, "data": GAUSSIAN, "loss": "mse", "train": TRAIN | {"momentum": 0.9, "nesterov": True}}, "mse"),
        ({"model": LINEAR, "data": NUMBERS, "train": TRAIN | {"schedule": SCHEDULE}}, "mse"),
        ({"model": LINEAR, "data": NUMBERS, "train": TRAIN | ADAMW | {"schedule": COSINE}}, "mse"),
    ],
)
def test_what_fits_survives_its_way_through_the_store(parts: dict[str, Any], loss: str | None) -> None:
    request = SpectrumRequest.model_validate(body_of(**parts))
    assert request.effective_loss == loss
    assert SpectrumRequest.model_validate_json(request.model_dump_json(exclude_none=True)) == request


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["kind"])
def test_every_model_refuses_data_of_another_kind(model: dict[str, Any]) -> None:
    """Each takes inline data and one or two kinds more."""
    takes = {
        "mlp": (GAUSSIAN, DIGITS),
        "conv": (GAUSSIAN, DIGITS),
        "two-layer-linear": (GAUSSIAN, DIGITS),
        "attention-layer": (SEQUENCES,),
        "self-attention": (SEQUENCES,),
        "gpt2": (TEXT,),
    }.get(model["kind"], (GAUSSIAN,))
    loss = {"gpt2": "cross-entropy"}.get(model["kind"], "mse")
    for data in (GAUSSIAN, SEQUENCES, DIGITS, TEXT):
        if data not in takes and (data["kind"], loss) not in {
            ("gaussian", "cross-entropy"),
            ("gaussian-sequences", "cross-entropy"),
        }:
            assert location(body_of(model=model, data=data, loss=loss)) == "data.kind"
    assert location(body_of(model=model, loss=loss)) == "data"


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        # losses
        ({"model": MLP, "data": INLINE}, "loss"),
        ({"model": CONV, "data": DIGITS}, "loss"),
        ({"model": GPT2, "data": TEXT}, "loss"),
        ({"model": LINEAR, "data": NUMBERS, "loss": "cross-entropy"}, "loss"),
        ({"model": ATTENTION, "data": ROWS, "loss": "cross-entropy"}, "loss"),
        ({"model": CONV, "data": GAUSSIAN, "loss": "cross-entropy"}, "loss"),
        ({"model": QUADRATIC, "loss": "mse"}, "loss"),
        # quadratic forms
        ({"model": QUADRATIC, "data": NUMBERS}, "data"),
        ({"model": QUADRATIC, "train": TRAIN}, "train"),
        ({"model": QUADRATIC | {"matrix": [[1.0, 2.0]]}}, "model.matrix"),
        ({"model": QUADRATIC | {"matrix": [[1.0, 2.0], [2.1, 1.0]]}}, "model.matrix"),
        ({"model": QUADRATIC | {"matrix": [[1.0, 1e308], [-1e308, 1.0]]}}, "model.matrix"),
        # given weights
        ({"model": {"kind": "mlp"}, "data": INLINE, "loss": "mse"}, "model.mlp.widths"),
        ({"model": GIVEN | {"widths": [3, 5, 2]}, "data": INLINE, "loss": "mse"}, "model.mlp.widths"),
        ({"model": GIVEN | {"bias": False}, "data": INLINE, "loss": "mse"}, "model.mlp.bias"),
        ({"model": GIVEN | {"weights": []}, "data": INLINE, "loss": "mse"}, "model.mlp.weights.layers"),
        (
            {"model": GIVEN | {"weights": [LAYERS[0], {"weight": [[1.0] * 3], "bias": [0.0]}]}},
            "model.mlp.weights.1.weight",
        ),
        ({"model": GIVEN | {"weights": [LAYERS[0], {"weight": [[1.0] * 4]}]}}, "model.mlp.weights.1.bias"),
        ({"model": GIVEN | {"weights": [{"weight": [[1.0] * 4], "bias": [0.0] * 2}]}}, "model.mlp.weights.0.bias"),
        ({"model": GIVEN | {"weights": [{"weight": [[1.0], [1.0, 2.0]]}]}}, "model.mlp.weights.layers.0.weight.1"),
        ({"model": GIVEN, "data": GAUSSIAN | {"input_dim": 2}, "loss": "mse"}, "model.weights.0"),
        ({"model": GIVEN, "data": GAUSSIAN | {"output_dim": 3}, "loss": "mse"}, "model.weights.1"),
        # other models
        (
            {"model": MLP | {"parametrization": "mean-field"}, "data": INLINE, "loss": "mse"},
            "model.mlp.parametrization",
        ),
        ({"model": MLP | {"activation": "softplus"}, "data": INLINE, "loss": "mse"}, "model.mlp.activation"),
        ({"model": CONV | {"channels": []}, "data": DIGITS, "loss": "mse"}, "model.conv.channels"),
        ({"model": CONV | {"channels": [1] * 4, "pooling": "mean"}}, "model.conv.channels"),
        ({"model": CONV | {"channels": [1] * 2, "stride": 2, "pooling": "mean"}}, "model.conv.channels"),
        ({"model": CONV | {"kernel_size": 4}, "data": DIGITS, "loss": "mse"}, "model.conv.kernel_size"),
        ({"model": CONV, "data": GAUSSIAN, "loss": "mse"}, "data.input_dim"),
        ({"model": ATTENTION | {"initial_std": -1.0}, "data": ROWS}, "model.attention-layer.initial_std"),
        ({"model": ATTENTION | {"key_dim": 0}, "data": ROWS}, "model.attention-layer.key_dim"),
        # inline data
        ({"model": CONV, "data": INLINE, "loss": "mse"}, "data.x"),
        ({"model": MLP, "data": NESTED, "loss": "mse"}, "data.x"),
        ({"model": LINEAR, "data": INLINE}, "data.x"),
        ({"model": LINEAR, "data": NUMBERS | {"y": [[1.0, 2.0]] * 2}}, "data.y"),
        ({"model": ATTENTION, "data": NUMBERS}, "data.x"),
        ({"model": ATTENTION, "data": NESTED}, "data.x"),
        ({"model": ATTENTION, "data": ROWS | {"y": [[1.0], [2.0]]}}, "data.y"),
        ({"model": WIDE, "data": ROWS}, "data.x"),
        ({"model": WIDE, "data": NESTED | {"y": [[[0.0] * 2] * 2]}}, "data.y"),
        ({"model": WIDE, "data": NESTED | {"y": [[[0.0] * 3] * 3]}}, "data.y"),
        ({"model": WIDE, "data": NESTED | {"x": [[[1.0], [1.0, 2.0]]]}}, "data.inline.x.sequences.0.1"),
        ({"model": WIDE, "data": NESTED | {"x": [[[1.0]], [[1.0], [2.0]]]}}, "data.inline.x.sequences.1"),
        ({"model": WIDE, "data": NESTED | {"x": [[]]}}, "data.inline.x.rows.0"),
        ({"model": WIDE, "data": NESTED | {"x": [[[]]]}}, "data.inline.x.sequences.0.0"),
        # generated data
        ({"model": LINEAR, "data": GAUSSIAN | {"input_dim": 1}}, "data.output_dim"),
        ({"model": WIDE, "data": SEQUENCES}, "data.embedding_dim"),
        ({"model": WIDE, "data": SEQUENCES | {"embedding_dim": 2}}, "model.value_dim"),
        ({"model": SCALAR, "data": SEQUENCES | {"embedding_dim": 2}}, "data.embedding_dim"),
        ({"model": MLP, "data": GAUSSIAN | {"transform": "whitened"}}, "data.gaussian.transform"),
        (
            {"model": MLP, "data": GAUSSIAN | {"transform": "decorrelated", "num_samples": 4}},
            "data.gaussian.num_samples",
        ),
        (
            {"model": MLP, "data": GAUSSIAN | {"transform": "standardised", "num_samples": 1}},
            "data.gaussian.num_samples",
        ),
        ({"model": MLP, "data": GAUSSIAN | {"transform": "decorrelated", "noise": 0.0}}, "data.gaussian.noise"),
        (
            {"model": MLP, "data": GAUSSIAN | {"transform": "standardised", "teacher": "none", "noise": 0.0}},
            "data.gaussian.noise",
        ),
        ({"model": CONV, "data": DIGITS | {"transform": "decorrelated"}, "loss": "mse"}, "data.digits.transform"),
        # training
        ({"model": LINEAR, "data": NUMBERS, "train": TRAIN | {"momentum": 1.0}}, "train.momentum"),
        ({"model": LINEAR, "data": NUMBERS, "train": TRAIN | {"nesterov": True}}, "train.nesterov"),
        ({"model": LINEAR, "data": NUMBERS, "train": TRAIN | {"schedule": {"kind": "cosine"}}}, "train.schedule"),
        (
            {"model": LINEAR, "data": NUMBERS, "train": TRAIN | {"schedule": SCHEDULE | {"factor": 1.0}}},
            "train.schedule.plateau.factor",
        ),
        (
            {"model": LINEAR, "data": NUMBERS, "train": TRAIN | {"schedule": SCHEDULE | {"step": 2}}},
            "train.schedule.plateau.step",
        ),
        (
            {"model": LINEAR, "data": NUMBERS, "train": TRAIN | {"schedule": COSINE | {"decay_steps": 1}}},
            "train.schedule.warmup-cosine.decay_steps",
        ),
        (
            {"model": LINEAR, "data": NUMBERS, "train": TRAIN | {"schedule": COSINE | {"min_learning_rate": 1.0}}},
            "train.schedule.min_learning_rate",
        ),
        ({"model": LINEAR, "data": NUMBERS, "train": TRAIN | ADAMW | {"momentum": 0.9}}, "train.momentum"),
        ({"model": LINEAR, "data": NUMBERS, "train": TRAIN | {"gradient_clip": 0.0}}, "train.gradient_clip"),
    ],
)
def test_misfits_name_the_field(parts: dict[str, Any], field: str) -> None:
    assert location(body_of(**parts)) == field
