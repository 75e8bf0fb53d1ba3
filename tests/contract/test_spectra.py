"""Spectra over HTTP against closed forms and dense matrices that the tests compute themselves."""

import io
import itertools
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jacrev

from hessian_spectrum.api_schemas.methods import ExactResult, LanczosResult, TopKResult, TraceResult
from hessian_spectrum.client.http import SpectrumClient
from tests.contract.log_lines import ended_by

DIGITS: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 6, 10], "activation": "tanh", "seed": 1},
    "data": {"kind": "digits", "num_samples": 64, "seed": 2},
    "loss": "cross-entropy",
    "precision": "float64",
}


def run_all(client: SpectrumClient, requests: list[dict[str, Any]]) -> list[Any]:
    """Results of several jobs that wait in the queue together."""
    ids = [client.submit(request, fresh=True).id for request in requests]
    ended = [client.wait(job_id, timeout_seconds=120) for job_id in ids]
    assert {job.state for job in ended} == {"succeeded"}, [job.error for job in ended]
    assert all(job.progress.done == job.progress.total > 0 for job in ended)
    return [client.result(job_id) for job_id in ids]


SCALARS = {"x": [1.0, -0.5, 2.0], "y": [0.8, -0.1, 1.5]}
CLOSED_FORMS: list[dict[str, Any]] = [
    {"model": {"kind": "linear", "w": [0.5, -1.0, 0.25], "v": [1.0, 0.5, -0.75]}, "data": SCALARS},
    {"model": {"kind": "relu", "w": [0.5, -1.0, 0.25], "v": [1.0, 0.5, -0.75]}, "data": SCALARS},
    {
        "model": {
            "kind": "two-layer-linear",
            "W1": [[0.5, -1.0], [0.2, 0.3], [0.9, 0.1]],
            "W2": [[1.0, 0.5, -0.3], [-0.7, 0.4, 0.2]],
        },
        "data": {"x": [[1.0, -0.5], [2.0, 0.3], [-0.4, 0.6]], "y": [[0.8, 0.2], [-0.1, 0.0], [1.5, -1.0]]},
    },
    {
        "model": {"kind": "self-attention", "w_v": 0.9, "w_q": [0.3, -0.2], "w_k": [0.1, 0.4], "sink_bias": 2.0},
        "data": {"x": [[1.0, -0.5, 2.0], [0.3, 0.7, -1.0]], "y": [[0.8, 0.1, 1.5], [0.0, 0.5, -0.5]]},
    },
]


def test_jobs_of_closed_form_kinds_equal_their_closed_forms(client: SpectrumClient) -> None:
    """Automatic differentiation and LAPACK against theorems: two implementations that share no line."""
    jobs = [
        {"kind": "spectrum", "method": {"kind": "exact"}, **case, "data": {"kind": "inline"} | case["data"]}
        for case in CLOSED_FORMS
    ]
    for case, result in zip(CLOSED_FORMS, run_all(client, jobs), strict=True):
        formula = client.closed_form(case)
        closed = sorted(value for e in formula.eigenvalues for value in [e.value] * e.multiplicity)
        np.testing.assert_allclose(result.eigenvalues, closed, rtol=0, atol=1e-12 * max(map(abs, closed)))
        assert result.inertia == formula.inertia
        assert result.num_parameters == formula.num_parameters


WIDTHS = (3, 4, 3)
ACTIVATIONS: dict[str, Callable[[], torch.nn.Module]] = {
    "tanh": torch.nn.Tanh,
    "relu": torch.nn.ReLU,
    "gelu": torch.nn.GELU,
}
LOSSES = ("mse", "cross-entropy")
MATRICES = ("hessian", "ggn", "functional")


class Reference:
    """A network of torch.nn at random weights, random data, and the three matrices by nested differentiation."""

    def __init__(self, activation: str, loss: str) -> None:
        torch.manual_seed(len(activation))
        layers = [torch.nn.Linear(WIDTHS[0], WIDTHS[1]), ACTIVATIONS[activation](), torch.nn.Linear(*WIDTHS[1:])]
        self.network = torch.nn.Sequential(*layers).double()
        self.inputs = torch.randn(5, WIDTHS[0], dtype=torch.float64)
        self.targets = torch.randn(5, WIDTHS[2], dtype=torch.float64) if loss == "mse" else torch.arange(5) % 3
        self.parameters = {name: tensor.detach() for name, tensor in self.network.named_parameters()}
        self.is_mse = loss == "mse"
        self.activation, self.loss_name = activation, loss

    def body(self, matrix: str) -> dict[str, Any]:
        weights = [
            {"weight": self.parameters[f"{i}.weight"].tolist(), "bias": self.parameters[f"{i}.bias"].tolist()}
            for i in (0, 2)
        ]
        return {
            "kind": "spectrum",
            "model": {"kind": "mlp", "weights": weights, "activation": self.activation},
            "data": {"kind": "inline", "x": self.inputs.tolist(), "y": self.targets.tolist()},
            "loss": self.loss_name,
            "matrix": matrix,
            "method": {"kind": "exact"},
        }

    def outputs(self, flat: Tensor) -> Tensor:
        pieces = torch.split(flat, [tensor.numel() for tensor in self.parameters.values()])
        named = {n: p.view(t.shape) for (n, t), p in zip(self.parameters.items(), pieces, strict=True)}
        found: Tensor = functional_call(self.network, named, (self.inputs,))
        return found

    def loss(self, outputs: Tensor) -> Tensor:
        if self.is_mse:
            return ((outputs - self.targets) ** 2).sum(dim=1).mean() / 2
        return torch.nn.functional.cross_entropy(outputs, self.targets)

    def dense(self, matrix: str) -> Tensor:
        flat = torch.cat([tensor.flatten() for tensor in self.parameters.values()])
        outputs = self.outputs(flat)
        jacobian = jacrev(self.outputs)(flat).flatten(0, 1)
        curvature = jacrev(jacrev(self.loss))(outputs).reshape(outputs.numel(), outputs.numel())
        gauss_newton = jacobian.T @ curvature @ jacobian
        if matrix == "ggn":
            return gauss_newton
        whole: Tensor = jacrev(jacrev(lambda point: self.loss(self.outputs(point))))(flat)
        return whole if matrix == "hessian" else whole - gauss_newton


def test_every_matrix_equals_nested_differentiation(client: SpectrumClient) -> None:
    cases = [(Reference(a, loss), m) for a, loss, m in itertools.product(ACTIVATIONS, LOSSES, MATRICES)]
    results = run_all(client, [reference.body(matrix) for reference, matrix in cases])
    for (reference, matrix), result in zip(cases, results, strict=True):
        expected = torch.linalg.eigvalsh(reference.dense(matrix)).numpy()
        name = f"{reference.activation} {reference.loss_name} {matrix}"
        scale = np.abs(expected).max()
        assert scale > 1e-3, name
        np.testing.assert_allclose(result.eigenvalues, expected, rtol=0, atol=1e-9 * scale, err_msg=name)
        assert result.provenance.matrix == result.matrix == matrix
        assert result.provenance.product_fallback is None


def test_every_method_agrees_with_the_exact_spectrum_of_a_block(client: SpectrumClient) -> None:
    block = DIGITS | {"matrix": "ggn", "block": "layers.1.*"}
    methods: list[dict[str, Any]] = [
        {"kind": "exact", "eigenvectors": True},
        {"kind": "top-k", "k": 5, "which": "largest", "tolerance": 1e-9},
        {"kind": "trace", "estimator": "xtrace", "num_probes": 40, "diagonal": True},
        {"kind": "lanczos", "num_steps": 30, "num_probes": 3, "reorthogonalisation": "none"},
    ]
    ids = [client.submit(block | {"method": method}, wait_seconds=60).id for method in methods]
    exact, top, trace, lanczos = (client.result(job_id) for job_id in ids)
    assert isinstance(exact, ExactResult)
    assert isinstance(top, TopKResult)
    assert isinstance(trace, TraceResult)
    assert isinstance(lanczos, LanczosResult)
    for result in (exact, top, trace, lanczos):
        assert result.num_parameters == 6 * 10 + 10
        assert result.block == result.provenance.block == "layers.1.*"
        assert [parameter.name for parameter in result.parameters] == ["layers.1.weight", "layers.1.bias"]
        assert result.provenance.num_products > 0
    scale = exact.eigenvalues[-1]
    found = [pair.value for pair in top.eigenpairs]
    np.testing.assert_allclose(found, exact.eigenvalues[::-1][:5], rtol=0, atol=1e-9 * scale)
    assert all(pair.converged and pair.residual <= 1e-9 * 1.01 * scale for pair in top.eigenpairs)
    assert abs(trace.trace.value - exact.trace.value) <= 5 * trace.trace.standard_error + 1e-12 * scale
    assert trace.trace.num_products == 40
    assert trace.trace.lower is not None
    assert trace.trace.upper is not None
    assert trace.trace.lower <= exact.trace.value <= trace.trace.upper
    frobenius = np.linalg.norm(exact.eigenvalues)
    for estimate in (trace.frobenius, lanczos.frobenius):
        assert estimate.standard_error is not None
        assert abs(estimate.value - frobenius) <= 5 * estimate.standard_error + 1e-12 * scale
    assert lanczos.reorthogonalisation == "none"
    assert lanczos.largest.value == pytest.approx(scale, rel=1e-6)
    _check_arrays(client, ids, exact, scale=scale)


def _check_arrays(client: SpectrumClient, ids: list[str], exact: ExactResult, *, scale: float) -> None:
    vectors = arrays_of(client, ids[0])
    every, dim = vectors["eigenvectors"], exact.num_parameters
    assert exact.arrays is not None
    assert exact.arrays.shapes == {"eigenvectors": [dim, dim], "residuals": [dim]}
    np.testing.assert_array_equal(vectors["eigenvalues"], exact.eigenvalues)
    np.testing.assert_allclose(every @ every.T, np.eye(dim), atol=1e-12)
    assert vectors["residuals"].max() <= 1e-12 * scale
    matrix = every.T * vectors["eigenvalues"] @ every
    few = arrays_of(client, ids[1])
    assert few["eigenvectors"].shape == (5, dim)
    difference = few["eigenvectors"] @ matrix - few["eigenvalues"][:, None] * few["eigenvectors"]
    assert (np.linalg.norm(difference, axis=1) <= few["residuals"]).all()
    trace = arrays_of(client, ids[2])
    error = np.abs(trace["diagonal"] - np.diag(matrix))
    assert (error <= 6 * trace["diagonal_standard_error"] + 1e-12 * scale).all()
    held = (trace["diagonal_lower"] <= np.diag(matrix)) & (np.diag(matrix) <= trace["diagonal_upper"])
    assert held.mean() > 0.9
    assert client.result(ids[3]).arrays is None


def arrays_of(client: SpectrumClient, job_id: str) -> dict[str, Any]:
    with np.load(io.BytesIO(client.result_file(job_id, "npz")), allow_pickle=False) as arrays:
        return dict(arrays)


def test_reduced_products_say_how_far_they_deviate(client: SpectrumClient) -> None:
    problem = DIGITS | {"method": {"kind": "top-k", "k": 1, "tolerance": 0.1, "eigenvectors": False}}
    precisions = ("float32", "tf32", "bfloat16")
    plain, tf32, bfloat16 = run_all(client, [problem | {"precision": precision} for precision in precisions])
    assert plain.provenance.precision_deviation is None
    assert tf32.provenance.precision_deviation is not None
    assert tf32.provenance.precision_deviation < 1e-2
    assert 1e-4 < bfloat16.provenance.precision_deviation < 1e-1
    assert bfloat16.provenance.precision == "bfloat16"
    assert bfloat16.eigenpairs[0].value == pytest.approx(plain.eigenpairs[0].value, rel=0.05)
    assert plain.arrays is None


def test_errors_of_reduced_products_are_part_of_what_is_said(client: SpectrumClient) -> None:
    """The problem is convex: no eigenvalue is negative, in whatever precision."""
    problem = DIGITS | {"model": {"kind": "mlp", "widths": [64, 10]}}
    exact, lanczos = {"kind": "exact"}, {"kind": "lanczos", "num_steps": 30, "num_probes": 2, "num_points": 32}
    true, reduced, estimated = run_all(
        client,
        [
            problem | {"method": exact},
            problem | {"method": exact, "precision": "bfloat16"},
            problem | {"method": lanczos, "precision": "bfloat16"},
        ],
    )
    assert reduced.inertia.negative == 0
    largest_error = np.abs(np.subtract(reduced.eigenvalues, true.eigenvalues)).max()
    assert 1e-6 < largest_error <= reduced.zero_threshold < 0.02 * true.eigenvalues[-1]
    assert reduced.trace.lower <= true.trace.value <= reduced.trace.upper
    assert reduced.trace.standard_error > 0
    assert estimated.smallest.value - estimated.smallest.residual <= true.eigenvalues[0]
    for found, expected in (
        (estimated.smallest, true.eigenvalues[0]),
        (estimated.largest, true.eigenvalues[-1]),
        (estimated.trace, true.trace.value),
        (estimated.frobenius, np.linalg.norm(true.eigenvalues)),
    ):
        assert found.lower <= expected <= found.upper


def test_a_quadratic_form_has_no_gauss_newton_part(client: SpectrumClient) -> None:
    quadratic = {"kind": "spectrum", "model": {"kind": "quadratic", "matrix": [[2.0, 1.0], [1.0, 2.0]]}}
    problem = quadratic | {"method": {"kind": "exact"}}
    whole, ggn = run_all(client, [problem | {"matrix": matrix} for matrix in ("functional", "ggn")])
    np.testing.assert_allclose(whole.eigenvalues, [1.0, 3.0], atol=1e-14)
    assert ggn.eigenvalues == [0.0, 0.0]
    assert ggn.inertia.zero == 2


@pytest.fixture(scope="module")
def finished(server: Any) -> dict[str, str]:
    """Ids of small jobs by method."""
    methods: list[dict[str, Any]] = [
        {"kind": "lanczos", "num_steps": 12, "num_probes": 2, "num_points": 64},
        {"kind": "top-k", "k": 3},
        {"kind": "trace", "num_probes": 12},
    ]
    with SpectrumClient(server.url) as client:
        return {m["kind"]: client.submit(DIGITS | {"method": m}, wait_seconds=60).id for m in methods}


def test_curves_are_smoothed_anew_as_another_job_would(client: SpectrumClient, finished: dict[str, str]) -> None:
    method = {"kind": "lanczos", "num_steps": 12, "num_probes": 2, "num_points": 50, "kappa": 20.0, "margin": 0.1}
    wanted = client.run(DIGITS | {"method": method})
    found = client.result(finished["lanczos"], {"kappa": 20.0, "margin": 0.1, "num_points": 50})
    assert isinstance(wanted, LanczosResult)
    assert isinstance(found, LanczosResult)
    for name in ("density", "log_density", "cumulative", "smoothing", "quadrature"):
        assert getattr(found, name) == getattr(wanted, name), name
    stored = client.result(finished["lanczos"])
    assert isinstance(stored, LanczosResult)
    same = client.result(finished["lanczos"], vars(stored.smoothing))
    assert same == stored
    drawn = [client.result_file(finished["lanczos"], "svg", smoothing=change) for change in (None, {"kappa": 20.0})]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("method", "query", "name"),
    [
        ("lanczos", "kappa=1", "kappa"),
        ("lanczos", "kappa=nan", "kappa"),
        ("lanczos", "kappa=inf", "kappa"),
        ("lanczos", "margin=-1", "margin"),
        ("lanczos", "num_points=1", "num_points"),
        ("lanczos", "num_points=100001", "num_points"),
        ("top-k", "kappa=2", "kappa"),
        ("trace", "num_points=9", "num_points"),
    ],
)
def test_what_cannot_be_smoothed_is_named(
    server: Any, finished: dict[str, str], method: str, query: str, name: str
) -> None:
    response = httpx.get(f"{server.url}/v1/jobs/{finished[method]}/result?{query}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["query", name]


def test_formats_of_every_method(server: Any, finished: dict[str, str]) -> None:
    with httpx.Client(base_url=f"{server.url}/v1/jobs", timeout=30) as http:
        for method in ("lanczos", "top-k", "trace"):
            assert http.get(f"/{finished[method]}/result.png").content.startswith(b"\x89PNG")
            assert b"<svg" in http.get(f"/{finished[method]}/result", headers={"Accept": "image/svg+xml"}).content
        trace = f"/{finished['trace']}/result"
        refused = http.get(trace, headers={"Accept": "image/gif"})
        assert refused.status_code == 406
        media_types = "application/json, application/x-npz, text/csv, image/png, image/svg+xml, application/pdf"
        assert refused.json()["detail"] == f"The available formats are {media_types}."
        second_choice = http.get(trace, headers={"Accept": "image/gif, application/json;q=0.5"})
        assert second_choice.json()["trace"]["num_products"] == 12
        assert http.get(trace, headers={"If-None-Match": second_choice.headers["etag"]}).status_code == 304
        arrays = http.get(f"/{finished['top-k']}/result", headers={"Accept": "application/x-npz"})
        assert int(arrays.headers["content-length"]) == len(arrays.content)
        assert arrays.headers["content-type"] == "application/x-npz"
        tags = {http.get(f"/{finished['lanczos']}/result{end}").headers["etag"] for end in ("", ".npz", "?kappa=4")}
        assert len(tags) == 3


def test_damaged_arrays_break_off(client: SpectrumClient, server: Any) -> None:
    request = DIGITS | {"method": {"kind": "top-k", "k": 460}}
    job_id = client.submit(request, wait_seconds=60).id
    before = client.result(job_id)
    path = max((server.data_directory / "results").rglob("*.npz"), key=lambda path: path.stat().st_mtime)
    assert before.arrays is not None
    assert before.arrays.num_bytes == path.stat().st_size > 2**20
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{server.url}/v1/jobs/{job_id}/result.npz")
    client.delete(job_id)
    assert not path.exists()


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "top-k", "k": 40, "tolerance": 1e-12, "max_products": 10_000_000},
        {"kind": "trace", "estimator": "hutchinson", "num_probes": 20_000},
        {"kind": "lanczos", "num_steps": 2000, "num_probes": 20},
    ],
    ids=lambda method: method["kind"],
)
def test_methods_show_progress_and_hear_that_they_are_cancelled(
    server: Any, client: SpectrumClient, method: dict[str, Any]
) -> None:
    """Within the second and a half after which the supervision ends them."""
    large = {"model": {"kind": "mlp", "widths": [64, 500, 10]}, "precision": "float32"}
    job_id = client.submit(DIGITS | large | {"method": method}).id
    deadline = time.monotonic() + 60
    while (progress := client.job(job_id).progress).phase != "products" or progress.done == 0:
        assert time.monotonic() < deadline, progress
        time.sleep(0.05)
    assert progress.unit == "matrix-vector products"
    assert progress.done < progress.total
    client.cancel(job_id)
    assert client.wait(job_id, timeout_seconds=20).state == "cancelled"
    assert ended_by(server, job_id) == "job_runner"


def test_a_block_that_no_parameter_matches_is_refused(server: Any) -> None:
    body = DIGITS | {"method": {"kind": "exact"}, "block": "layer.*"}
    response = httpx.post(f"{server.url}/v1/jobs", json=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["body", "block"]
    assert "layers.0.weight" in response.json()["errors"][0]["msg"]
