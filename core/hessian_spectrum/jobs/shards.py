"""Shards of long Lanczos jobs: which worker computes which, and how far each is."""

import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import redis

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.jobs.record import Lease, LeaseLostError, holder_prefix
from hessian_spectrum.jobs.scripts import JOB, NO_SHARD, NOT_THE_HOLDER, SHARD_POISONED, ShardReply, ShardScripts


class ShardPoisonedError(Exception):
    """A shard has lost as many workers as a job may lose."""


@dataclass(frozen=True)
class Claim:
    """The exclusive right of one worker to compute one shard."""

    index: int
    attempt: int  # at this shard, from 1
    num_free: int  # further shards that nobody computes
    fingerprint: str  # of everything that the numbers of the shards depend on beside the request


@dataclass(frozen=True, kw_only=True)
class ShardStore:
    """The shards of all jobs, stored in the jobs' own records; each change is one script.

    Attributes:
        client: Client of the Redis that holds the records.
        lease_seconds: Duration of the claim of a worker that does not hold the job.
        max_losses: Number of workers that a shard may lose.
    """

    client: redis.Redis
    lease_seconds: float
    max_losses: int

    @cached_property
    def _scripts(self) -> ShardScripts:
        return ShardScripts(self.client)

    def open(self, lease: Lease, num_shards: int, *, shard_fingerprint: str, numerics_fingerprint: str) -> Claim | None:
        """Offer the shards of a job to all workers, unless that is done, and claim the first free one.

        Args:
            lease: Lease of the job.
            num_shards: Number of its shards.
            shard_fingerprint: What their results depend on; shards that were computed under another are forgotten.
            numerics_fingerprint: Fingerprint that workers must have to get a shard.

        Returns:
            The claim; None if no shard is free.

        Raises:
            LeaseLostError: Another process has the job by now.
            ShardPoisonedError: The shard has lost too many workers.
        """
        return _claim(
            self._scripts.open(
                lease.job_id,
                token=lease.token,
                num_shards=num_shards,
                shard_fingerprint=shard_fingerprint,
                numerics_fingerprint=numerics_fingerprint,
                max_losses=self.max_losses,
            )
        )

    def new_lease(self, job_id: str, holder: str = "") -> Lease:
        """Lease of a process that computes shards of a job which another process has leased."""
        return Lease(job_id, holder_prefix(holder) + secrets.token_hex(16), 0, seconds=self.lease_seconds)

    def take(self, lease: Lease, numerics_fingerprint: str) -> Claim | None:
        """Claim a free shard of a job, for a worker with the fingerprint of the one that has the job.

        Args:
            lease: Lease of `new_lease`.
            numerics_fingerprint: Fingerprint of the worker.

        Returns:
            The claim; None if no shard is free.

        Raises:
            ShardPoisonedError: The shard has lost too many workers.
        """
        return _claim(
            self._scripts.claim(
                lease.job_id,
                token=lease.token,
                lease_seconds=self.lease_seconds,
                max_losses=self.max_losses,
                numerics_fingerprint=numerics_fingerprint,
            )
        )

    def finish(self, lease: Lease, index: int, num_products: int, *, go_on: bool) -> Claim | None:
        """Note that a shard is done and its result stored, and claim another.

        Args:
            lease: Lease of the worker.
            index: Index of the shard.
            num_products: Its matrix-vector products.
            go_on: Whether to claim another shard.

        Returns:
            The claim; None if no shard is free, or none is wanted.

        Raises:
            LeaseLostError: Another process has the job or the shard by now.
            ShardPoisonedError: The next shard has lost too many workers.
        """
        return _claim(
            self._scripts.finish(
                lease.job_id,
                token=lease.token,
                lease_seconds=self.lease_seconds,
                max_losses=self.max_losses,
                index=index,
                num_products=num_products,
                wants_another=go_on,
            )
        )

    def renew(self, lease: Lease, progress: tuple[int, int] | None) -> bool:
        """Renew the claim of a worker that does not hold the job.

        Args:
            lease: Lease of `new_lease`.
            progress: Index of a shard, which may be the previous one, and how many of its products are done.

        Returns:
            False if the worker is to stop.
        """
        index, num_products = progress or (-1, 0)
        return self._scripts.renew(
            lease.job_id,
            token=lease.token,
            lease_seconds=self.lease_seconds,
            index=index,
            num_products=num_products,
        )

    def release(self, lease: Lease, problem: Problem | None = None) -> None:
        """Release the claimed shard because the worker stops, or because of a problem that the job is to end with."""
        self._scripts.release(lease.job_id, token=lease.token, problem=_json(problem))

    def mark_worker_lost(
        self, job_id: str, holder: str, *, problem: Problem | None = None, last_problem: Problem | None = None
    ) -> None:
        """End the claims of a process that died.

        Args:
            job_id: Id of the job.
            holder: Name of the process.
            problem: Problem that the job is to end with.
            last_problem: Problem that the job ends with only if the shard may lose no more workers.
        """
        self._scripts.mark_worker_lost(
            job_id, token_prefix=holder_prefix(holder), problem=_json(problem), last_problem=_json(last_problem)
        )

    def last_loss(self, job_id: str) -> Problem | None:
        """The problem of the last worker that died while it computed a shard of the job, if it is known."""
        text = cast("str | None", self.client.hget(JOB + job_id, "shard_trouble"))
        return Problem.model_validate_json(text) if text else None

    def reopen(self, lease: Lease, index: int) -> None:
        """Have a shard whose result is lost computed again.

        Raises:
            LeaseLostError: Another process has the job by now.
        """
        if not self._scripts.reopen(lease.job_id, token=lease.token, index=index):
            raise LeaseLostError

    def done(self, job_id: str) -> set[int]:
        """Indices of the shards that are done."""
        return {int(name.split(":")[1]) for name in self._fields(job_id) if name.endswith(":done")}

    def products(self, job_id: str) -> tuple[dict[int, int], Problem | None]:
        """Return how many products of each shard are known to be done, and the problem of a shard that failed."""
        fields = self._fields(job_id)
        products = {int(name.split(":")[1]): int(text) for name, text in fields.items() if name.endswith(":products")}
        problem = fields.get("shard_problem")
        return products, Problem.model_validate_json(problem) if problem else None

    def _fields(self, job_id: str) -> dict[str, str]:
        return cast("dict[str, str]", self.client.hgetall(JOB + job_id))


def _claim(reply: ShardReply) -> Claim | None:
    if reply.index == NOT_THE_HOLDER:
        raise LeaseLostError
    if reply.index == SHARD_POISONED:
        raise ShardPoisonedError
    if reply.index == NO_SHARD:
        return None
    return Claim(reply.index, reply.attempt, reply.num_free, reply.fingerprint)


def _json(problem: Problem | None) -> str:
    return "" if problem is None else problem.model_dump_json(exclude_none=True)
