"""`/v1/jobs` through the real stack: Redis, Celery worker, HTTP."""

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.api_schemas.jobs import Job
from hessian_spectrum.api_schemas.methods import ExactResult, LanczosResult
from hessian_spectrum.client.errors import JobFailedError, ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.quadrature.deflation import deflated
from hessian_spectrum.serialization.curves import deflation_from, quadrature_from
from tests.contract.log_lines import ended_by

DIGITS: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 12, 10], "activation": "tanh", "seed": 1},
    "data": {"kind": "digits", "num_samples": 256, "seed": 2},
    "loss": "cross-entropy",
    "method": {"kind": "exact"},
    "train": {"num_steps": 100, "learning_rate": 0.5, "batch_size": 64},
    "precision": "float64",
}
TINY: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1], "activation": "linear", "bias": False},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "exact"},
}
WIDE = DIGITS | {"model": {"kind": "mlp", "widths": [64, 10_000, 10]}}
ENDLESS = DIGITS | {"train": {"num_steps": 10_000_000, "learning_rate": 1e-9}}

FRESH = {"Cache-Control": "no-cache"}


def lanczos(**fields: Any) -> dict[str, Any]:
    return {"method": {"kind": "lanczos"} | fields}


def wait_for_state(client: SpectrumClient, job_id: str, state: str, *, seconds: float = 60.0) -> Job:
    deadline = time.monotonic() + seconds
    while (job := client.job(job_id)).state != state:
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def test_lanczos_agrees_with_the_exact_spectrum_of_the_same_digits_model(client: SpectrumClient) -> None:
    exact = client.run(DIGITS)
    found = client.run(DIGITS | lanczos(num_steps=150, num_probes=8, num_points=2048))
    assert isinstance(exact, ExactResult)
    assert isinstance(found, LanczosResult)
    assert exact.provenance.parameters_sha256 == found.provenance.parameters_sha256
    assert exact.provenance.data_sha256 == found.provenance.data_sha256
    assert exact.num_parameters == found.num_parameters == 64 * 12 + 12 + 12 * 10 + 10 == len(exact.eigenvalues)

    scale = max(abs(exact.eigenvalues[0]), abs(exact.eigenvalues[-1]))
    for ritz, eigenvalue in ((found.largest, exact.eigenvalues[-1]), (found.smallest, exact.eigenvalues[0])):
        assert abs(ritz.value - eigenvalue) <= 1e-6 * scale
        assert 0 <= ritz.residual <= 1e-3 * scale

    assert found.trace.standard_error is not None
    assert 0 < found.trace.standard_error < 0.5 * abs(exact.trace.value)
    assert abs(found.trace.value - exact.trace.value) <= 4 * found.trace.standard_error
    assert exact.trace.value == pytest.approx(sum(exact.eigenvalues), rel=1e-12)

    grid, values = np.asarray(found.density.grid), np.asarray(found.density.values)
    assert len(grid) == len(values) == 2048
    assert values.min() >= 0
    assert np.trapezoid(values, grid) == pytest.approx(1.0, abs=0.02)
    assert max(found.density.standard_error) > 0
    assert len(found.quadrature) == 8
    for quadrature in found.quadrature:
        assert len(quadrature.nodes) == len(quadrature.weights) <= 150
        assert sum(quadrature.weights) == pytest.approx(1.0, abs=1e-12)
    deflation = deflation_from(found.deflation)
    assert deflation is not None
    rest = deflated([quadrature_from(each) for each in found.quadrature], deflation, found.num_parameters)
    num_others = found.num_parameters - len(deflation.eigenvalues)
    mean = np.mean([np.dot(q.nodes, q.weights) for q in rest]) * num_others
    assert mean + deflation.eigenvalues.sum() == pytest.approx(found.trace.value, rel=1e-10)
    assert found.provenance.num_products == 8 * 150
    assert found.provenance.product_fallback is None
    assert sum(vars(exact.inertia).values()) == exact.num_parameters
    assert 0 < exact.zero_threshold < 1e-10 * scale


def test_the_same_request_gives_the_same_numbers(client: SpectrumClient) -> None:
    request = DIGITS | lanczos(num_steps=20, num_probes=2) | {"precision": None}
    first, second = (client.run(request, fresh=True) for _ in range(2))
    assert first.provenance.precision == "float32"
    different = {"provenance"}
    assert first.model_dump(exclude=different) == second.model_dump(exclude=different)
    assert isinstance(third := client.run(request | {"seed": 1}), LanczosResult)
    assert isinstance(first, LanczosResult)
    assert third.quadrature != first.quadrature


def test_a_linear_network_job_equals_its_closed_form(client: SpectrumClient) -> None:
    """Two implementations that share no line: autograd and LAPACK against Theorem 3.1."""
    result = client.run(TINY)
    assert isinstance(result, ExactResult)
    import torch

    from hessian_spectrum.curvature.models.mlp import Mlp

    generator = torch.Generator().manual_seed(0)
    parameters = Mlp((1, 2, 1), "linear", bias=False).initial_parameters(generator, torch.float64, torch.device("cpu"))
    v, w = (parameters[f"layers.{i}.weight"].flatten().tolist() for i in range(2))
    spectrum = client.closed_form(
        {"model": {"kind": "linear", "w": w, "v": v}, "data": {"x": [1.0, 2.0], "y": [0.5, -1.0]}}
    )
    closed = sorted(value for e in spectrum.eigenvalues for value in [e.value] * e.multiplicity)
    np.testing.assert_allclose(result.eigenvalues, closed, atol=1e-13 * abs(closed[-1]))


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"kind": "gaussian", "num_samples": 20, "input_dim": 1, "output_dim": 1, "noise": 0.1}},
        {
            "model": {"kind": "mlp", "widths": [2, 3, 2]},
            "data": {"kind": "inline", "x": [[1.0, 2.0]], "y": [[0.0, 1.0]]},
        },
        {
            "model": {"kind": "mlp", "widths": [2, 3, 2]},
            "data": {"kind": "inline", "x": [[1.0, 2.0], [0.0, 1.0]], "y": [1, -100]},
            "loss": "cross-entropy",
        },
        {
            "model": {"kind": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 5},
            "data": {"kind": "inline", "x": [[0, 1, 4], [2, 2, 3]], "y": [[1, 4, -100], [2, 3, 0]]},
            "loss": "cross-entropy",
        },
        {
            "model": {
                "kind": "gpt2",
                "n_layer": 1,
                "n_head": 2,
                "n_embd": 4,
                "n_positions": 8,
                "vocab_size": 256,
                "attention_sink": {"bias": 2.0, "heads": [0, 1], "blocks": [0]},
            },
            "data": {"kind": "text", "text": "to be or not to be", "num_sequences": 2, "sequence_length": 6},
            "loss": "cross-entropy",
        },
    ],
    ids=["gaussian", "inline-mse", "inline-labels", "inline-tokens", "text"],
)
def test_every_kind_of_data_runs(client: SpectrumClient, change: dict[str, Any]) -> None:
    result = client.run(TINY | lanczos(num_steps=6, num_probes=2) | change)
    assert isinstance(result, LanczosResult)
    assert result.smallest.value < result.largest.value
    assert result.loss > 0


def test_a_job_is_accepted_followed_and_fetched(server: Any) -> None:
    with httpx.Client(base_url=server.url) as http:
        accepted = http.post("/v1/jobs", json=DIGITS | {"tags": {"paper": "one"}}, headers=FRESH)
        assert accepted.status_code == 202
        assert accepted.headers["retry-after"] == "1"
        job = accepted.json()
        assert accepted.headers["location"] == job["links"]["self"] == f"{server.url}/v1/jobs/{job['id']}"
        assert job["state"] in ("queued", "running")
        ended = http.get(job["links"]["self"], params={"wait": 60}, timeout=70).json()
        assert (ended["state"], ended["attempt"], ended["error"]) == ("succeeded", 1, None)
        assert ended["created_at"] < ended["started_at"] < ended["finished_at"]
        assert ended["progress"]["done"] == ended["progress"]["total"]
        record = http.get(job["links"]["self"])
        for known in (record.headers["etag"], f"W/{record.headers['etag']}", "*"):
            assert http.get(job["links"]["self"], headers={"If-None-Match": known}).status_code == 304
        assert http.get(job["links"]["self"], headers={"If-None-Match": '"other"'}).status_code == 200
        result = http.get(job["links"]["result"])
        assert result.headers["content-type"] == "application/json"
        assert http.get(job["links"]["result"], headers={"If-None-Match": result.headers["etag"]}).status_code == 304


def test_prefer_wait_answers_with_the_finished_job(server: Any) -> None:
    response = httpx.post(f"{server.url}/v1/jobs", json=TINY, headers=FRESH | {"Prefer": "wait=30"}, timeout=40)
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=30"
    assert response.json()["state"] == "succeeded"


def test_prefer_wait_gives_up_in_time(server: Any, client: SpectrumClient) -> None:
    started = time.monotonic()
    response = httpx.post(f"{server.url}/v1/jobs", json=ENDLESS, headers={"Prefer": "wait=1"}, timeout=40)
    assert response.status_code == 202
    assert 1.0 <= time.monotonic() - started < 20
    client.cancel(response.json()["id"])


def test_progress_moves(client: SpectrumClient) -> None:
    job_id = client.submit(ENDLESS).id
    wait_for_state(client, job_id, "running")
    seen = set()
    deadline = time.monotonic() + 60
    while len(seen) < 3 and time.monotonic() < deadline:
        progress = client.job(job_id).progress
        if progress.phase == "training":
            assert (progress.total, progress.unit) == (10_000_000, "steps")
            seen.add(progress.done)
        time.sleep(0.1)
    client.cancel(job_id)
    assert len(seen) >= 3


def test_a_running_job_hears_that_it_is_cancelled(server: Any, client: SpectrumClient) -> None:
    """Within the second and a half after which the supervision ends it."""
    job_id = client.submit(ENDLESS).id
    wait_for_state(client, job_id, "running")
    assert client.cancel(job_id).state == "cancelling"
    job = client.wait(job_id, timeout_seconds=20)
    assert job.state == "cancelled"
    assert ended_by(server, job_id) == "job_runner"
    with pytest.raises(ProblemResponseError) as caught:
        client.result(job_id)
    assert caught.value.problem.status == 409
    assert client.cancel(job_id).state == "cancelled"


def test_a_computation_that_does_not_listen_is_cancelled_all_the_same(server: Any, client: SpectrumClient) -> None:
    """LAPACK at work on a matrix of 4,960 rows: the process ends, and the next job runs."""
    large = {
        "model": {"kind": "mlp", "widths": [64, 66, 10]},
        "data": {"kind": "digits", "num_samples": 2},
        "train": None,
    }
    job_id = client.submit(DIGITS | large).id
    deadline = time.monotonic() + 120
    while (progress := client.job(job_id).progress).phase != "products" or progress.done < progress.total:
        assert time.monotonic() < deadline, progress
        time.sleep(0.02)
    client.cancel(job_id)
    started = time.monotonic()
    assert client.wait(job_id, timeout_seconds=30).state == "cancelled"
    is_fast = time.monotonic() - started < 3.0  # a machine on which LAPACK may end before it is ended
    assert is_fast or ended_by(server, job_id) == "supervision"
    assert client.run(TINY, fresh=True).num_parameters == 4


def test_a_queued_job_is_cancelled_at_once_and_never_runs(client: SpectrumClient) -> None:
    running = client.submit(ENDLESS).id
    waiting = client.submit(TINY, fresh=True).id
    assert client.cancel(waiting).state == "cancelled"
    client.cancel(running)
    assert client.run(TINY, fresh=True).num_parameters == 4
    assert client.job(waiting).attempt == 0


def test_a_result_that_is_not_there_yet(client: SpectrumClient, server: Any) -> None:
    job_id = client.submit(ENDLESS).id
    response = httpx.get(f"{server.url}/v1/jobs/{job_id}/result")
    assert response.status_code == 409
    assert response.headers["retry-after"] == "1"
    with pytest.raises(ProblemResponseError) as caught:
        client.delete(job_id)
    assert caught.value.problem.status == 409
    client.cancel(job_id)


def test_numbers_beyond_floating_point_fail_and_say_so(client: SpectrumClient) -> None:
    request = TINY | {"data": {"kind": "inline", "x": [1.0], "y": [1e200]}}
    with pytest.raises(JobFailedError, match="the loss is inf"):
        client.run(request)


def test_a_job_that_diverges_fails_and_says_why(client: SpectrumClient, server: Any) -> None:
    request = DIGITS | {"loss": "mse", "train": {"num_steps": 200, "learning_rate": 1e6}}
    with pytest.raises(JobFailedError) as caught:
        client.run(request)
    job = caught.value.job
    assert job.state == "failed"
    assert job.error is not None
    assert "learning rate" in (job.error.detail or "")
    response = httpx.get(f"{server.url}/v1/jobs/{job.id}/result")
    assert response.status_code == 422
    assert response.json()["detail"] == job.error.detail
    assert client.run(TINY, fresh=True).num_parameters == 4


@pytest.fixture(scope="module")
def small_client(
    start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SpectrumClient]:
    """Of a stack whose worker has little memory."""
    server = start_server(tmp_path_factory.mktemp("small") / "data", SPECTRUM_MEMORY_BYTES="2000000000")
    with SpectrumClient(server.url) as client:
        yield client
    server.stop()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": {"kind": "mlp", "widths": [64, 1_000_000, 1_000_000, 10]}}, "model"),
        ({"model": {"kind": "mlp", "widths": [64, 20_000, 10]}}, "model"),
        (
            TINY
            | lanczos(num_steps=2)
            | {
                "model": {"kind": "mlp", "widths": [100_000, 1, 100_000]},
                "data": {"kind": "gaussian", "num_samples": 1, "input_dim": 100_000, "output_dim": 100_000},
            },
            "data",
        ),
        (TINY | lanczos(num_steps=2, num_probes=1000, num_points=100_000), "method"),
        (WIDE | lanczos(num_steps=2000, reorthogonalisation="full"), "method"),
        (WIDE | {"method": {"kind": "top-k", "k": 1000, "eigenvectors": False}}, "method"),
        (WIDE | {"method": {"kind": "trace", "estimator": "xtrace", "num_probes": 2000}}, "method"),
        (WIDE | {"method": {"kind": "exact"}}, "model"),
    ],
)
def test_a_job_too_large_for_the_worker_is_refused_and_not_queued(
    small_client: SpectrumClient, change: dict[str, Any], field: str
) -> None:
    client = small_client
    before = sum(1 for _ in client.jobs())
    with pytest.raises(ProblemResponseError) as caught:
        client.submit(DIGITS | change)
    problem = caught.value.problem
    assert problem.status == 422
    assert problem.errors is not None
    assert problem.errors[0].loc == ["body", field]
    assert "GiB" in problem.errors[0].msg
    assert sum(1 for _ in client.jobs()) == before


def test_an_estimate_says_what_submission_would_and_queues_nothing(small_client: SpectrumClient) -> None:
    before = sum(1 for _ in small_client.jobs())
    fitting = small_client.estimate(DIGITS)
    assert (fitting.num_parameters, fitting.num_products) == (910, 910)
    assert (fitting.fits, fitting.micro_batch_size, fitting.num_training_passes) == (True, 256, 25)
    assert fitting.worker_memory_bytes == 2_000_000_000
    large = small_client.estimate(WIDE)
    assert large.fits is False
    assert large.peak_bytes > 8 * large.num_parameters**2
    assert "too large" in large.summary
    with pytest.raises(ProblemResponseError) as caught:
        small_client.estimate(DIGITS | {"kind": "x"})
    assert caught.value.problem.status == 422
    assert small_client.estimate(ENDLESS).num_training_passes == 10_000_000
    assert sum(1 for _ in small_client.jobs()) == before


def test_what_needs_less_memory_is_accepted(small_client: SpectrumClient) -> None:
    """The same model in a block of it, without a basis, or by probes alone."""
    for change in (
        lanczos(num_steps=2000),
        {"method": {"kind": "exact"}, "block": "layers.1.bias"},
        {"method": {"kind": "trace", "estimator": "hutchinson", "num_probes": 2000}},
    ):
        job = small_client.submit(WIDE | change)
        small_client.cancel(job.id)


def test_invalid_jobs_are_not_queued(client: SpectrumClient) -> None:
    before = sum(1 for _ in client.jobs())
    for change in (
        {"kind": "x"},
        {"data": {"kind": "digits", "num_samples": 0}},
        {"model": {"kind": "mlp", "widths": [64, 9]}},
    ):
        with pytest.raises(ProblemResponseError) as caught:
            client.submit(DIGITS | change)
        assert caught.value.problem.status == 422
    assert sum(1 for _ in client.jobs()) == before


def test_listing_by_state_tag_and_page(client: SpectrumClient, server: Any) -> None:
    ids = [client.submit(TINY | {"tags": {"series": "listing", "n": str(i)}}, wait_seconds=30).id for i in range(5)]
    assert [job.id for job in client.jobs(tag="series:listing")] == ids[::-1]
    assert [job.id for job in client.jobs(state="succeeded", tag="n:3")] == [ids[3]]
    assert [job.id for job in client.jobs(state="expired")] == []
    seen: list[str] = []
    query: dict[str, Any] = {"tag": "series:listing", "page_size": 2}
    for size in (2, 2, 1):
        page = httpx.get(f"{server.url}/v1/jobs", params=query).json()
        assert len(page["jobs"]) == size
        seen += [job["id"] for job in page["jobs"]]
        query["page_token"] = page["next_page_token"]
    assert page["next_page_token"] is None
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    "query", ["state=sleeping", "page_size=0", "page_size=201", "page_token=!", "page_token=AAAA", "tag=nocolon"]
)
def test_bad_listing_queries_name_the_parameter(server: Any, query: str) -> None:
    response = httpx.get(f"{server.url}/v1/jobs?{query}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["query", query.split("=", maxsplit=1)[0]]


def test_a_deleted_job_is_gone_with_its_result(client: SpectrumClient, server: Any) -> None:
    job_id = client.submit(TINY, wait_seconds=30, fresh=True).id
    client.result(job_id)
    files = set((server.data_directory / "results").rglob("*.json"))
    client.delete(job_id)
    assert len(files - set((server.data_directory / "results").rglob("*.json"))) == 1
    for call in (client.job, client.result, client.cancel, client.delete):
        with pytest.raises(ProblemResponseError) as caught:
            call(job_id)
        assert caught.value.problem.status == 404


def test_result_formats(client: SpectrumClient, server: Any) -> None:
    for method in ({"kind": "exact"}, {"kind": "lanczos", "num_steps": 3, "num_probes": 2}):
        job_id = client.submit(TINY | {"method": method}, wait_seconds=30).id
        base = f"{server.url}/v1/jobs/{job_id}/result"
        assert client.result_file(job_id, "png").startswith(b"\x89PNG\r\n")
        assert b"<svg" in client.result_file(job_id, "svg")
        arrays = np.load(io.BytesIO(client.result_file(job_id, "npz")), allow_pickle=False)
        document = client.result(job_id)
        if isinstance(document, ExactResult):
            np.testing.assert_array_equal(arrays["eigenvalues"], document.eigenvalues)
        else:
            np.testing.assert_array_equal(arrays["density_grid"], document.density.grid)
            np.testing.assert_array_equal(arrays["nodes_1"], document.quadrature[1].nodes)
        for accept, media_type in (
            ("image/png", "image/png"),
            ("text/html, image/svg+xml;q=0.9, */*;q=0.1", "image/svg+xml"),
            ("*/*", "application/json"),
        ):
            assert httpx.get(base, headers={"Accept": accept}).headers["content-type"].startswith(media_type)
        assert httpx.get(base, headers={"Accept": "text/html"}).status_code == 406
        assert httpx.get(f"{base}.exe").status_code == 422


def test_a_large_request_is_computed_like_a_small_one(client: SpectrumClient, server: Any) -> None:
    numbers = np.linspace(-1, 1, 8192).tolist()
    job = TINY | {"data": {"kind": "inline", "x": numbers, "y": numbers[::-1]}, "tags": {"size": "large"}}
    queued = client.submit(job, fresh=True)
    result = client.result(client.wait(queued.id).id)
    assert isinstance(result, ExactResult)
    assert len(result.eigenvalues) == 4
    assert not (server.data_directory / "results" / "requests" / f"{queued.id}.json").exists()
    assert client.submit(job).cached
