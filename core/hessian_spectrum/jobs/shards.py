"""Shards of jobs in Redis: which are done, who computes which, and how far they are."""

import secrets
from dataclasses import dataclass
from typing import Any, cast

import redis

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs import shard_scripts
from hessian_spectrum.jobs.store import JOB, Lease, LeaseLostError, holder_prefix

_NONE, _POISONED, _STRANGER = -1, -2, -3


class ShardPoisonedError(Exception):
    """A shard has lost as many workers as a job may lose."""


@dataclass(frozen=True)
class Claim:
    """The right of one worker to compute one shard."""

    index: int
    attempt: int  # at this shard, from 1
    num_free: int  # further shards that nobody computes
    setup: str  # digest of what all shards' numbers depend on beside the request


class ShardStore:
    """The shards of all jobs, kept in the jobs' own records, each change one script.

    Args:  as of `JobStore`.
    """

    def __init__(self, client: redis.Redis, lease_seconds: float, max_losses: int) -> None:
        self._client, self._lease_seconds, self._max_losses = client, lease_seconds, max_losses

    def open(self, lease: Lease, num_shards: int, setup: str, signature: str) -> Claim | None:
        """Offer the shards of a job to all workers, if that is not done, and claim the first that is free.

        Args:
            setup: What their results depend on: what is done of others is forgotten.
            signature: Of what computes: workers of another get none.

        Raises:
            LeaseLostError: Another process holds the job by now.
            ShardPoisonedError: The shard has failed too often.
        """
        return _claim(self._run(shard_scripts.OPEN, lease, num_shards, setup, signature, self._max_losses))

    def new_lease(self, job_id: str, holder: str = "") -> Lease:
        """Of a process that computes shards of a job whose own lease another has."""
        return Lease(job_id, holder_prefix(holder) + secrets.token_hex(16), 0, seconds=self._lease_seconds)

    def take(self, lease: Lease, signature: str) -> Claim | None:
        """Claim a free shard of a job that offers some, for a worker that computes alike.

        Args:
            lease: Of `new_lease`.

        Raises:
            ShardPoisonedError: The shard has failed too often.
        """
        return _claim(self._run(shard_scripts.TAKE, lease, self._lease_seconds, self._max_losses, signature))

    def finish(self, lease: Lease, index: int, num_products: int, *, go_on: bool) -> Claim | None:
        """Note that the shard of this index is done, its result on disk, and claim another if there is one.

        Raises:
            LeaseLostError: Also if another worker has the shard.
            ShardPoisonedError: The shard has failed too often.
        """
        arguments = (self._lease_seconds, self._max_losses, index, num_products, int(go_on))
        return _claim(self._run(shard_scripts.FINISH, lease, *arguments))

    def renew(self, lease: Lease, told: tuple[int, int] | None) -> bool:
        """Keep a helper's shard; whether it is to be gone on with.

        Args:
            told: The index of a shard, which may be the one before, and how many of its products are done.
        """
        return bool(self._run(shard_scripts.RENEW, lease, self._lease_seconds, *(told or (-1, 0))))

    def release(self, lease: Lease, problem: Problem | None = None) -> None:
        """Give the claimed shard up, because the worker stops or because of a problem, with which the job is to end."""
        self._run(shard_scripts.RELEASE, lease, "" if problem is None else problem.model_dump_json(exclude_none=True))

    def lose(self, job_id: str, holder: str, problem: Problem | None, last_problem: Problem | None = None) -> None:
        """Take a helper that died for what it is, before its lease runs out; the job ends if there is a problem.

        Args:
            last_problem: With which the job ends only if the shard may lose no more workers.
        """
        texts = ("" if each is None else each.model_dump_json(exclude_none=True) for each in (problem, last_problem))
        self._run(shard_scripts.LOSE, Lease(job_id, holder_prefix(holder), 0), *texts)

    def last_loss(self, job_id: str) -> Problem | None:
        """What the last helper died of that told."""
        text = cast("str | None", self._client.hget(JOB + job_id, "shard_trouble"))
        return Problem.model_validate_json(text) if text else None

    def reopen(self, lease: Lease, index: int) -> None:
        """Have a shard computed again whose result is lost.

        Raises:
            LeaseLostError: Another process holds the job by now.
        """
        if not self._run(shard_scripts.REOPEN, lease, index):
            raise LeaseLostError

    def num_left(self, job_id: str) -> int:
        """Shards that are not done."""
        fields = self._fields(job_id)
        return int(fields.get("shards", 0)) - sum(name.endswith(":done") for name in fields)

    def products(self, job_id: str) -> tuple[dict[int, int], Problem | None]:
        """How many products of each shard are done, as last told, and the problem of one that failed."""
        fields = self._fields(job_id)
        products = {int(name.split(":")[1]): int(text) for name, text in fields.items() if name.endswith(":products")}
        problem = fields.get("shard_problem")
        return products, Problem.model_validate_json(problem) if problem else None

    def _fields(self, job_id: str) -> dict[str, str]:
        return cast("dict[str, str]", self._client.hgetall(JOB + job_id))

    def _run(self, script: str, lease: Lease, *arguments: str | float) -> Any:
        return self._client.eval(script, 1, JOB + lease.job_id, lease.token, *arguments)


def _claim(reply: list[Any]) -> Claim | None:
    index, attempt, num_free, setup = reply
    if index == _STRANGER:
        raise LeaseLostError
    if index == _POISONED:
        raise ShardPoisonedError
    return None if index == _NONE else Claim(index, attempt, num_free, setup)
