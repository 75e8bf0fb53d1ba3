"""Several spectra in one job: each is that of a job of its own."""

from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.api_schemas.jobs import SpectrumSetResult
from hessian_spectrum.api_schemas.methods import AnySpectrumResult, ExactResult, LanczosResult, TopKResult
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.jobs.plans import estimate
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.results.arrays import result_arrays
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

GPT2 = {"kind": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 256, "seed": 3}
BLOCKS = ["blocks.*.attn.*", "blocks.0.mlp.*", "ln_f.*"]
LANCZOS = {"kind": "lanczos", "num_steps": 6, "num_probes": 2, "num_points": 20, "reorthogonalisation": "full"}


def request_of(model: dict[str, Any] | None = None, **fields: Any) -> SpectrumRequest:
    body: dict[str, Any] = {
        "kind": "spectrum",
        "model": GPT2 | (model or {}),
        "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 4, "sequence_length": 8},
        "loss": "cross-entropy",
        "method": LANCZOS,
        "precision": "float64",
    }
    return SpectrumRequest.model_validate(body | fields)


def run(request: SpectrumRequest, memory: int = 2**33) -> Any:
    return run_spectrum_job(request, Hardware(torch.device("cpu"), 1, memory), ignore_progress)


def single(request: SpectrumRequest) -> AnySpectrumResult:
    result: AnySpectrumResult = run(request).result
    return result


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_densities_of_blocks_are_those_of_single_jobs(matrix: str) -> None:
    found = run(request_of(blocks=BLOCKS, matrix=matrix)).result
    assert isinstance(found, SpectrumSetResult)
    for spectrum, block in zip(found.spectra, BLOCKS, strict=True):
        alone = single(request_of(block=block, matrix=matrix))
        assert isinstance(spectrum, LanczosResult)
        assert isinstance(alone, LanczosResult)
        assert (spectrum.block, spectrum.num_parameters) == (block, alone.num_parameters)
        assert spectrum.parameters == alone.parameters
        assert spectrum.quadrature == alone.quadrature
        assert spectrum.density == alone.density
        assert spectrum.trace == alone.trace
        assert spectrum.loss == alone.loss
        assert spectrum.provenance.block == block


def test_every_method_takes_blocks_and_arrays_tell_them_apart() -> None:
    methods: list[dict[str, Any]] = [
        {"kind": "exact", "eigenvectors": True},
        {"kind": "top-k", "k": 2, "tolerance": 1e-8},
        {"kind": "trace", "num_probes": 8, "diagonal": True},
    ]
    for method in methods:
        answer = run(request_of(blocks=["blocks.1.attn.c_proj.*", "ln_f.*"], method=method))
        for index, block in enumerate(("blocks.1.attn.c_proj.*", "ln_f.*")):
            alone = run(request_of(block=block, method=method))
            for name, array in alone.arrays.items():
                assert answer.arrays[f"spectrum_{index}_{name}"].shape == array.shape
            spectrum = answer.result.spectra[index]
            if isinstance(spectrum, ExactResult):
                np.testing.assert_allclose(spectrum.eigenvalues, alone.result.eigenvalues, rtol=0, atol=1e-14)
            elif isinstance(spectrum, TopKResult):
                values = [[pair.value for pair in each.eigenpairs] for each in (spectrum, alone.result)]
                np.testing.assert_allclose(*values, rtol=1e-7)
            else:
                assert spectrum.trace.value == pytest.approx(alone.result.trace.value, rel=1e-8)
        arrays = result_arrays(answer.result)
        assert {name.split("_")[1] for name in arrays} == {"0", "1"}


def test_sinks_are_solved_for_and_reported_block_by_block() -> None:
    sink = {"mean_score": [None, 0.4, 0.9], "heads": [1], "blocks": [1, 0]}
    found = run(request_of({"attention_sink": sink})).result
    plain, *sunk = found.spectra
    assert plain.attention_sink.bias == 0
    assert plain.attention_sink.mean_score_after == sunk[0].attention_sink.mean_score_before
    assert plain.loss == single(request_of()).loss
    biases = []
    for spectrum, target in zip(sunk, (0.4, 0.9), strict=True):
        report = spectrum.attention_sink
        assert report.mean_score_after == pytest.approx(target, abs=1e-6)
        assert [score.block for score in report.blocks] == [1, 0]
        assert report.mean_score_before == pytest.approx(sum(score.before for score in report.blocks) / 2)
        assert report.mean_score_after == pytest.approx(sum(score.after for score in report.blocks) / 2)
        given = single(request_of({"attention_sink": {"bias": report.bias, "heads": [1], "blocks": [1, 0]}}))
        assert given.loss == spectrum.loss
        assert given.attention_sink == report
        biases.append(report.bias)
    assert 0 < biases[0] < biases[1]
    assert sunk[0].loss != plain.loss


def test_every_block_with_every_sink_in_order() -> None:
    found = run(request_of({"attention_sink": {"bias": [0.0, 2.0]}}, blocks=["blocks.0.*", "blocks.1.*"])).result
    order = [(spectrum.attention_sink.bias, spectrum.block) for spectrum in found.spectra]
    assert order == [(0.0, "blocks.0.*"), (0.0, "blocks.1.*"), (2.0, "blocks.0.*"), (2.0, "blocks.1.*")]


def test_single_tokens_attend_to_themselves_alone() -> None:
    data = {"kind": "inline", "x": [[1]], "y": [[2]]}
    report = single(request_of({"attention_sink": {"bias": -5.0}}, data=data)).attention_sink
    assert report is not None
    assert (report.mean_score_before, report.mean_score_after) == (1.0, 1.0)


def test_a_mean_score_that_no_bias_reaches_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hessian_spectrum.curvature.attention_sinks.MAX_BIAS", 2.0)
    with pytest.raises(InvalidProblemError, match=r"attention_sink\.mean_score: no bias gives a mean score of 0\.999"):
        run(request_of({"attention_sink": {"mean_score": 0.999}}))


def test_progress_is_that_of_all_spectra() -> None:
    told: list[tuple[int, int]] = []

    def note(phase: str, done: int, total: int) -> None:
        if phase == "products":
            told.append((done, total))

    run_spectrum_job(request_of(blocks=BLOCKS), Hardware(torch.device("cpu"), 1, 2**33), note)
    assert {total for _, total in told} == {36}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (36, 36)


def test_estimates_add_products_and_share_memory() -> None:
    parts = [estimate(request_of(block=block), 2**33) for block in BLOCKS]
    whole = estimate(request_of(blocks=BLOCKS), 2**33)
    assert whole.num_products == sum(part.num_products for part in parts)
    assert whole.num_parameters == sum(part.num_parameters for part in parts)
    assert max(part.peak_bytes for part in parts) <= whole.peak_bytes
    large = GPT2 | {"n_embd": 64}
    alone, both = (
        estimate(request_of(large, method={"kind": "top-k", "k": 50}, blocks=blocks), 2**33).peak_bytes
        for blocks in (["blocks.0.*"], ["blocks.0.*", "blocks.1.*"])
    )
    rows = 50 * 49_984 * 8  # vectors of one spectrum, kept until the other is there
    assert both - alone >= rows


@pytest.mark.slow
def test_memory_that_allows_single_sequences_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of({"attention_sink": {"mean_score": [0.5]}}, blocks=BLOCKS)
    whole = run(request).result
    least = next(size for size in range(2**20, 2**30, 2**18) if estimate(request, size).peak_bytes <= size)
    split = run(request, least).result
    assert whole.spectra[0].provenance.micro_batch_size == 4
    assert split.spectra[0].provenance.micro_batch_size == 1
    for ours, theirs in zip(split.spectra, whole.spectra, strict=True):
        assert ours.largest.value == pytest.approx(theirs.largest.value, rel=1e-9)
        assert ours.attention_sink.bias == pytest.approx(theirs.attention_sink.bias, rel=1e-6)
