"""`/metrics` of the real stack, as Prometheus reads it."""

import time
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from hessian_spectrum.client.http import SpectrumClient

LANCZOS: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [1, 2, 1]},
    "data": {"kind": "inline", "x": [1.0, 2.0], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "lanczos", "num_steps": 5, "num_probes": 3},
}
QUADRATIC = {"model": {"kind": "quadratic", "matrix": [[2.0]]}}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(server: Any) -> Samples:
    answer = httpx.get(f"{server.url}/metrics").raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def test_a_job_moves_the_counters_by_what_it_did(server: Any, client: SpectrumClient) -> None:
    before = scraped(server)
    result = client.run(LANCZOS, fresh=True)
    client.run(LANCZOS)
    after = scraped(server)

    def moved(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert result.provenance.num_products == 15
    assert moved("spectrum_products_total") == 15
    assert moved("spectrum_jobs_accepted_total") == moved("spectrum_attempts_total") == 1
    assert moved("spectrum_jobs_cached_total") == 1
    assert moved("spectrum_jobs_ended_total", state="succeeded") == 2
    for name in ("wait", "run"):
        assert moved(f"spectrum_job_{name}_seconds_count") == 1
        assert 0 < moved(f"spectrum_job_{name}_seconds_sum") < 60
    assert moved("spectrum_jobs", state="succeeded") == 2
    assert value(after, "spectrum_jobs", state="queued") == value(after, "spectrum_queue_messages") == 0
    assert moved("spectrum_lease_losses_total") == moved("spectrum_poison_failures_total") == 0
    for name in ("spectrum_requeues_total", "spectrum_give_backs_total"):  # the standard name and the former one
        assert after[name, frozenset()] == before[name, frozenset()]
    assert moved("spectrum_http_request_seconds_count", method="POST", route="/v1/jobs", status="2xx") == 2


def test_the_deployment_is_measured(server: Any, client: SpectrumClient) -> None:
    deadline = time.monotonic() + 30
    name = client.ready().workers[0].name
    while not value(found := scraped(server), "spectrum_worker_resident_bytes", worker=name) > 50e6:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert value(found, "spectrum_redis_up") == value(found, "spectrum_workers") == 1
    assert value(found, "process_resident_memory_bytes") > 20e6
    assert value(found, "spectrum_results_free_bytes") > 0
    assert value(found, "spectrum_event_listeners") == 0


def test_addresses_that_are_none_share_one_label(server: Any) -> None:
    before = set(scraped(server))
    for number in range(20):
        httpx.get(f"{server.url}/nothing/{number}")
        httpx.request(f"ODD{number}", f"{server.url}/v1/jobs/{number}")
    new = {dict(labels).get("route") for name, labels in set(scraped(server)) - before}
    assert new <= {"other", "/v1/jobs/{job_id}", "/metrics"}
    assert len(set(scraped(server)) - before) < 120


def test_closed_forms_are_timed(server: Any, client: SpectrumClient) -> None:
    client.closed_form(QUADRATIC)
    labels = {"method": "POST", "route": "/v1/closed-form", "status": "2xx"}
    found = scraped(server)
    assert value(found, "spectrum_http_request_seconds_count", **labels) >= 1
    assert value(found, "spectrum_http_request_seconds_sum", **labels) > 0
