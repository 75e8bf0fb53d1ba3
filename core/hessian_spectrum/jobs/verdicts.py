"""What workers found of checkpoints, kept in Redis by digest, kind of model and version of the code that tried them."""

import logging
from collections.abc import Callable, Iterable
from typing import cast

import redis
from redis.exceptions import RedisError

from hessian_spectrum.api_schemas.checkpoints import CheckpointVerdict

SECONDS_KEPT = 30 * 86400
SECONDS_UNTIL_ANOTHER_TRIAL = 3600
"""After one that came to no end: for want of memory or of time, or because its process was killed."""

_KEY = "spectrum:checkpoint-verdict:"
_TRIAL = "spectrum:checkpoint-trial:"

_logger = logging.getLogger(__name__)


class VerdictStore:
    """The verdicts of these versions of the code; a `Verdicts`.

    Args:
        code_versions: Asked each time: those of the workers that are there.
    """

    def __init__(self, client: redis.Redis, code_versions: Callable[[], Iterable[str]]) -> None:
        self._client = client
        self._code_versions = code_versions

    def of(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        """That of the version that can do most with the checkpoint; None if none tried it, or Redis is away."""
        try:
            keys = [_name(_KEY, version, sha256, kind) for version in self._code_versions()]
            texts = cast("list[str | None]", self._client.mget(keys)) if keys else []
        except RedisError as error:
            _logger.warning("verdicts on checkpoints are not known: %s", error)
            return None
        found = [CheckpointVerdict.model_validate_json(text) for text in texts if text]
        order = ("loadable", "refused", "unchecked")
        return min(found, key=lambda verdict: order.index(verdict.state), default=None)

    def keep(self, sha256: str, kind: str, verdict: CheckpointVerdict) -> None:
        """Of a trial by this worker, whose version is the only one.

        Raises:
            RedisError: Redis does not answer.
        """
        (version,) = self._code_versions()
        seconds = SECONDS_UNTIL_ANOTHER_TRIAL if verdict.state == "unchecked" else SECONDS_KEPT
        self._client.set(_name(_KEY, version, sha256, kind), verdict.model_dump_json(), ex=seconds)

    def may_try(self, sha256: str, kind: str, seconds: float) -> bool:
        """Whether no other worker is trying the checkpoint; from now on this one is, for so long at most.

        Raises:
            RedisError: Redis does not answer.
        """
        (version,) = self._code_versions()
        return bool(self._client.set(_name(_TRIAL, version, sha256, kind), "", nx=True, ex=int(seconds)))

    def has_tried(self, sha256: str, kind: str) -> None:
        """Raises:  RedisError."""
        (version,) = self._code_versions()
        self._client.delete(_name(_TRIAL, version, sha256, kind))


def _name(prefix: str, version: str, sha256: str, kind: str) -> str:
    return f"{prefix}{version}:{kind}:{sha256}"
