"""Results directory and Redis are bound to each other: nothing is deleted at the word of another Redis."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from hessian_spectrum.jobs.retention import Leftovers, num_known
from hessian_spectrum.jobs.storage_identity import IDENTITY, StorageIdentity, StorageMismatchError
from hessian_spectrum.jobs.store import JobStore
from hessian_spectrum.storage.stores import open_stores
from tests.fixtures.jobs import create_job


class Deployment:
    """A results directory and the Redis that it is used with."""

    def __init__(self, client: redis.Redis, directory: Path) -> None:
        self.client, self.directory = client, directory
        self.store = JobStore(client, lease_seconds=30.0, max_attempts=2)
        stores = open_stores(directory)
        self.results, self.checkpoints = stores.results, stores.checkpoints
        self.storage = StorageIdentity(client, self.results, self.checkpoints)

    @property
    def file(self) -> Path:
        return self.directory / "identity"

    def has_result(self) -> str:
        """The digest of the result of a job."""
        lease = self.store.claim(create_job(self.store)[0].id)
        assert lease is not None
        digest = self.results.write(os.urandom(8))
        self.store.succeed(lease, digest)
        return digest

    def has_checkpoint(self) -> str:
        """The id of a running job."""
        job_id = create_job(self.store)[0].id
        assert self.store.claim(job_id) is not None
        self.checkpoints.of_attempt(job_id, 1).commit({}, set())
        return job_id


@pytest.fixture
def deployment(redis_client: redis.Redis, tmp_path: Path) -> Deployment:
    return Deployment(redis_client, tmp_path / "results")


def test_both_that_are_new_get_one_identity_which_stays(deployment: Deployment) -> None:
    with pytest.raises(StorageMismatchError, match="no identity yet"):
        deployment.storage.require()
    assert deployment.storage.fault() is None
    for _ in range(2):
        deployment.storage.settle()
        deployment.storage.require()
    identity = deployment.client.get(IDENTITY)
    assert deployment.file.read_text().strip() == identity
    assert deployment.client.keys("*") == [IDENTITY]
    assert [path.name for path in deployment.directory.iterdir()] == ["identity"]


def test_many_that_start_at_once_agree(deployment: Deployment) -> None:
    many = [Deployment(deployment.client, deployment.directory).storage for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(storage.settle) for storage in many]:
            done.result()
    for storage in many:
        storage.require()


@pytest.mark.parametrize("step", ["_keep", "_accept"])
def test_a_process_that_dies_while_it_binds_is_followed_by_one_that_goes_on(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StorageIdentity, step, die)
        with pytest.raises(KeyboardInterrupt):
            deployment.storage.settle()
    deployment.has_result()
    assert deployment.storage.fault() is None
    deployment.storage.settle()
    deployment.storage.require()


def test_what_an_earlier_version_used_together_is_bound(deployment: Deployment) -> None:
    deployment.has_result()
    deployment.has_checkpoint()
    deployment.storage.settle()
    deployment.storage.require()


def _old_directory_and_empty_redis(deployment: Deployment) -> None:
    deployment.has_result()
    deployment.client.flushall()


def _only_checkpoints_and_empty_redis(deployment: Deployment) -> None:
    deployment.has_checkpoint()
    deployment.client.flushall()


def _empty_directory_and_old_redis(deployment: Deployment) -> None:
    deployment.has_result()
    shutil.rmtree(deployment.directory)
    deployment.directory.mkdir()


def _results_of_another(deployment: Deployment) -> None:
    _empty_directory_and_old_redis(deployment)
    deployment.results.write(b"of another")


WRONG_PAIRS = [
    _old_directory_and_empty_redis,
    _only_checkpoints_and_empty_redis,
    _empty_directory_and_old_redis,
    _results_of_another,
]


@pytest.mark.parametrize("is_bound", [False, True])
@pytest.mark.parametrize("separate", WRONG_PAIRS)
def test_a_wrong_pair_is_named_and_never_bound(
    deployment: Deployment, separate: Callable[[Deployment], None], is_bound: bool
) -> None:
    if is_bound:
        deployment.storage.settle()
    separate(deployment)
    with pytest.raises(StorageMismatchError, match="SPECTRUM_REDIS_URL and SPECTRUM_RESULTS_DIR"):
        deployment.storage.settle()
    for ask in (deployment.storage.require, Leftovers(deployment.storage).unwanted_results):
        with pytest.raises(StorageMismatchError):
            ask()
    assert "spectrum-server bind" in str(deployment.storage.fault())


def test_another_database_knows_nothing_and_the_right_one_is_taken_back(deployment: Deployment, redis_url: str) -> None:
    digest, job_id = deployment.has_result(), deployment.has_checkpoint()
    deployment.storage.settle()
    other_client = redis.Redis.from_url(redis_url.replace("db=0", "db=1"), decode_responses=True)
    other = Deployment(other_client, deployment.directory)
    for ask in (lambda: Leftovers(other.storage).abandoned_results([digest], 0),
                lambda: Leftovers(other.storage).ended_jobs([job_id])):  # fmt: skip
        with pytest.raises(StorageMismatchError):
            ask()
    another = Deployment(other_client, deployment.directory.with_name("another"))
    another.storage.settle()
    assert "different deployments" in str(other.storage.fault())
    deployment.storage.require()
    assert Leftovers(deployment.storage).abandoned_results([digest, "0" * 64], 0) == ["0" * 64]


def test_a_redis_that_is_restored_belongs_to_its_directory_again(deployment: Deployment) -> None:
    deployment.has_result()
    deployment.storage.settle()
    backup = {key: deployment.client.dump(key) for key in deployment.client.keys("*")}
    deployment.client.flushall()
    assert "Redis does not know this results directory" in str(deployment.storage.fault())
    for key, value in backup.items():
        deployment.client.restore(key, 0, value)
    deployment.storage.require()


def test_a_directory_that_is_gone_is_no_new_one(deployment: Deployment) -> None:
    deployment.storage.settle()
    shutil.rmtree(deployment.directory)
    for ask in (deployment.storage.fault, deployment.storage.require, deployment.storage.settle):
        with pytest.raises(FileNotFoundError):
            ask()
    assert not deployment.directory.exists()


def test_an_administrator_joins_what_was_not_used_together(deployment: Deployment) -> None:
    deployment.storage.settle()
    _old_directory_and_empty_redis(deployment)
    before = deployment.file.read_text()
    deployment.storage.join()
    deployment.storage.require()
    assert deployment.file.read_text() != before
    digests = [*deployment.results.sizes(), deployment.has_result()]
    assert num_known(deployment.client, digests) == 1


def test_results_that_an_older_backup_does_not_know_have_time(deployment: Deployment) -> None:
    deployment.storage.settle()
    old = deployment.has_result()
    backup = {key: deployment.client.dump(key) for key in deployment.client.keys("*")}
    new = deployment.has_result()

    def restore() -> None:
        deployment.client.flushall()
        for key, value in backup.items():
            deployment.client.restore(key, 0, value)

    restore()
    leftovers = Leftovers(deployment.storage)
    assert leftovers.abandoned_results([old, new], 3600) == []
    restore()  # what the first one noted is gone with it
    assert leftovers.abandoned_results([old, new], 3600) == []
    deployment.client.zincrby("spectrum:results-of-no-job", -3600, new)
    assert leftovers.abandoned_results([old, new], 3600) == [new]


def test_which_jobs_are_over(deployment: Deployment) -> None:
    deployment.storage.settle()
    queued, running, ended = (create_job(deployment.store)[0].id for _ in range(3))
    deployment.store.claim(running)
    deployment.store.cancel(ended)
    leftovers = Leftovers(deployment.storage)
    assert leftovers.ended_jobs([queued, "0" * 32, running, ended]) == ["0" * 32, ended]
    assert leftovers.ended_jobs([]) == []
