"""A service process of its own, without workers."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.conftest import free_port


class Service:
    def __init__(self, redis_url: str, directory: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "log"
        self.environment = os.environ | {
            "SPECTRUM_REDIS_URL": redis_url,
            "SPECTRUM_RESULTS_DIR": str(directory),
            **settings,
        }
        self.start()

    def start(self) -> None:
        with self.log.open("a") as output:
            command = [sys.executable, "-m", "hessian_spectrum.service", "--port", str(self.port)]
            self.process = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/v1/health/live").is_success:
                    return
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> float:
        started = time.monotonic()
        self.process.terminate()
        self.process.wait(30)
        return time.monotonic() - started
