"""Requests that name a checkpoint: what is left out is filled in, what is given must agree."""

from typing import Any

import pytest
from pydantic import ValidationError

from hessian_spectrum.api_schemas.checkpoints import CONTEXT, CausalLmCheckpoint, Gpt2Checkpoint, UnknownCheckpointError
from hessian_spectrum.api_schemas.models import CausalLm, Gpt2
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 300}
SHA256 = "0123456789abcdef" * 4
PARAMETERS = {"model.embed.weight": [300, 8], "model.norm.weight": [8]}
JOB: dict[str, Any] = {
    "kind": "spectrum",
    "data": {"kind": "inline", "x": [[1.0, 299.0]], "y": [[2.0, 3.0]]},
    "loss": "cross-entropy",
    "method": {"kind": "exact"},
}


class Catalog:
    """One checkpoint of each kind."""

    def gpt2(self, name: str) -> Gpt2Checkpoint:
        return Gpt2Checkpoint(checkpoint_sha256=_known(name), **SIZES, bias=False, activation="gelu")

    def causal_lm(self, name: str) -> CausalLmCheckpoint:
        return CausalLmCheckpoint(checkpoint_sha256=_known(name), **SIZES, n_inner=24, parameters=PARAMETERS)


def _known(name: str) -> str:
    if name != "small":
        raise UnknownCheckpointError("there is no such checkpoint")
    return SHA256


def parsed(model: dict[str, Any], **fields: Any) -> SpectrumRequest:
    return SpectrumRequest.model_validate(JOB | {"model": model} | fields, context={CONTEXT: Catalog()})


@pytest.mark.parametrize(
    "given", [{}, SIZES, {"n_layer": 2, "bias": False, "activation": "gelu", "checkpoint_sha256": SHA256}]
)
def test_a_gpt2_is_filled_in_from_its_checkpoint(given: dict[str, Any]) -> None:
    model = parsed({"kind": "gpt2", "checkpoint": "small"} | given).model
    assert isinstance(model, Gpt2)
    expected = SIZES | {"bias": False, "activation": "gelu", "checkpoint": "small", "checkpoint_sha256": SHA256}
    assert model.model_dump() == Gpt2.model_validate({"kind": "gpt2"} | expected).model_dump()


def test_a_causal_lm_is_filled_in_from_its_checkpoint() -> None:
    request = parsed({"kind": "causal-lm", "checkpoint": "small"}, block="*norm*")
    assert isinstance(request.model, CausalLm)
    assert request.model.parameters == PARAMETERS
    assert request.matrix_parameters == {"model.norm.weight": (8,)}


@pytest.mark.parametrize("kind", ["gpt2", "causal-lm"])
def test_what_is_stored_needs_no_catalog(kind: str) -> None:
    request = parsed({"kind": kind, "checkpoint": "small"})
    assert SpectrumRequest.model_validate_json(request.model_dump_json(exclude_none=True)) == request


@pytest.mark.parametrize(
    ("model", "field", "said"),
    [
        ({"kind": "gpt2", "n_layer": 3}, "n_layer", "the checkpoint has 2"),
        ({"kind": "gpt2", "n_layer": 2.0}, "n_layer", "the checkpoint has 2"),
        ({"kind": "gpt2", "vocab_size": "300"}, "vocab_size", "the checkpoint has 300"),
        ({"kind": "gpt2", "bias": True}, "bias", "the checkpoint has False"),
        ({"kind": "gpt2", "bias": 0}, "bias", "the checkpoint has False"),
        ({"kind": "gpt2", "activation": "relu"}, "activation", "the checkpoint has gelu"),
        ({"kind": "gpt2", "checkpoint_sha256": "f" * 64}, "checkpoint_sha256", "the checkpoint has 0123"),
        ({"kind": "gpt2", "checkpoint": "other"}, "checkpoint", "there is no such checkpoint"),
        ({"kind": "gpt2", "checkpoint": 3}, "checkpoint", "valid string"),
        ({"kind": "gpt2", "attention": False}, "attention", "a checkpoint has attention"),
        ({"kind": "gpt2", "layers": 2}, "layers", "not permitted"),
        ({"kind": "gpt2", "attention_sink": {"bias": 1.0, "heads": [2]}}, "attention_sink", "heads 0 to 1"),
        ({"kind": "causal-lm", "parameters": {}}, "parameters", "the checkpoint has"),
        ({"kind": "causal-lm", "n_inner": 25}, "n_inner", "the checkpoint has 24"),
        ({"kind": "causal-lm", "checkpoint": None}, "checkpoint", "the name of a checkpoint"),
        ({"kind": "causal-lm", "seed": 0}, "seed", "not permitted"),
    ],
)
def test_each_mistake_is_named(model: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parsed({"checkpoint": "small"} | model)
    fault = caught.value.errors()[0]
    assert fault["loc"][:3] == ("model", model["kind"], field)
    assert said in fault["msg"]


@pytest.mark.parametrize("kind", ["gpt2", "causal-lm"])
@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ({"loss": "mse"}, ("loss",)),
        ({"data": {"kind": "inline", "x": [[300.0]], "y": [[0.0]]}}, ("data", "x")),
        ({"data": {"kind": "inline", "x": [[0.0] * 17], "y": [[0.0] * 17]}}, ("data", "x")),
        ({"data": {"kind": "digits"}}, ("data", "kind")),
    ],
)
def test_data_must_fit_the_checkpoint(kind: str, fields: dict[str, Any], location: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        parsed({"kind": kind, "checkpoint": "small"}, **fields)
    assert caught.value.errors()[0]["loc"] == location


@pytest.mark.parametrize("kind", ["gpt2", "causal-lm"])
def test_without_a_catalog_no_checkpoint_is_known(kind: str) -> None:
    with pytest.raises(ValidationError, match="no models directory") as caught:
        SpectrumRequest.model_validate(JOB | {"model": {"kind": kind, "checkpoint": "small"}})
    assert caught.value.errors()[0]["loc"] == ("model", kind, "checkpoint")


def test_without_a_checkpoint_sizes_are_required_and_a_digest_is_none() -> None:
    with pytest.raises(ValidationError) as caught:
        parsed({"kind": "gpt2"})
    assert {(fault["loc"][-1], fault["type"]) for fault in caught.value.errors()} == {(n, "missing") for n in SIZES}
    with pytest.raises(ValidationError, match="there is no checkpoint"):
        parsed({"kind": "gpt2", "checkpoint_sha256": SHA256} | SIZES)


def test_the_schema_says_what_may_be_left_out() -> None:
    definitions = SpectrumRequest.model_json_schema()["$defs"]
    assert definitions["Gpt2"]["required"] == ["kind"]
    assert definitions["CausalLm"]["required"] == ["kind", "checkpoint"]
