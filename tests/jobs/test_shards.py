"""Shards against a real server: who may write what, and when."""

import pytest
import redis

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.record import Lease, LeaseLostError
from hessian_spectrum.jobs.shards import Claim, ShardStore
from hessian_spectrum.jobs.store import JobStore
from tests.fixtures.jobs import create_job

PROBLEM = Problem(title="No", status=500)


@pytest.fixture
def store(redis_client: redis.Redis) -> JobStore:
    return JobStore(redis_client, lease_seconds=30.0, max_attempts=3)


@pytest.fixture
def shards(redis_client: redis.Redis) -> ShardStore:
    return ShardStore(client=redis_client, lease_seconds=30.0, max_losses=3)


@pytest.fixture
def lease(store: JobStore) -> Lease:
    found = store.claim(create_job(store)[0].id, "host-1-2")
    assert found is not None
    return found


def opened(shards: ShardStore, lease: Lease, num_shards: int, *, fingerprint: str = "setup") -> Claim | None:
    return shards.open(lease, num_shards, shard_fingerprint=fingerprint, numerics_fingerprint="signature")


def test_every_shard_is_given_once(shards: ShardStore, lease: Lease) -> None:
    helpers = [shards.new_lease(lease.job_id) for _ in range(3)]
    assert shards.take(helpers[0], "signature") is None  # not open yet
    assert opened(shards, lease, 3) == Claim(0, 1, 2, "setup")
    assert shards.take(helpers[0], "another signature") is None
    assert shards.take(helpers[0], "signature") == Claim(1, 1, 1, "setup")
    assert shards.take(helpers[1], "signature") == Claim(2, 1, 0, "setup")
    assert shards.take(helpers[2], "signature") is None
    assert shards.finish(lease, 0, 10, go_on=True) is None
    assert shards.done(lease.job_id) == {0}
    shards.release(helpers[0])
    assert shards.finish(helpers[1], 2, 10, go_on=True) == Claim(1, 2, 0, "setup")
    assert shards.finish(helpers[1], 1, 9, go_on=False) is None
    assert shards.done(lease.job_id) == {0, 1, 2}
    assert shards.products(lease.job_id) == ({0: 10, 1: 9, 2: 10}, None)


def test_a_call_whose_answer_was_lost_may_be_sent_again(shards: ShardStore, lease: Lease) -> None:
    helper = shards.new_lease(lease.job_id)
    for _ in range(2):
        assert opened(shards, lease, 5) == Claim(0, 1, 4, "setup")
    for _ in range(2):
        assert shards.take(helper, "signature") == Claim(1, 1, 3, "setup")
    for _ in range(2):
        assert shards.finish(lease, 0, 10, go_on=True) == Claim(2, 1, 2, "setup")
    for _ in range(2):
        assert shards.finish(helper, 1, 10, go_on=True) == Claim(3, 1, 1, "setup")
    for _ in range(2):
        assert shards.finish(helper, 3, 10, go_on=False) is None
    assert shards.done(lease.job_id) == {0, 1, 3}
    assert shards.finish(lease, 2, 10, go_on=True) == Claim(4, 1, 0, "setup")
    for _ in range(2):
        assert shards.finish(lease, 4, 10, go_on=True) is None
    assert shards.products(lease.job_id) == (dict.fromkeys(range(5), 10), None)


def test_strangers_change_nothing(shards: ShardStore, lease: Lease) -> None:
    stranger, helper = shards.new_lease(lease.job_id), shards.new_lease(lease.job_id)
    for call in (
        lambda: opened(shards, stranger, 2),
        lambda: shards.finish(stranger, 1, 5, go_on=True),
        lambda: shards.reopen(stranger, 0),
    ):
        with pytest.raises(LeaseLostError):
            call()
    opened(shards, lease, 2)
    assert shards.take(helper, "signature") is not None
    assert not shards.renew(stranger, (1, 5))
    shards.release(stranger, PROBLEM)
    with pytest.raises(LeaseLostError):
        shards.finish(stranger, 1, 5, go_on=True)
    assert shards.renew(helper, (0, 7))  # told of the shard before: it is not taken for this one's
    assert shards.products(lease.job_id) == ({}, None)
    assert shards.renew(helper, (1, 5))
    assert shards.products(lease.job_id) == ({1: 5}, None)


def test_helpers_go_on_while_the_job_changes_its_leader(store: JobStore, shards: ShardStore, lease: Lease) -> None:
    helper = shards.new_lease(lease.job_id)
    opened(shards, lease, 3)
    assert shards.take(helper, "signature") == Claim(1, 1, 1, "setup")
    store.requeue(lease)
    assert shards.renew(helper, None)
    assert shards.finish(helper, 1, 5, go_on=True) is None  # nothing new without a leader
    with pytest.raises(LeaseLostError):
        shards.finish(lease, 0, 5, go_on=True)
    again = store.claim(lease.job_id)
    assert again is not None
    assert opened(shards, again, 3) == Claim(0, 2, 1, "setup")
    assert shards.finish(again, 0, 5, go_on=True) == Claim(2, 1, 0, "setup")


def test_another_setup_begins_anew(store: JobStore, shards: ShardStore, lease: Lease) -> None:
    helper = shards.new_lease(lease.job_id)
    opened(shards, lease, 2)
    shards.finish(lease, 0, 5, go_on=False)
    assert shards.take(helper, "signature") == Claim(1, 1, 0, "setup")
    assert opened(shards, lease, 2, fingerprint="another setup") == Claim(0, 2, 1, "another setup")
    assert not shards.renew(helper, None)
    assert shards.products(lease.job_id) == ({}, None)


@pytest.mark.parametrize("end", ["cancel", "fail", "problem"])
def test_helpers_hear_of_the_end(store: JobStore, shards: ShardStore, lease: Lease, end: str) -> None:
    helpers = [shards.new_lease(lease.job_id) for _ in range(2)]
    opened(shards, lease, 4)
    for helper in helpers:
        assert shards.take(helper, "signature") is not None
    match end:
        case "cancel":
            store.cancel(lease.job_id)
        case "fail":
            store.fail(lease, PROBLEM)
        case "problem":
            shards.release(helpers[1], PROBLEM)
            assert shards.products(lease.job_id)[1] == PROBLEM
    assert not shards.renew(helpers[0], None)
    assert shards.take(shards.new_lease(lease.job_id), "signature") is None


def test_a_helper_that_died_is_replaced_at_once(shards: ShardStore, lease: Lease) -> None:
    dead, other = (shards.new_lease(lease.job_id, holder) for holder in ("host-1-23", "host-1-2"))
    opened(shards, lease, 3)
    for helper in (dead, other):
        assert shards.take(helper, "signature") is not None
    assert shards.last_loss(lease.job_id) is None
    shards.mark_worker_lost(lease.job_id, "host-1-7", last_problem=PROBLEM)
    assert shards.last_loss(lease.job_id) is None  # a stranger's
    shards.mark_worker_lost(lease.job_id, "host-1-23", last_problem=PROBLEM)
    assert shards.last_loss(lease.job_id) == PROBLEM
    assert shards.take(shards.new_lease(lease.job_id), "signature") == Claim(1, 2, 0, "setup")
    assert shards.renew(other, None)
    with pytest.raises(LeaseLostError):
        shards.finish(dead, 1, 5, go_on=False)


def test_nothing_is_left_of_a_deleted_job(
    store: JobStore, shards: ShardStore, lease: Lease, redis_client: redis.Redis
) -> None:
    helper = shards.new_lease(lease.job_id)
    opened(shards, lease, 2)
    assert shards.take(helper, "signature") is not None
    store.fail(lease, PROBLEM)
    store.delete(lease.job_id)
    assert not shards.renew(helper, (1, 3))
    shards.release(helper, PROBLEM)
    shards.mark_worker_lost(lease.job_id, "host-1-2", problem=PROBLEM, last_problem=PROBLEM)
    assert shards.take(helper, "signature") is None
    assert not redis_client.exists(f"spectrum:job:{lease.job_id}")
