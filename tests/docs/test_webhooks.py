"""The receiver that the document shows takes the messages of a server."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from hessian_spectrum.jobs.store import JobStore
from tests.conftest import free_port
from tests.docs.blocks import Block, blocks
from tests.fixtures.webhook_receiver import SECRET
from tests.service.own_service import Service

PAGE = "docs/how-to/webhooks.md"
BLOCKS = {block.language: block for block in blocks() if block.place.startswith(PAGE)}
REQUEST: Block = BLOCKS["json"]
PROGRAM: Block = BLOCKS["python"]
WRITTEN_PORT, WRITTEN_HOST = "9000", "10.0.0.7"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Port and output of the program in the document, which waits for messages at another port than is written."""
    port, output = free_port(), tmp_path / "output"
    assert SECRET in PROGRAM.text
    program = PROGRAM.text.replace(WRITTEN_PORT, str(port))
    with (
        output.open("w") as file,
        subprocess.Popen([sys.executable, "-c", program], stdout=file, stderr=file) as process,
    ):
        yield port, output
        process.terminate()


def test_the_receiver_prints_where_the_result_is(
    receiver: tuple[int, Path], redis_client: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    port, output = receiver
    host = f"127.0.0.1:{port}"
    service = Service(redis_url, tmp_path, SPECTRUM_WEBHOOK_HOSTS=host, SPECTRUM_WEBHOOK_SECRET=SECRET)
    try:
        body = REQUEST.text.replace(f"{WRITTEN_HOST}:{WRITTEN_PORT}", host)
        headers = {"Content-Type": "application/json"}
        job: Any = httpx.post(f"{service.url}/v1/jobs", content=body, headers=headers).raise_for_status().json()
        JobStore(redis_client, lease_seconds=60.0, max_attempts=2).cancel(job["id"])
        deadline = time.monotonic() + 60
        while job["id"] not in output.read_text():
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        printed = next(line for line in output.read_text().splitlines() if line.startswith("job."))
        assert printed == f"job.cancelled {job['id']} /v1/jobs/{job['id']}/result"
    finally:
        service.stop()
