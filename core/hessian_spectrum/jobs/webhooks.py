"""Queue of messages about ended jobs; the script that ends a job adds its message."""

from dataclasses import dataclass
from typing import Literal

import redis

from hessian_spectrum.jobs.scripts import WEBHOOKS, run_script


@dataclass(frozen=True)
class ClaimedMessage:
    """A message that this process is to send now.

    Attributes:
        job_id: Id of the job that it is about.
        receiver: Receiver, as `receiver_of` names it.
        attempt: Number of this attempt, from 1 on.
    """

    job_id: str
    receiver: str
    attempt: int


class WebhookQueue:
    """The messages of all receivers.

    Every method raises RedisError if Redis does not respond. A message whose attempt never ends is due again after the
    lease. It is therefore sent at least once, and twice if a process dies between delivering it and recording that.

    Args:
        client: Client of the Redis that holds the records of jobs.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def claim(self, receiver: str, *, lease_seconds: float) -> ClaimedMessage | None:
        """Claim a message.

        Args:
            receiver: The receiver.
            lease_seconds: Time after which another process may claim the message.

        Returns:
            The message that is due first; None if no message is due.
        """
        claimed = run_script(self._client, "claim_webhook", [WEBHOOKS + receiver], lease_seconds)
        return None if claimed is None else ClaimedMessage(claimed[0], receiver, int(claimed[1]))

    def finish(self, message: ClaimedMessage, outcome: Literal["delivered", "given_up"]) -> None:
        """Remove a message.

        Args:
            message: The message.
            outcome: Whether it was delivered, or is not sent again.
        """
        self._run_finish(message, outcome, 0.0)

    def retry(self, message: ClaimedMessage, pause_seconds: float) -> None:
        """Keep a message that could not be delivered for another attempt.

        Args:
            message: The message.
            pause_seconds: Time until the next attempt.
        """
        self._run_finish(message, "failed", pause_seconds)

    def _run_finish(self, message: ClaimedMessage, outcome: str, pause_seconds: float) -> None:
        arguments = (message.job_id, message.attempt, outcome, pause_seconds)
        run_script(self._client, "finish_webhook", [WEBHOOKS + message.receiver], *arguments)
