"""Messages about ended jobs of a real stack with keys: one for each job, of every kind, whatever its end."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.service.auth import KeyStore
from tests.fixtures.jobs import EXACT_JOB
from tests.fixtures.webhook_receiver import SECRET, Receiver, receiving

COMPARISON: dict[str, Any] = {
    "kind": "hessian-vs-ggn",
    "models": [{"kind": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 4, "vocab_size": 256}],
    "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 4},
}
SWEEP: dict[str, Any] = {"kind": "sweep", "base": EXACT_JOB, "over": {"model.seed": [0, 1]}}
ENDLESS = EXACT_JOB | {"train": {"num_steps": 10_000_000, "learning_rate": 1e-9}}


@pytest.fixture(scope="module")
def listed() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def receiver(listed: Receiver) -> Receiver:
    listed.messages.clear()
    return listed


@pytest.fixture(scope="module")
def people(
    start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, listed: Receiver
) -> Iterator[dict[str, httpx.Client]]:
    """Requests with the keys of two people."""
    directory: Path = tmp_path_factory.mktemp("webhooks") / "data"
    keys = KeyStore(directory / "keys.json")
    texts = {name: keys.add(name) for name in ("anna", "bob")}
    settings = {"SPECTRUM_WEBHOOK_HOSTS": listed.host, "SPECTRUM_WEBHOOK_SECRET": SECRET}
    server = start_server(directory, SPECTRUM_API_KEY="is-for-clients", **settings)
    with contextlib.ExitStack() as clients:
        yield {
            name: clients.enter_context(
                httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {text}"}, timeout=70)
            )
            for name, text in texts.items()
        }


@pytest.fixture
def anna(people: dict[str, httpx.Client]) -> Iterator[SpectrumClient]:
    http = people["anna"]
    with SpectrumClient(str(http.base_url), api_key=http.headers["Authorization"].removeprefix("Bearer ")) as anna:
        yield anna


@pytest.mark.parametrize("request_", [EXACT_JOB, COMPARISON, SWEEP], ids=lambda each: str(each["kind"]))
def test_every_kind_of_job_tells_its_end(anna: SpectrumClient, receiver: Receiver, request_: dict[str, Any]) -> None:
    first = anna.submit(request_ | {"webhook": receiver.url}, fresh=True)
    assert anna.wait(first.id).state == "succeeded"
    cached = anna.submit(request_ | {"webhook": receiver.url + "?of=the-second"})
    assert cached.cached  # the webhook is no part of the question
    messages = {message.content["data"]["id"]: message for message in receiver.wait(2)}
    assert [message.content["type"] for message in messages.values()] == 2 * ["job.succeeded"]
    assert messages[first.id].path == "/hook"
    assert messages[cached.id].path == "/hook?of=the-second"


def test_a_failure_and_a_cancellation_are_ends(anna: SpectrumClient, receiver: Receiver) -> None:
    failing = anna.submit(ENDLESS | {"webhook": receiver.url, "time_limit_seconds": 0.5})
    (message,) = receiver.wait(1)
    assert (message.id, message.content["type"]) == (f"{failing.id}-failed", "job.failed")
    assert message.content["data"]["error"]["type"] == "/problems/time-limit"
    running = anna.submit(ENDLESS | {"webhook": receiver.url})
    next(each for each in anna.events(running.id) if each.state == "running")
    anna.cancel(running.id)
    message = receiver.wait(2)[1]
    assert (message.id, message.content["type"]) == (f"{running.id}-cancelled", "job.cancelled")


def test_each_job_of_a_batch_tells_its_own_end(people: dict[str, httpx.Client], receiver: Receiver) -> None:
    jobs = [
        EXACT_JOB | {"model": EXACT_JOB["model"] | {"seed": seed}, "webhook": f"{receiver.url}/{seed}"}
        for seed in range(8)
    ]
    answer = people["anna"].post("/v1/jobs/batch", json={"jobs": [*jobs, EXACT_JOB]}).raise_for_status()
    ids = [job["id"] for job in answer.json()["jobs"]]
    messages = receiver.wait(8)
    assert {message.id: message.path for message in messages} == {
        f"{job_id}-succeeded": f"/hook/{seed}" for seed, job_id in enumerate(ids[:8])
    }


def test_readers_of_a_shared_job_do_not_see_its_webhook(
    people: dict[str, httpx.Client], anna: SpectrumClient, receiver: Receiver
) -> None:
    url = receiver.url + "?token=secret"
    job_id = anna.submit(EXACT_JOB | {"webhook": url, "shared": True}, fresh=True).id
    anna.wait(job_id)
    receiver.wait(1)

    def seen(name: str, path: str) -> httpx.Response:
        return people[name].get(f"/v1/jobs/{job_id}{path}").raise_for_status()

    requests = [seen(name, "/request").json() for name in ("anna", "bob")]
    assert requests[0].pop("webhook") == url
    assert requests[0] == requests[1]
    for path in ("", "/request", "/result", "/events"):
        assert "secret" not in seen("bob", path).text
