"""Requests for comparisons: what is measured when, and which field is wrong."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest, Pretraining
from hessian_spectrum.api_schemas.jobs import JobRequest

GPT2 = {"kind": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 256}
TEXT = {"kind": "text", "name": "pydoc-topics", "num_sequences": 8, "sequence_length": 8}
PRETRAIN = {"num_steps": 10_000, "batch_size": 4}
BODY: dict[str, Any] = {"kind": "hessian-vs-ggn", "models": [GPT2], "data": TEXT}


def location(body: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        HessianVsGgnRequest.model_validate(body)
    return ".".join(str(part) for part in caught.value.errors()[0]["loc"])


def test_defaults_are_those_of_the_paper_and_of_nanogpt() -> None:
    request = HessianVsGgnRequest.model_validate(BODY | {"pretrain": PRETRAIN, "seeds": [0, 1, 2]})
    plan = request.pretrain
    assert plan is not None
    steps = [*range(0, 100, 10), *range(100, 1_000, 100), *range(1_000, 10_001, 1_000)]
    assert plan.measured_steps == steps
    assert request.num_measurements == 3 * len(steps)
    assert (plan.learning_rate, plan.min_learning_rate, plan.warmup_steps) == (6e-4, 6e-5, 2_000)
    assert (plan.beta1, plan.beta2, plan.weight_decay, plan.gradient_clip) == (0.9, 0.95, 0.1, 1.0)
    assert plan.last_decay_step == 10_000
    assert Pretraining(num_steps=5, batch_size=1).last_decay_step == 2_000
    assert HessianVsGgnRequest.model_validate(BODY).num_measurements == 1


@given(
    num_steps=st.integers(1, 300),
    ends=st.lists(st.integers(1, 400), max_size=3, unique=True).map(sorted),
    strides=st.lists(st.integers(1, 50), min_size=4, max_size=4),
    open_end=st.booleans(),
)
def test_measured_steps_are_counted_and_follow_the_intervals(
    num_steps: int, ends: list[int], strides: list[int], open_end: bool
) -> None:
    untils: list[int | None] = [*ends, None] if open_end or not ends else [*ends]
    intervals = [{"every": every, "until_step": until} for every, until in zip(strides, untils, strict=False)]
    plan = Pretraining.model_validate({"num_steps": num_steps, "batch_size": 1, "measure_every": intervals})
    expected = {0, num_steps}
    for step in range(1, num_steps):
        inside = [i for i in intervals if i["until_step"] is None or step <= i["until_step"]]
        if inside and step % (inside[0]["every"] or 1) == 0:
            expected.add(step)
    assert plan.measured_steps == sorted(expected)
    assert plan.num_measurements == len(expected)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"models": []}, "models"),
        ({"models": [GPT2] * 65}, "models"),
        ({"models": [GPT2] * 5, "pretrain": PRETRAIN}, "models"),
        ({"models": [GPT2, GPT2 | {"seed": 1}], "pretrain": PRETRAIN}, "models.1.seed"),
        ({"models": [{"kind": "mlp", "widths": [64, 10]}]}, "models.0.kind"),
        ({"models": [GPT2, GPT2 | {"vocab_size": 255}]}, "models.1.vocab_size"),
        ({"models": [GPT2, GPT2 | {"n_layer": 3, "attention": False}]}, "models.1.n_layer"),
        ({"models": [GPT2, GPT2 | {"n_positions": 7}]}, "data.sequence_length"),
        ({"labels": ["a", "b"]}, "labels"),
        ({"labels": [""]}, "labels.0"),
        ({"data": TEXT | {"seed": 1}}, "data.seed"),
        ({"data": {"kind": "digits"}}, "data"),
        ({"data": TEXT | {"num_sequences": 0}}, "data.text.num_sequences"),
        ({"loss": "mse"}, "loss"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, 0]}, "seeds"),
        ({"seeds": [-1]}, "seeds.0"),
        ({"seeds": list(range(11))}, "seeds"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_products": 0}, "max_products"),
        ({"precision": "bfloat16"}, "precision"),
        ({"matrix": "ggn"}, "matrix"),
        ({"pretrain": {"num_steps": 5}}, "pretrain.batch_size"),
        ({"pretrain": PRETRAIN | {"num_steps": 0}}, "pretrain.num_steps"),
        ({"pretrain": PRETRAIN | {"learning_rate": 1e-5}}, "pretrain.min_learning_rate"),
        ({"pretrain": PRETRAIN | {"decay_steps": 1_000}}, "pretrain.decay_steps"),
        ({"pretrain": PRETRAIN | {"gradient_clip": 0.0}}, "pretrain.gradient_clip"),
        ({"pretrain": PRETRAIN | {"beta2": 1.0}}, "pretrain.beta2"),
        ({"pretrain": PRETRAIN | {"measure_every": []}}, "pretrain.measure_every"),
        ({"pretrain": PRETRAIN | {"measure_every": [{"every": 1}]}}, "pretrain.measure_every"),
        (
            {"pretrain": PRETRAIN | {"measure_every": [{"every": 9}, {"every": 9}]}},
            "pretrain.measure_every.0.until_step",
        ),
        (
            {"pretrain": PRETRAIN | {"measure_every": [{"every": 9, "until_step": 9}] * 2}},
            "pretrain.measure_every.1.until_step",
        ),
    ],
)
def test_misfits_name_the_field(fields: dict[str, Any], field: str) -> None:
    assert location(BODY | fields) == field


def test_the_kind_chooses_the_request() -> None:
    assert isinstance(JobRequest.model_validate(BODY).root, HessianVsGgnRequest)
    for body in (BODY | {"kind": "hessian-vs-fisher"}, {"models": [GPT2]}):
        with pytest.raises(ValidationError) as caught:
            JobRequest.model_validate(body)
        assert caught.value.errors()[0]["type"] in ("union_tag_invalid", "union_tag_not_found")
