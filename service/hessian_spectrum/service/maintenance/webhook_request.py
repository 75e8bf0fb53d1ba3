"""The signed request that tells a receiver that a job has ended; source: https://www.standardwebhooks.com."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from standardwebhooks import Webhook

from hessian_spectrum.api_schemas.version import __version__
from hessian_spectrum.jobs.record import JobRecord
from hessian_spectrum.service.job_message import job_message, paths


@dataclass(frozen=True)
class WebhookRequest:
    """Headers and body of a request."""

    headers: dict[str, str]
    body: str


def signed_request(record: JobRecord, signers: Sequence[Webhook]) -> WebhookRequest:
    """Make the request about a job that has ended, signed for the present moment.

    Args:
        record: The job.
        signers: Sign with one secret each; the receiver has at least one of these.

    Returns:
        The request. Its `webhook-id` is the same in all attempts.
    """
    state = "succeeded" if record.state == "expired" else record.state  # the result was removed after the end
    message_id = f"{record.id}-{state}"  # without a full stop, which separates the parts of the signed text
    now = datetime.now(UTC)
    body = json.dumps(
        {
            "type": f"job.{state}",
            "timestamp": (record.finished_at or now).isoformat().replace("+00:00", "Z"),  # as in the record
            "data": job_message(record, paths(record.id)).model_dump(mode="json"),
        }
    )
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"hessian-spectrum/{__version__}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signer.sign(message_id, now, body) for signer in signers),
    }
    return WebhookRequest(headers, body)
