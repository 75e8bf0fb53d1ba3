"""Requests for several spectra, presets, and attention sinks that cannot be."""

from typing import Any

import pytest
from pydantic import ValidationError

from hessian_spectrum.api_schemas.methods import LanczosMethod
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.jobs.plans import spectrum_variants

GPT2: dict[str, Any] = {"kind": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 256}
BODY: dict[str, Any] = {
    "kind": "spectrum",
    "model": GPT2,
    "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 4, "sequence_length": 8},
    "loss": "cross-entropy",
    "method": {"kind": "lanczos"},
}


def with_sink(**sink: Any) -> dict[str, Any]:
    return {"model": GPT2 | {"attention_sink": sink}}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        (with_sink(), "mean_score"),
        (with_sink(bias=1.0, mean_score=0.5), "mean_score"),
        (with_sink(mean_score=0.0), "mean_score"),
        (with_sink(mean_score=1.0), "mean_score"),
        (with_sink(mean_score=0.125), "model.attention_sink.mean_score"),
        (with_sink(mean_score=[0.5, 0.1]), "model.attention_sink.mean_score"),
        (with_sink(mean_score=[]), "mean_score"),
        (with_sink(bias=[]), "bias"),
        (with_sink(bias=[1.0] * 33), "bias"),
        (with_sink(bias=1.0, heads=[0, 0]), "heads"),
        (with_sink(bias=1.0, heads=[2]), "attention_sink.heads"),
        (with_sink(bias=1.0, blocks=[]), "blocks"),
        ({"blocks": ["blocks.*", "heads.*"]}, "blocks.1"),
        ({"blocks": []}, "blocks"),
        ({"blocks": ["wte.*"], "block": "wte.*"}, "blocks"),
        ({"blocks": ["*"] * 65}, "blocks"),
        (with_sink(bias=[0.0] * 32) | {"blocks": ["*"] * 3}, "blocks"),
        ({"method": {"kind": "lanczos", "preset": "figure-7"}}, "preset"),
        ({"blocks": ["*", "ln_f.bias"], "method": {"kind": "top-k", "k": 5}}, "method.k"),
    ],
)
def test_misfits_name_the_field(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as raised:
        SpectrumRequest.model_validate(BODY | fields)
    places = [".".join(map(str, error["loc"])) for error in raised.value.errors()]
    assert any(place in each for each in places), places


def test_the_preset_is_the_papers_and_fields_that_are_sent_are_kept() -> None:
    preset = LanczosMethod.model_validate({"kind": "lanczos", "preset": "paper-figure-6"})
    assert preset.num_steps * preset.num_probes == 1024
    assert (preset.num_points, preset.kappa) == (1024, 3.0)
    changed = LanczosMethod.model_validate({"kind": "lanczos", "preset": "paper-figure-6", "num_probes": 2})
    assert (changed.num_steps, changed.num_probes) == (128, 2)
    assert LanczosMethod.model_validate(preset.model_dump()) == preset


def test_a_request_is_read_again_as_it_was_written() -> None:
    request = SpectrumRequest.model_validate(
        BODY | with_sink(mean_score=[None, 0.5, 0.9]) | {"blocks": ["blocks.0.*", "blocks.1.*"]}
    )
    again = SpectrumRequest.model_validate_json(request.model_dump_json(exclude_none=True))
    assert again == request
    assert len(spectrum_variants(again)) == 6
    assert [part.block for part in spectrum_variants(again)] == ["blocks.0.*", "blocks.1.*"] * 3
    for part in spectrum_variants(again):
        assert spectrum_variants(SpectrumRequest.model_validate_json(part.model_dump_json(exclude_none=True))) == [part]
