"""Shards of one job, on one worker or several, with kills between any two steps: always the same numbers."""

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
import torch

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.algorithms.lanczos import StochasticLanczosQuadrature
from hessian_spectrum.jobs.plans import estimate
from hessian_spectrum.jobs.record import LeaseLostError
from hessian_spectrum.jobs.scripts import ShardScripts
from hessian_spectrum.jobs.shards import ShardPoisonedError, ShardStore
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.planning import job_plan
from hessian_spectrum.quadrature.curves import Smoothing
from hessian_spectrum.quadrature.exceptions import NonFiniteError
from hessian_spectrum.storage.job_files import CheckpointStore
from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.points import PointStore
from hessian_spectrum.worker import job_state
from hessian_spectrum.worker import sharding as worker_sharding
from hessian_spectrum.worker.builders import NO_INPUTS
from hessian_spectrum.worker.experiments.results import JobOutput
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.failures import JobFailure
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.job_state import JobCheckpointer
from hessian_spectrum.worker.runtime.job_runner import ShardRunner, fingerprint_of
from hessian_spectrum.worker.sharding import Deployment, ShardCoordinator, ShardedMethod
from tests.fixtures.jobs import create_job

HARDWARE = Hardware(torch.device("cpu"), 1, 2**33)
JOB: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 6, 10], "activation": "tanh"},
    "data": {"kind": "digits", "num_samples": 40},
    "loss": "cross-entropy",
    "method": {"kind": "lanczos", "num_steps": 6, "num_probes": 5, "num_points": 64},
    "train": {"num_steps": 4, "learning_rate": 0.1, "batch_size": 16},
}
REQUEST = SpectrumRequest.model_validate(JOB)
NUM_PRODUCTS = 6 * 5


@pytest.fixture(autouse=True)
def short_jobs_are_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_plan, "MIN_SHARD_SECONDS", 1e-9)
    monkeypatch.setattr(job_plan, "MIN_BLOCK_OPERATIONS", 1)
    monkeypatch.setattr(job_plan, "MAX_SHARDS", 3)  # of two, two and one probes
    monkeypatch.setattr(job_state, "LARGEST_SHARE", float("inf"))
    monkeypatch.setattr(worker_sharding, "SECONDS_BETWEEN_CHECKS", 0.0)


class Killed(BaseException):
    """What no code of ours catches."""


Event = Callable[[str], None]


class WatchedShards(ShardStore):
    """Tells before and after each of its scripts: a process may die there."""

    event: Event = staticmethod(lambda _: None)

    @cached_property
    def _scripts(self) -> ShardScripts:
        return WatchedScripts(self.client, self)


class WatchedScripts(ShardScripts):
    """Tells an event before and after each script of the main thread; others keep a lease."""

    def __init__(self, client: redis.Redis, store: WatchedShards) -> None:
        super().__init__(client)
        self._store = store

    def _run(self, *arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return super()._run(*arguments)
        self._store.event("before a script")
        found = super()._run(*arguments)
        self._store.event("after a script")
        return found


@dataclass
class Lab:
    """Workers of one deployment, all in this process."""

    client: redis.Redis
    directory: Path
    calls: list[str] = field(default_factory=list)
    under_way: set[int] = field(default_factory=set)  # shards that a living worker computes
    taken: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.store = JobStore(self.client, lease_seconds=30.0, max_attempts=1000)
        self.checkpoints = CheckpointStore(LocalDirectory(self.directory))
        self.job_id = create_job(self.store, REQUEST.model_dump_json())[0].id

    def deployment(self, event: Event, hardware: Hardware = HARDWARE) -> Deployment:
        shards = WatchedShards(client=self.client, lease_seconds=30.0, max_losses=1000)
        shards.event = event  # type: ignore[method-assign]
        return Deployment(shards, self.checkpoints, 0.0, hardware.device, fingerprint_of(hardware), self.calls.append)

    def lead(self, event: Event = lambda _: None) -> JobOutput:
        lease = self.store.claim(self.job_id)
        assert lease is not None
        kept = self.checkpoints.of_attempt(self.job_id, lease.attempt)
        resumed = JobCheckpointer.restored(kept, 0.0, fingerprint=fingerprint_of(HARDWARE))
        leader = ShardCoordinator(self.deployment(event), lease, resumed)

        def progress(phase: str, done: int, total: int) -> None:
            assert phase != "products" or (0 <= done <= total == NUM_PRODUCTS)
            event(phase)
            leader.refresh()

        return run_spectrum_job(REQUEST, HARDWARE, progress, job=resumed, sharding=leader)

    def help(
        self, event: Event = lambda _: None, hardware: Hardware = HARDWARE, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        ShardRunner(
            self.store,
            self.deployment(event, hardware),
            points=PointStore(LocalDirectory(self.directory, "points")),
            inputs=NO_INPUTS,
            hardware=hardware,
            stopping=stopping,
        ).run(self.job_id)

    def lose_leases(self) -> None:
        """Time passes: workers that died are found out."""
        key = f"spectrum:job:{self.job_id}"
        for name in self.client.hkeys(key):
            if name.endswith(":until"):
                self.client.hset(key, name, 0)

    def lose_job(self) -> None:
        self.client.hset(f"spectrum:job:{self.job_id}", "lease_until", 0)
        assert self.store.recover_lost() == [self.job_id]


@pytest.fixture
def lab(redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: dict[str, Any]) -> Lab:
    found = Lab(redis_client, tmp_path)
    finished = ShardedMethod.finished

    def watched(self: ShardedMethod, index: int, *arguments: Any) -> Any:
        assert index not in found.under_way, "two workers compute one shard"
        found.under_way.add(index)
        try:
            state = finished(self, index, *arguments)
        finally:
            found.under_way.discard(index)
        found.taken[index] += 1
        return state

    monkeypatch.setattr(ShardedMethod, "finished", watched)
    return found


def numbers(answer: JobOutput) -> dict[str, Any]:
    document = answer.result.model_dump()
    assert document["provenance"].pop("wall_time_seconds") > 0
    assert document["provenance"].pop("num_workers") > 0
    return document


@pytest.fixture
def alone(short_jobs_are_cut_too: None) -> dict[str, Any]:
    assert estimate(REQUEST, HARDWARE.memory_bytes).num_shards == 3
    return _alone()


@cache
def _alone() -> dict[str, Any]:
    return numbers(run_spectrum_job(REQUEST, HARDWARE, lambda *_: None))


def on(num: int, wanted: str, then: Callable[[], None]) -> Event:
    """Do something once, at the `num`-th event of this kind."""
    left = [num]

    def event(kind: str) -> None:
        left[0] -= kind == wanted
        if kind == wanted and left[0] == 0:
            then()

    return event


def kill() -> None:
    raise Killed


def test_probes_of_all_shards_are_all_probes() -> None:
    for num_probes in range(1, 40):
        for number in range(1, num_probes + 1):
            method = StochasticLanczosQuadrature(2, num_probes, Smoothing(2, 3.0))
            shards = [
                range(each.num_probes_before, each.num_probes_before + each.num_probes) for each in method.split(number)
            ]
            assert [probe for shard in shards for probe in shard] == list(range(num_probes))
            assert max(map(len, shards)) - min(map(len, shards)) <= 1
            assert len(shards[0]) == max(map(len, shards)) == -(-num_probes // number)


def test_a_worker_alone_takes_one_shard_after_the_other(lab: Lab, alone: dict[str, Any]) -> None:
    answer = lab.lead()
    assert numbers(answer) == alone
    assert alone["provenance"]["num_shards"] == 3
    assert answer.result.provenance.num_workers == 1
    assert lab.taken == {0: 1, 1: 1, 2: 1}
    assert lab.calls  # once they are open, others are called


def test_a_helper_takes_what_is_free(lab: Lab, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"now": "leader"}
    monkeypatch.setattr(worker_sharding, "own_name", lambda: names["now"])

    def help_under_another_name() -> None:
        names["now"] = "helper"
        lab.help()
        names["now"] = "leader"

    answer = lab.lead(on(4, "products", help_under_another_name))
    assert numbers(answer) == alone
    assert answer.result.provenance.num_workers == 2
    assert lab.taken == {0: 1, 1: 1, 2: 1}


def test_a_helper_goes_when_jobs_wait(lab: Lab, alone: dict[str, Any]) -> None:
    create_job(lab.store, REQUEST.model_dump_json())
    taken: list[int] = []

    def help_a_little() -> None:
        lab.help()
        taken.append(sum(lab.taken.values()))

    assert numbers(lab.lead(on(3, "products", help_a_little))) == alone
    assert taken == [1]
    assert lab.calls[-1] == lab.job_id


def test_workers_that_compute_otherwise_do_not_help(lab: Lab, alone: dict[str, Any]) -> None:
    other = Hardware(HARDWARE.device, 2, HARDWARE.memory_bytes)
    taken: list[int] = []

    def help_in_vain() -> None:
        lab.help(hardware=other)
        taken.append(sum(lab.taken.values()))

    assert numbers(lab.lead(on(3, "products", help_in_vain))) == alone
    assert taken == [0]


def test_a_job_goes_on_elsewhere_only_with_what_was_computed_alike(lab: Lab, redis_client: redis.Redis) -> None:
    with pytest.raises(Killed):
        lab.lead(on(14, "products", kill))
    lab.lose_job()
    key = f"spectrum:job:{lab.job_id}"
    assert any(name.endswith(":done") for name in redis_client.hkeys(key))
    lease = lab.store.claim(lab.job_id)
    assert lease is not None
    shards = ShardStore(client=redis_client, lease_seconds=30.0, max_losses=3)
    claim = shards.open(lease, 3, shard_fingerprint="another setup", numerics_fingerprint="another signature")
    assert claim is not None
    assert (claim.index, claim.attempt, claim.num_free) == (0, 2, 2)
    assert shards.done(lab.job_id) == set()


def test_a_helper_that_stops_leaves_its_shard_to_others(lab: Lab, alone: dict[str, Any]) -> None:
    helped: list[str] = []
    reports = count()

    def help_and_stop() -> None:
        lab.help(helped.append, stopping=lambda: next(reports) >= 5)
        assert not any(name.endswith(":until") for name in lab.client.hkeys(f"spectrum:job:{lab.job_id}"))
        assert lab.calls[-1] == lab.job_id

    assert numbers(lab.lead(on(3, "products", help_and_stop))) == alone
    assert next(reports) >= 6
    assert (lab.directory / lab.job_id / "shards" / "1" / "0002").is_dir()  # gone on with


def test_a_shard_that_fails_ends_the_job_with_its_problem(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise NonFiniteError("it holds NaN")

    def help_and_fail() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ShardedMethod, "finished", fail)
            lab.help()

    with pytest.raises(JobFailure) as caught:
        lab.lead(on(3, "products", help_and_fail))
    assert caught.value.problem == Problem(
        type="/problems/spectrum-undefined",
        title="The spectrum cannot be computed",
        status=422,
        detail="it holds NaN",
    )
    lab.help()
    assert lab.taken == {}  # nobody goes on


def test_a_shard_that_kills_its_workers_ends_the_job(lab: Lab) -> None:
    lease = lab.store.claim(lab.job_id)
    assert lease is not None
    shards = ShardStore(client=lab.client, lease_seconds=30.0, max_losses=3)
    assert shards.open(lease, 2, shard_fingerprint="setup", numerics_fingerprint="signature") is not None
    for attempt in (1, 2, 3):
        claim = shards.take(shards.new_lease(lab.job_id), "signature")
        assert claim is not None
        assert (claim.index, claim.attempt) == (1, attempt)
        lab.lose_leases()
    with pytest.raises(ShardPoisonedError):
        shards.take(shards.new_lease(lab.job_id), "signature")
    assert shards.finish(lease, 0, 1, go_on=False) is None
    with pytest.raises(ShardPoisonedError):
        shards.open(lease, 2, shard_fingerprint="setup", numerics_fingerprint="signature")


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-7]), Path.unlink])
def test_a_part_that_is_lost_is_computed_again(lab: Lab, alone: dict[str, Any], damage: Callable[[Path], Any]) -> None:
    def help_and_damage() -> None:
        lab.help()
        for document in (lab.directory / lab.job_id / "shards" / "1").glob("*/checkpoint-*.json"):
            damage(document)

    assert numbers(lab.lead(on(3, "products", help_and_damage))) == alone
    assert lab.taken == {0: 1, 1: 2, 2: 1}


def test_a_part_on_the_disk_is_not_computed_again(lab: Lab, alone: dict[str, Any]) -> None:
    """Its worker died before it could say so."""

    def help_and_die() -> None:
        scripts = count(1)
        with pytest.raises(Killed):
            # taken, then finished: killed in between
            lab.help(lambda kind: kill() if kind == "before a script" and lab.taken[1] and next(scripts) else None)
        lab.lose_leases()

    assert numbers(lab.lead(on(3, "products", help_and_die))) == alone
    assert lab.taken == {0: 1, 1: 1, 2: 1}


def test_a_full_disk_leaves_the_job_to_one_worker(lab: Lab, alone: dict[str, Any]) -> None:
    (lab.directory / lab.job_id).write_text("in the way")
    assert numbers(lab.lead()) == alone
    assert lab.calls == []


def test_a_helper_that_cannot_read_what_it_needs_leaves(lab: Lab, alone: dict[str, Any]) -> None:
    def help_in_vain() -> None:
        kept, away = lab.directory / lab.job_id / "0001", lab.directory / "away"
        kept.rename(away)
        calls = len(lab.calls)
        lab.help()
        assert len(lab.calls) <= calls + 1  # for the next worker; none for itself
        away.rename(kept)
        assert lab.taken == {}

    assert numbers(lab.lead(on(3, "products", help_in_vain))) == alone


@pytest.mark.parametrize("seed", range(12))
def test_kills_and_lost_leases_between_any_two_steps(lab: Lab, alone: dict[str, Any], seed: int) -> None:
    """Workers run within the steps of others, die, or lose their leases without knowing; whoever ends is right."""
    rng, depth, answers = random.Random(seed), [0], list[JobOutput]()

    def event(_: str) -> None:
        if rng.random() < 0.02:
            raise Killed
        if depth[0] < 3 and rng.random() < 0.1:
            depth[0] += 1
            with contextlib.suppress(Killed, LeaseLostError), torch.enable_grad():
                rng.choice([help_out, help_out, lapse, lead_anew])()
            depth[0] -= 1

    def help_out() -> None:
        lab.help(event)

    def lapse() -> None:
        lab.lose_leases()
        lab.under_way.clear()

    def lead_anew() -> None:
        if lab.store.get(lab.job_id).state == "running":
            lab.lose_job()
        lab.under_way.clear()
        answers.append(lab.lead(event))

    for _ in range(1000):
        with contextlib.suppress(Killed, LeaseLostError):
            lead_anew()
        if answers:
            break
    for answer in answers:
        assert numbers(answer) == alone
