"""Requests with one cache key have one result; a change of software gives another version."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hessian_spectrum.api_schemas.jobs import JobRequest
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.jobs import fingerprints
from hessian_spectrum.jobs.fingerprints import (
    RESULT_PACKAGES,
    cache_key,
    digest_of_sources,
    package_directories,
    result_version,
)
from hessian_spectrum.service.routes.documentation import JOB_EXAMPLES
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

# those that name an uploaded file need a store to look it up in
REQUESTS = [each["value"] for each in JOB_EXAMPLES.values() if "artifact" not in str(each["value"])]


def digest(request: dict[str, Any]) -> str:
    return cache_key(JobRequest.model_validate(request).root)


@pytest.mark.parametrize("request_", REQUESTS)
def test_it_survives_the_way_to_a_worker(request_: dict[str, Any]) -> None:
    asked = JobRequest.model_validate(request_).root
    sent = JobRequest.model_validate_json(asked.model_dump_json(exclude_none=True)).root
    assert cache_key(sent) == cache_key(asked)


@pytest.mark.parametrize("request_", REQUESTS)
def test_what_changes_no_number_is_no_part_of_it(request_: dict[str, Any]) -> None:
    said = {"tags": {"a": "b"}, "shared": True, "webhook": "http://a.example/", "time_limit_seconds": 5.0}
    assert digest(request_ | said) == digest(request_)


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_seed_is_part_of_it_where_something_is_drawn(request_: dict[str, Any]) -> None:
    match request_["kind"]:
        case "spectrum" | "series":
            changes: dict[str, Any] = {"seed": 77}
        case "sweep":
            changes = {"base": request_["base"] | {"seed": 77}}
        case _:
            changes = {"seeds": [77]}
    draws = request_.get("method", {}).get("kind") != "exact"
    assert (digest(request_ | changes) != digest(request_)) == draws


def test_examples_are_different_questions() -> None:
    assert len({digest(request) for request in REQUESTS}) == len(REQUESTS)


LAYERS = [{"weight": [[0.5] * 5] * 3, "bias": [0.1] * 3}, {"weight": [[0.25] * 3] * 2, "bias": [0.0] * 2}]
TRAIN = {"num_steps": 2, "learning_rate": 0.1}
SMALL: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [5, 3, 2]},
    "data": {"kind": "gaussian", "num_samples": 20, "input_dim": 5, "output_dim": 2},
    "loss": "mse",
    "method": {"kind": "top-k", "k": 2},
}
GIVEN = SMALL | {"model": {"kind": "mlp", "weights": LAYERS}}
EXACT = SMALL | {"method": {"kind": "exact"}}
LANCZOS = SMALL | {"method": {"kind": "lanczos", "preset": "paper-figure-6"}}
ATTENTION = SMALL | {
    "model": {"kind": "attention-layer", "key_dim": 2},
    "data": {"kind": "gaussian-sequences", "num_sequences": 2, "sequence_length": 3},
}
SINK = SMALL | {
    "model": {
        "kind": "gpt2",
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 4,
        "n_positions": 8,
        "vocab_size": 256,
        "attention_sink": {"bias": 1.0, "heads": [0, 1], "blocks": [0, 1]},
    },
    "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 1, "sequence_length": 4},
    "loss": "cross-entropy",
}
COMPARISON = {
    "kind": "hessian-vs-ggn",
    "models": [{key: value for key, value in SINK["model"].items() if key != "attention_sink"}],
    "data": SINK["data"],
    "pretrain": {"num_steps": 20, "batch_size": 2, "warmup_steps": 2},
}


def with_parts(request: dict[str, Any], **parts: dict[str, Any]) -> dict[str, Any]:
    return request | {name: (request.get(name) or {}) | fields for name, fields in parts.items()}


SAME = [
    (EXACT, EXACT | {"seed": 5}),
    (EXACT, EXACT | {"precision": "float64"}),
    (EXACT, with_parts(EXACT, method={"eigenvectors": False})),
    (SMALL, SMALL | {"precision": "float32"}),
    (SMALL, SMALL | {"matrix": "hessian", "seed": 0, "train": None}),
    (SMALL, with_parts(SMALL, method={"tolerance": 1e-5, "which": "largest"})),
    (SMALL, with_parts(SMALL, method={"max_products": 1000})),
    (with_parts(SMALL, method={"k": 20}), with_parts(SMALL, method={"k": 20, "max_products": 2000})),
    (SMALL, with_parts(SMALL, model={"bias": True, "seed": 0, "negative_slope": 0.5})),
    (GIVEN, with_parts(GIVEN, model={"seed": 7, "widths": [5, 3, 2], "bias": True})),
    (ATTENTION, with_parts(ATTENTION, model={"value_dim": 1})),
    ({**ATTENTION, "loss": None}, ATTENTION),
    (LANCZOS, LANCZOS | {"method": {"kind": "lanczos", "num_steps": 128, "num_probes": 8}}),
    (SMALL | {"method": {"kind": "trace"}}, SMALL | {"method": {"kind": "trace", "num_probes": 100}}),
    (
        SMALL | {"method": {"kind": "trace", "tolerance": 0.1}},
        SMALL | {"method": {"kind": "trace", "tolerance": 0.1, "max_products": 10_000}},
    ),
    (SMALL | {"train": TRAIN}, SMALL | {"train": TRAIN | {"seed": 4}}),
    (SMALL | {"train": TRAIN}, SMALL | {"train": TRAIN | {"batch_size": 20, "seed": 4}}),
    (SMALL | {"train": TRAIN}, SMALL | {"train": TRAIN | {"batch_size": 999}}),
    (
        SMALL | {"train": TRAIN | {"schedule": {"kind": "warmup-cosine"}}},
        SMALL | {"train": TRAIN | {"schedule": {"kind": "warmup-cosine", "decay_steps": 2}}},
    ),
    (SINK, with_parts(SINK, model={"attention_sink": {"bias": 1, "heads": [1, 0], "blocks": [1, 0]}})),
    (COMPARISON, COMPARISON | {"max_products": 1000, "seeds": [0], "precision": "float32"}),
    (COMPARISON, with_parts(COMPARISON, pretrain={"decay_steps": 20})),
]
OTHER = [
    (SMALL, SMALL | {"seed": 5}),
    (EXACT, EXACT | {"precision": "float32"}),
    (EXACT | {"precision": "bfloat16"}, EXACT | {"precision": "bfloat16", "seed": 5}),
    (SMALL, with_parts(SMALL, method={"max_products": 999})),
    (SMALL, with_parts(SMALL, model={"seed": 5})),
    (SMALL, with_parts(SMALL, model={"bias": False})),
    (
        with_parts(SMALL, model={"activation": "leaky-relu"}),
        with_parts(SMALL, model={"activation": "leaky-relu", "negative_slope": 0.5}),
    ),
    (SMALL, with_parts(SMALL, data={"seed": 5})),
    (LANCZOS, with_parts(LANCZOS, method={"kappa": 4.0})),
    (SMALL | {"train": TRAIN | {"batch_size": 19}}, SMALL | {"train": TRAIN | {"batch_size": 19, "seed": 4}}),
    (SMALL | {"train": TRAIN | {"batch_size": 19}}, SMALL | {"train": TRAIN}),
    (COMPARISON, with_parts(COMPARISON, pretrain={"decay_steps": 19})),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_question_have_one_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_what_has_an_effect_is_part_of_it(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest(one) != digest(other)


@pytest.mark.parametrize("request_", [*REQUESTS, *(each for pair in SAME for each in pair)])
def test_the_canonical_request_is_a_request_and_its_own_canonical_form(request_: dict[str, Any]) -> None:
    canonical = JobRequest.model_validate(request_).root.canonical()
    again = JobRequest.model_validate_json(canonical.model_dump_json(exclude_none=True)).root
    assert again.canonical() == again == canonical
    assert cache_key(again) == digest(request_)


@pytest.mark.parametrize(("one", "other"), [pair for pair in SAME if pair[0]["kind"] == "spectrum"])
def test_spellings_of_one_question_have_the_same_numbers_as_they_are(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert numbers(one) == numbers(other)


def numbers(request: dict[str, Any]) -> dict[str, Any]:
    """The result of the request as it is spelled, but for what repeats the spelling."""
    hardware = Hardware(torch.device("cpu"), 1, 2**32)
    answer = run_spectrum_job(SpectrumRequest.model_validate(request), hardware, ignore_progress)
    return answer.result.model_dump(
        exclude={"provenance": {"seed", "wall_time_seconds"}, "attention_sink": {"heads", "blocks"}}
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    copy = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("__pycache__")
    return [shutil.copytree(path, copy / path.name, ignore=ignored) for path in package_directories(RESULT_PACKAGES)]


def test_the_same_sources_have_the_same_version_wherever_they_lie(sources: list[Path]) -> None:
    assert digest_of_sources(sources) == result_version()
    (sources[-1] / "__pycache__").mkdir()
    (sources[-1] / "__pycache__" / "app.pyc").write_bytes(b"0")
    assert digest_of_sources(sources) == result_version()


@pytest.mark.parametrize("name", ["curvature/algorithms/lanczos.py", "worker/builders.py", "jobs/plans.py"])
def test_another_line_is_another_version(sources: list[Path], name: str) -> None:
    path = sources[0].parent / name
    before, content = digest_of_sources(sources), path.read_text()
    path.write_text(content + "\n")
    assert digest_of_sources(sources) != before
    path.write_text(content)
    assert digest_of_sources(sources) == before
    path.rename(path.with_suffix(".txt"))
    assert digest_of_sources(sources) != before
    path.with_suffix(".txt").rename(path)


def test_another_library_is_another_version(sources: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest_of_sources(sources)
    monkeypatch.setattr(fingerprints, "version", lambda name: "2.0" if name == "torch" else "1.0")
    one = digest_of_sources(sources)
    monkeypatch.setattr(fingerprints, "version", lambda name: "2.1" if name == "torch" else "1.0")
    assert len({before, one, digest_of_sources(sources)}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"loss": {"kind": "mse"}},
        {"matrix": {"kind": "hessian"}},
        {"matrix": {"kind": "hessian", "shift": 0.0, "preconditioner": None}},
        {"weight_decay": 0.0},
        {"weight_decay": None},
    ],
)
def test_options_without_effect_are_the_plain_names(change: dict[str, Any]) -> None:
    assert digest(SMALL | change) == digest(SMALL)
    text = JobRequest.model_validate(SMALL | change).root.canonical().model_dump_json(exclude_none=True)
    assert '"loss":"mse","matrix":"hessian","method"' in text


@pytest.mark.parametrize(
    "change",
    [
        {"loss": {"kind": "huber"}},
        {"loss": {"kind": "huber", "delta": 2.0}},
        {"matrix": {"kind": "hessian", "shift": 0.5}},
        {"matrix": "fisher"},
        {"weight_decay": 0.5},
    ],
)
def test_options_with_an_effect_are_another_question(change: dict[str, Any]) -> None:
    assert digest(SMALL | change) != digest(SMALL)
