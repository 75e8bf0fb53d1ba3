"""Requests as objects of the engine, and their estimates beside them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hessian_spectrum.api_schemas.data.text import NUM_TOKENS
from hessian_spectrum.api_schemas.models.kind import parameter_shapes
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.data.text import VOCABULARY_SIZES
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Mse, OutputValue
from hessian_spectrum.curvature.models.attention_layer import AttentionLayer
from hessian_spectrum.curvature.models.base import ParameterLayout
from hessian_spectrum.curvature.models.conv import Conv
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.training import AdamW, Plateau, Sgd, TrainingPlan, WarmupCosine
from hessian_spectrum.jobs.plans import estimate
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.worker.builders import (
    Inputs,
    NoArtifacts,
    build_dataset,
    build_loss,
    build_model,
    build_parameters,
    build_plan,
)
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

CPU = torch.device("cpu")
F64 = torch.float64

GAUSSIAN = {"kind": "gaussian", "num_samples": 12, "input_dim": 3, "output_dim": 2}
SEQUENCES = {"kind": "gaussian-sequences", "num_sequences": 4, "sequence_length": 3}
DIGITS = {"kind": "digits", "num_samples": 6}
LAYERS = [
    {"weight": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "bias": [0.5, -0.5]},
    {"weight": [[1.0, -1.0], [2.0, 0.0]], "bias": [0.0, 1.0]},
]
INLINE_SEQUENCES = {
    "kind": "inline",
    "x": [[[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]],
    "y": [[[1.0] * 5, [0.0] * 5, [2.0] * 5]],
}

PROBLEMS: dict[str, dict[str, Any]] = {
    "mlp": {"model": {"kind": "mlp", "widths": [3, 4, 2]}, "data": GAUSSIAN, "loss": "mse"},
    "ntk": {
        "model": {"kind": "mlp", "widths": [3, 4, 2], "parametrization": "ntk", "bias": False},
        "data": GAUSSIAN | {"transform": "decorrelated"},
        "loss": "mse",
    },
    "mup": {
        "model": {"kind": "mlp", "widths": [3, 4, 2], "parametrization": "mup", "activation": "leaky-relu"},
        "data": GAUSSIAN | {"transform": "standardised", "teacher": "relu"},
        "loss": "mse",
    },
    "weights": {"model": {"kind": "mlp", "weights": LAYERS}, "data": GAUSSIAN, "loss": "mse"},
    "conv": {
        "model": {"kind": "conv", "channels": [2, 3], "pooling": "mean"},
        "data": DIGITS | {"transform": "standardised"},
        "loss": "cross-entropy",
    },
    "conv-strided": {
        "model": {"kind": "conv", "channels": [2, 3], "stride": 2, "kernel_size": 5, "bias": False},
        "data": DIGITS,
        "loss": "mse",
    },
    "attention": {"model": {"kind": "attention-layer", "key_dim": 2}, "data": SEQUENCES},
    "attention-inline": {
        "model": {"kind": "attention-layer", "embedding_dim": 2, "key_dim": 3, "value_dim": 5, "sink_bias": 1.0},
        "data": INLINE_SEQUENCES,
        "loss": "mse",
    },
    "self-attention": {
        "model": {"kind": "self-attention", "w_v": 0.5, "w_q": [1.0, 2.0], "w_k": [0.0, 1.0]},
        "data": SEQUENCES | {"task": "none", "noise": 1.0},
    },
    "shared-teacher": {
        "model": {"kind": "mlp", "widths": [3, 4, 2]},
        "data": GAUSSIAN | {"teacher_scale": 2.0, "teacher_seed": 5},
        "loss": "mse",
    },
    "linear": {
        "model": {"kind": "linear", "w": [1.0, 2.0], "v": [0.5, 1.0]},
        "data": GAUSSIAN | {"input_dim": 1, "output_dim": 1, "input_std": 3.0},
    },
    "two-layer-linear": {
        "model": {"kind": "two-layer-linear", "W1": [[1.0] * 64] * 2, "W2": [[1.0, 2.0]] * 10},
        "data": DIGITS,
    },
    "quadratic": {"model": {"kind": "quadratic", "matrix": [[2.0, 1.0], [1.0, -3.0]]}},
    "conv-pooled": {
        "model": {"kind": "conv", "channels": [2], "stride": 2, "pooling": "mean"},
        "data": DIGITS,
        "loss": "mse",
    },
    "linear-bias": {
        "model": {"kind": "linear-bias", "w": [1.0, 2.0], "v": [0.5, 1.0], "b": [0.0, 1.0]},
        "data": GAUSSIAN | {"input_dim": 1, "output_dim": 1},
    },
    "multi-input": {
        "model": {"kind": "multi-input", "w": [[1.0, 2.0]] * 3, "v": [[0.5, 1.0]] * 3},
        "data": GAUSSIAN | {"output_dim": 1},
    },
    "multi-output": {
        "model": {"kind": "multi-output", "w": [[1.0, 2.0]] * 2, "v": [[0.5, 1.0]] * 2},
        "data": GAUSSIAN | {"input_dim": 1},
    },
    "gpt2": {
        "model": {"kind": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 256},
        "data": {"kind": "text", "text": "to be or not to be", "num_sequences": 2, "sequence_length": 4},
        "loss": "cross-entropy",
    },
}


def request_of(name: str, **fields: Any) -> SpectrumRequest:
    return SpectrumRequest.model_validate({"kind": "spectrum", "method": {"kind": "exact"}} | PROBLEMS[name] | fields)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_is_built_and_estimated(name: str) -> None:
    request = request_of(name)
    model = build_model(request.model)
    parameters = build_parameters(request.model, model, dtype=torch.float32, device=CPU)
    data = build_dataset(request).to(torch.float32, CPU)
    risk = EmpiricalRisk(model, build_loss(request), [data])
    assert torch.isfinite(risk.value(parameters))
    layout = ParameterLayout.of(model.parameter_shapes)
    assert list(parameters) == list(layout.names)
    assert parameter_shapes(request.model) == model.parameter_shapes
    assert layout.flatten(parameters).dtype == torch.float32
    assert estimate(request).num_parameters == layout.dim
    assert model.learning_rate_multipliers().keys() == parameters.keys()


TEXT = {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 4}
TOKENS = {"kind": "artifact", "id": "0" * 64, "num_sequences": 2, "sequence_length": 4, "seed": 3}


class Uploaded(NoArtifacts):
    def __init__(self, tokens: Any) -> None:
        self._tokens = tokens

    def tokens(self, artifact_id: str) -> Any:
        assert artifact_id == TOKENS["id"]
        return self._tokens


def test_uploaded_tokens_are_read_by_their_id() -> None:
    request = request_of("gpt2", data=TOKENS)
    tokens = np.arange(100, dtype=np.uint16)
    data = build_dataset(request, Inputs(artifacts=Uploaded(tokens)))
    assert data.inputs.dtype == torch.int64
    assert torch.equal(data.inputs + 1, data.targets)
    assert estimate(request).peak_bytes == estimate(request_of("gpt2", data=TEXT)).peak_bytes


def test_uploaded_tokens_are_looked_at_again() -> None:
    request = request_of("gpt2", data=TOKENS)
    for tokens, message in (
        (np.full(9, 256), "outside the vocabulary: token 256, vocab_size 256"),
        (np.zeros(4, int), "4 tokens are too few for a sequence of 4"),
    ):
        with pytest.raises(InvalidProblemError, match=message):
            build_dataset(request, Inputs(artifacts=Uploaded(tokens)))
    with pytest.raises(InvalidProblemError, match="not there any more"):
        build_dataset(request)


def test_both_sides_know_the_same_tokenizers() -> None:
    assert NUM_TOKENS == VOCABULARY_SIZES


def test_models_have_what_the_request_says() -> None:
    assert build_model(request_of("mup").model) == Mlp(
        (3, 4, 2), "leaky-relu", True, parametrization="mup", negative_slope=0.01
    )
    assert build_model(request_of("conv-strided").model) == Conv(
        (2, 3), kernel_size=5, stride=2, pooling=False, activation="relu", bias=False
    )
    assert build_model(request_of("attention").model) == AttentionLayer(1, 2, 1)
    assert build_model(request_of("attention-inline").model) == AttentionLayer(2, 3, 5, sink_bias=1.0)


def test_losses() -> None:
    for name, kind in (("mlp", Mse), ("conv", CrossEntropy), ("attention", Mse), ("quadratic", OutputValue)):
        assert isinstance(build_loss(request_of(name)), kind)


def test_given_weights_are_those_of_the_model() -> None:
    request = request_of("weights")
    model = build_model(request.model)
    assert model == Mlp((3, 2, 2))
    parameters = build_parameters(request.model, model, dtype=F64, device=CPU)
    x = torch.tensor([[1.0, 0.0, -1.0]], dtype=F64)
    hidden = torch.tensor([1.0 - 3.0 + 0.5, 4.0 - 6.0 - 0.5], dtype=F64).relu()
    assert_close(model(parameters, x)[0], torch.stack([hidden[0] - hidden[1], 2 * hidden[0] + 1]))


def test_data_are_transformed() -> None:
    decorrelated = build_dataset(request_of("ntk"))
    assert_close(decorrelated.inputs.T @ decorrelated.inputs / 12, torch.eye(3, dtype=F64))
    standard = build_dataset(request_of("mup"))
    assert_close(standard.targets.square().mean(dim=0), torch.ones(2, dtype=F64))
    pixels = build_dataset(request_of("conv")).inputs
    assert_close(pixels.mean(dim=0), torch.zeros(64, dtype=F64))


def test_sequences_of_numbers_are_sequences_of_vectors_of_length_1() -> None:
    data = {"kind": "inline", "x": [[1.0, 2.0]], "y": [[2.0, 1.0]]}
    rows = build_dataset(request_of("attention", data=data))
    nested = {"kind": "inline", "x": [[[1.0], [2.0]]], "y": [[[2.0], [1.0]]]}
    assert torch.equal(rows.inputs, build_dataset(request_of("attention", data=nested)).inputs)
    assert rows.inputs.shape == rows.targets.shape == (1, 2, 1)


def test_reversal_is_reversal() -> None:
    data = build_dataset(request_of("attention"))
    assert torch.equal(data.inputs.flip(1), data.targets)


def test_plans() -> None:
    train = {"num_steps": 5, "learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "batch_size": 3}
    plain = request_of("mlp", train={"num_steps": 5, "learning_rate": 0.1}).train
    full = request_of("mlp", train=train | {"schedule": {"kind": "plateau", "patience": 2}}).train
    assert plain is not None
    assert full is not None
    assert build_plan(plain) == TrainingPlan(5, 0.1)
    assert build_plan(full) == TrainingPlan(
        5,
        0.1,
        batch_size=3,
        optimizer=Sgd(0.9, True),
        schedule=Plateau(factor=0.1, patience=2, threshold=1e-4, min_learning_rate=1e-5),
    )


def test_plans_of_adamw() -> None:
    train = {
        "num_steps": 5,
        "learning_rate": 0.1,
        "optimizer": {"kind": "adamw", "beta2": 0.99},
        "schedule": {"kind": "warmup-cosine", "warmup_steps": 2, "min_learning_rate": 0.01},
        "gradient_clip": 0.5,
    }
    spec = request_of("mlp", train=train).train
    assert spec is not None
    assert build_plan(spec, 3) == TrainingPlan(
        5,
        0.1,
        batch_size=None,
        optimizer=AdamW(beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.1),
        schedule=WarmupCosine(2, 5, 0.01),
        max_gradient_norm=0.5,
        micro_batch_size=3,
    )


def test_a_trained_job_reports_its_training() -> None:
    train = {
        "num_steps": 500,
        "learning_rate": 0.3,
        "momentum": 0.5,
        "schedule": {"kind": "plateau", "patience": 2, "threshold": 0.05, "min_learning_rate": 0.02},
    }
    request = request_of("mlp", train=train)
    result = run_spectrum_job(request, Hardware(CPU, 1, 2**32), ignore_progress).result
    report = result.training
    assert report is not None
    assert report.stopped == "plateau"
    assert 0 < report.num_steps < 500
    assert report.final_loss == result.loss < report.initial_loss
    assert report.learning_rate_cuts == 2
    assert report.final_learning_rate == pytest.approx(0.02)
    assert (report.optimizer, report.momentum) == ("sgd", 0.5)
    assert 0 < report.gradient_norm < 1
    curve = report.loss_curve
    assert curve is not None
    assert curve.losses[0] == pytest.approx(report.initial_loss)  # all samples are one batch
    assert (curve.steps[-1], len(curve.losses)) == (report.num_steps, len(curve.steps))


def test_a_job_trained_by_adamw_says_so() -> None:
    train = {
        "num_steps": 30,
        "learning_rate": 0.05,
        "optimizer": {"kind": "adamw"},
        "schedule": {"kind": "warmup-cosine", "warmup_steps": 5, "decay_steps": 20, "min_learning_rate": 0.001},
        "gradient_clip": 1.0,
    }
    result = run_spectrum_job(request_of("mlp", train=train), Hardware(CPU, 1, 2**32), ignore_progress).result
    report = result.training
    assert report is not None
    assert (report.optimizer, report.num_steps, report.stopped) == ("adamw", 30, "num-steps")
    assert report.final_loss < report.initial_loss
    assert report.final_learning_rate == pytest.approx(0.001)


def test_targets_that_follow_from_the_inputs_cannot_be_decorrelated() -> None:
    """A ReLU teacher whose answers are all 0 leaves nothing: seen by the engine, not by the message."""
    data = GAUSSIAN | {"num_samples": 3, "input_dim": 1, "output_dim": 1, "teacher": "relu", "noise": 0.0}
    seeds = (data | {"transform": "decorrelated", "seed": seed} for seed in range(20))
    with pytest.raises(InvalidProblemError, match="linear function"):
        _ = [build_dataset(request_of("linear", data=case)) for case in seeds]


def test_gaussian_data_of_one_teacher_seed_have_one_teacher() -> None:
    def teacher(seed: int, teacher_seed: int | None) -> torch.Tensor:
        data = GAUSSIAN | {"noise": 0.0, "seed": seed, "teacher_seed": teacher_seed, "teacher_scale": 2.0}
        drawn = build_dataset(request_of("mlp", data=data))
        return torch.linalg.lstsq(drawn.inputs, drawn.targets).solution

    assert_close(teacher(1, 5), teacher(2, 5))
    assert_close(teacher(1, 5), teacher(5, None))
    assert not torch.isclose(teacher(1, None), teacher(2, None)).any()
