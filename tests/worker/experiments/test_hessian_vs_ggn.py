"""Comparisons of Hessian and GGN against dense matrices of torch and training by hand."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import hessian, jacrev

from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest
from hessian_spectrum.api_schemas.hessian_vs_ggn_results import (
    ComparisonPoint,
    ComparisonRun,
    HessianVsGgnResult,
    TopEigenvalue,
)
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.curvature.models.base import Model, ParameterLayout
from hessian_spectrum.jobs.plans import plan_job
from hessian_spectrum.worker.builders import build_model, build_parameters, build_token_stream
from hessian_spectrum.worker.experiments.comparison_curves import model_comparison, relative_error
from hessian_spectrum.worker.experiments.hessian_vs_ggn import measured_windows, run_hessian_vs_ggn_job
from hessian_spectrum.worker.hardware import Hardware

CPU, F64 = torch.device("cpu"), torch.float64
GPT2: dict[str, Any] = {"kind": "gpt2", "n_layer": 2, "n_head": 1, "n_embd": 3, "n_positions": 4, "vocab_size": 256}
TWIN = GPT2 | {"attention": False}
DATA = {"kind": "text", "name": "pydoc-topics", "num_sequences": 3, "sequence_length": 4}
PRETRAIN = {"num_steps": 12, "batch_size": 4, "learning_rate": 0.03, "warmup_steps": 3, "measure_every": [{"every": 8}]}


def request_of(**fields: Any) -> HessianVsGgnRequest:
    body = {"kind": "hessian-vs-ggn", "models": [GPT2, TWIN], "data": DATA, "precision": "float64"}
    return HessianVsGgnRequest.model_validate(body | fields)


def run(request: HessianVsGgnRequest, progress: Any = ignore_progress, memory_bytes: int = 2**33) -> HessianVsGgnResult:
    result = run_hessian_vs_ggn_job(request, Hardware(CPU, 1, memory_bytes), progress).result
    assert isinstance(result, HessianVsGgnResult)
    return result


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine cost tenfold."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def own_parameters() -> HessianVsGgnResult:
    return run(request_of(seeds=[4], tolerance=1e-5, models=[GPT2 | {"seed": 5}, TWIN | {"seed": 5}]))


@pytest.fixture(scope="module")
def pretrained() -> HessianVsGgnResult:
    return run(request_of(pretrain=PRETRAIN, seeds=[0, 1]))


def logits(model: Model, windows: Dataset, flat: Tensor) -> Tensor:
    return model(ParameterLayout.of(model.parameter_shapes).unflatten(flat), windows.inputs).flatten(0, 1)


def top_ggn(model: Model, windows: Dataset, flat: Tensor) -> float:
    """Of J^T blockdiag(diag(p) - p p^T) J / N as the square of a singular value: no matrix of all parameters."""
    jacobian = jacrev(lambda at: logits(model, windows, at))(flat)  # (N, K, P)
    p = logits(model, windows, flat).softmax(-1)
    root = torch.diag_embed(p.sqrt()) - p.sqrt().unsqueeze(1) * p.unsqueeze(2)  # root root^T = diag(p) - p p^T
    factor = torch.einsum("nkj,nkp->njp", root, jacobian).flatten(0, 1)
    return float(torch.linalg.matrix_norm(factor, 2) ** 2 / len(p))


@pytest.mark.parametrize("index", [0, 1])
def test_eigenvalues_loss_and_residual_are_those_of_dense_matrices(
    index: int, own_parameters: HessianVsGgnResult
) -> None:
    request = request_of(models=[GPT2 | {"seed": 5}, TWIN | {"seed": 5}])
    spec = request.models[index]
    model = build_model(spec)
    flat = ParameterLayout.of(model.parameter_shapes).flatten(build_parameters(spec, model, dtype=F64, device=CPU))
    windows = measured_windows(build_token_stream(request.data), 3, seed=4, step=0)
    targets = windows.targets.flatten()

    def loss(at: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits(model, windows, at), targets)

    curve = own_parameters.curves[index]
    assert curve.num_parameters == len(flat)
    assert [run.seed for run in curve.runs] == [4]
    (point,) = curve.runs[0].points
    dense = hessian(loss, argnums=0)(flat)
    assert point.hessian.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-7)
    assert point.ggn.value == pytest.approx(top_ggn(model, windows, flat), rel=1e-7)
    assert point.hessian.converged
    assert point.ggn.converged
    assert point.loss == pytest.approx(float(loss(flat)), rel=1e-12)
    at_logits = logits(model, windows, flat).requires_grad_()
    (residual,) = torch.autograd.grad(torch.nn.functional.cross_entropy(at_logits, targets, reduction="sum"), at_logits)
    assert point.mean_residual_norm == pytest.approx(float(residual.norm(dim=-1).mean()), rel=1e-12)
    error = point.relative_error
    assert error is not None
    assert error.value == pytest.approx(1 - point.ggn.value / point.hessian.value)
    assert (point.step, point.learning_rate) == (0, None)
    assert curve.loss is curve.relative_error is curve.against_residual is curve.against_loss is None


def test_one_seed_sees_the_same_sequences_whatever_the_model_and_another_seed_others() -> None:
    stream = build_token_stream(request_of().data)
    first, again, later, other = (
        measured_windows(stream, 3, seed=seed, step=step).inputs for seed, step in ((0, 5), (0, 5), (0, 6), (1, 5))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)


def test_pretraining_learns_and_is_measured_on_the_way(pretrained: HessianVsGgnResult) -> None:
    assert [curve.label for curve in pretrained.curves] == [
        "GPT-2, 2 layers of width 3",
        "GPT-2 without attention, 2 layers of width 3",
    ]
    for curve in pretrained.curves:
        assert [run.seed for run in curve.runs] == [0, 1]
        for found in curve.runs:
            assert [point.step for point in found.points] == [0, 8, 12]
            rates = [point.learning_rate for point in found.points]
            assert rates == pytest.approx([0.03 / 4, 6e-5 + (0.03 - 6e-5) * (1 + np.cos(np.pi * 5 / 9)) / 2, 6e-5])
            assert found.points[-1].loss < 0.92 * found.points[0].loss
            assert found.points[-1].mean_residual_norm < found.points[0].mean_residual_norm
        assert len({run.parameters_sha256 for run in curve.runs}) == 2
    origin = pretrained.provenance
    assert (origin.precision, origin.device[:3], origin.micro_batch_size) == ("float64", "cpu", 3)
    assert origin.num_products > 12


def test_curves_are_means_over_seeds(pretrained: HessianVsGgnResult) -> None:
    for curve in pretrained.curves:
        paths = [found.points for found in curve.runs]
        losses = np.asarray([[point.loss for point in points] for points in paths])
        assert curve.loss is not None
        assert curve.loss.grid == [0, 8, 12]
        np.testing.assert_allclose(curve.loss.mean, losses.mean(axis=0))
        np.testing.assert_allclose(curve.loss.standard_error or [], np.abs(losses[0] - losses[1]) / 2)
        mean = curve.against_loss
        assert mean is not None
        assert mean.grid[0] == losses.min(axis=1).max()
        assert mean.grid[-1] == losses.max(axis=1).min()
        middle = mean.grid[50]
        by_hand = []
        for points in paths:
            pairs = sorted((p.loss, p.relative_error.value) for p in points if p.relative_error)
            (x0, y0), (x1, y1) = next(two for two in itertools.pairwise(pairs) if two[0][0] <= middle <= two[1][0])
            by_hand.append(y0 + (y1 - y0) * (middle - x0) / (x1 - x0))
        assert mean.mean[50] == pytest.approx(np.mean(by_hand))
        assert (mean.standard_error or [])[50] == pytest.approx(abs(by_hand[0] - by_hand[1]) / 2)


def test_the_same_seed_gives_the_same_numbers(pretrained: HessianVsGgnResult) -> None:
    again = run(request_of(pretrain=PRETRAIN, seeds=[1], models=[TWIN], labels=["twin"]))
    assert again.curves[0].runs[0] == pretrained.curves[1].runs[1]
    assert again.curves[0].label == "twin"
    loss = again.curves[0].loss
    assert loss is not None
    assert loss.standard_error is None


@pytest.mark.slow
def test_memory_that_allows_single_sequences_changes_roundings_alone() -> None:
    request = request_of(pretrain=PRETRAIN | {"num_steps": 1}, models=[GPT2], tolerance=1e-4)
    ample = plan_job(request, 2**33).whole.peak_bytes
    tight = next(size for size in range(ample, 0, -(2**14)) if not plan_job(request, size).fits) + 2**14
    whole, split = (run(request, memory_bytes=memory) for memory in (ample, tight))
    assert (whole.provenance.micro_batch_size, split.provenance.micro_batch_size) == (3, 1)
    for ours, theirs in zip(split.curves[0].runs[0].points, whole.curves[0].runs[0].points, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-9)
        assert ours.mean_residual_norm == pytest.approx(theirs.mean_residual_norm, rel=1e-9)
        assert ours.hessian.value == pytest.approx(theirs.hessian.value, rel=1e-6)
        assert ours.ggn.value == pytest.approx(theirs.ggn.value, rel=1e-6)


def test_progress_counts_steps_and_measurements_of_the_whole_job_and_can_stop_it() -> None:
    heard: list[tuple[str, int, int]] = []

    class StoppedError(Exception):
        pass

    def listen(*report: Any) -> None:
        heard.append(report)
        if report[:2] == ("training", 10):
            raise StoppedError

    with pytest.raises(StoppedError):
        run(request_of(pretrain=PRETRAIN), listen)
    assert {report for report in heard if report[0] == "training"} == {("training", n, 24) for n in range(1, 11)}
    measured = [done for phase, done, total in heard if (phase, total) == ("measurements", 6)]
    assert measured == sorted(measured)
    assert set(measured) == {0, 1, 2}
    assert len(heard) == 10 + len(measured)


def eigenvalue(value: float, residual: float) -> TopEigenvalue:
    """Known as well as its residual says."""
    return TopEigenvalue(value=value, residual=residual, converged=True, lower=value - residual, upper=value + residual)


@given(
    h=st.floats(-1e3, 1e3),
    g=st.floats(0, 1e3),
    r=st.floats(0, 10),
    s=st.floats(0, 10),
    a=st.floats(-1, 1),
    b=st.floats(-1, 1),
)
def test_the_exact_relative_error_lies_within_the_uncertainty(
    h: float, g: float, r: float, s: float, a: float, b: float
) -> None:
    found = relative_error(eigenvalue(h, r), eigenvalue(g, s))
    if abs(h) <= r or abs(h) < 1e-300:
        assert found is None or abs(h) > r
        return
    assert found is not None
    exact_h, exact_g = h + a * r, g + b * s
    exact = abs(exact_h - exact_g) / abs(exact_h)
    assert abs(exact - found.value) <= found.uncertainty * (1 + 1e-9) + 1e-9 * (1 + exact + found.value)


def test_the_relative_error_is_known_as_well_as_the_intervals() -> None:
    resolved = TopEigenvalue(value=1e-3, residual=0.1, converged=True, lower=0.99e-3, upper=1.01e-3)
    found = relative_error(resolved, eigenvalue(0.9e-3, 1e-6))
    assert found is not None
    assert found.value == pytest.approx(0.1)
    assert found.uncertainty == pytest.approx((1e-6 + 0.9 * 1e-5) / 0.99e-3)
    unknown = TopEigenvalue(value=1.0, residual=1e-9, converged=False, lower=1.0, upper=None, why="too few steps")
    assert relative_error(unknown, eigenvalue(1.0, 0.1)) is None


def test_a_hessian_that_may_be_zero_has_no_relative_error_and_its_point_no_place_on_curves() -> None:
    def point(step: int, loss: float, hessian: float) -> ComparisonPoint:
        pair = eigenvalue(hessian, 0.1), eigenvalue(1.0, 0.1)
        error = relative_error(*pair)
        return ComparisonPoint(
            step=step,
            learning_rate=0.1,
            loss=loss,
            mean_residual_norm=loss,
            hessian=pair[0],
            ggn=pair[1],
            relative_error=error,
        )

    runs = [
        ComparisonRun(
            seed=seed, parameters_sha256="", points=[point(0, 3.0, 2.0), point(1, 2.5, h), point(2, 2.0, 4.0)]
        )
        for seed, h in ((0, 0.05), (1, 3.0))
    ]
    curve = model_comparison("", 5, runs, with_curves=True)
    assert curve.loss is not None
    assert curve.relative_error is not None
    assert curve.against_loss is not None
    assert curve.loss.grid == [0, 1, 2]
    assert curve.relative_error.grid == [0, 2]
    assert curve.against_loss.mean[0] == pytest.approx(0.75)
    alone = model_comparison(
        "", 5, [ComparisonRun(seed=0, parameters_sha256="", points=[point(0, 3.0, 2.0)])], with_curves=True
    )
    assert alone.against_loss is None
