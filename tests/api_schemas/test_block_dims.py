"""How many rows the matrix and each of its blocks have, counted once however many blocks there are."""

from typing import Any

import pytest

from hessian_spectrum.api_schemas.checkpoints import CONTEXT, CausalLmCheckpoint
from hessian_spectrum.api_schemas.models import kind
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.jobs.fingerprints import cache_key
from hessian_spectrum.jobs.plans import estimate, spectrum_variants

NUM_TENSORS = 2_000


class Catalog:
    def causal_lm(self, _name: str) -> CausalLmCheckpoint:
        parameters = {f"layers.{number}.w": [number % 7 + 1, 2] for number in range(NUM_TENSORS)}
        sizes = {"n_layer": 2, "n_head": 1, "n_embd": 8, "n_inner": 8, "n_positions": 64, "vocab_size": 256}
        return CausalLmCheckpoint.model_validate({"checkpoint_sha256": "0" * 64, "parameters": parameters} | sizes)


def request_for(**fields: Any) -> SpectrumRequest:
    message = {
        "kind": "spectrum",
        "model": {"kind": "causal-lm", "checkpoint": "large"},
        "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 8},
        "loss": "cross-entropy",
        "method": {"kind": "exact"},
    }
    return SpectrumRequest.model_validate(message | fields, context={CONTEXT: Catalog()})


def alone(glob: str) -> int:
    return request_for(block=glob).dim


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The models whose parameters were listed."""
    found: list[object] = []
    listed = kind.parameter_shapes
    monkeypatch.setattr(kind, "parameter_shapes", lambda model: found.append(model) or listed(model))
    return found


def test_blocks_are_counted_as_if_each_were_asked_for_alone() -> None:
    globs = ["layers.1*", "*.w", "layers.[2-4].w", "layers.?7.w"]
    request = request_for(blocks=globs)
    assert [part.dim for part in spectrum_variants(request)] == [alone(glob) for glob in globs]
    assert request.dim == request_for().dim == sum(2 * (number % 7 + 1) for number in range(NUM_TENSORS))
    assert request_for(blocks=["layers.1.w", "layers.?.w"]).dim == alone("layers.?.w")
    one = request_for(blocks=["layers.5.w"])
    assert (one.dim, [part.dim for part in spectrum_variants(one)]) == (12, [12])
    assert [part.blocks for part in spectrum_variants(request)] == [None] * 4


def test_names_are_read_once_however_many_blocks_there_are(looks: list[object]) -> None:
    request = request_for(blocks=[f"layers.{number}*" for number in range(10, 74)])
    estimate(request, 2**33)
    estimate(request)
    assert len(looks) == 1


def test_a_changed_copy_is_counted_anew() -> None:
    request = request_for(blocks=["layers.1.w", "layers.2.w"])
    assert request.dim == 4 + 6
    assert request.model_copy(update={"blocks": ["layers.3.w"]}).dim == 8
    part = spectrum_variants(request)[0]
    assert part.model_copy(update={"block": "layers.3.w"}).dim == 8
    assert part.model_copy(update={"seed": 3}).dim == 4
    assert request == request_for(blocks=["layers.1.w", "layers.2.w"])
    assert SpectrumRequest.model_validate_json(request.model_dump_json(exclude_none=True)) == request


def test_what_is_counted_is_no_part_of_the_question() -> None:
    fresh, counted = (request_for(block="layers.1.w", seed=1) for _ in range(2))
    assert spectrum_variants(counted)[0].dim == counted.dim == 4
    assert cache_key(counted) == cache_key(fresh)
    assert counted.canonical() == fresh.canonical()
