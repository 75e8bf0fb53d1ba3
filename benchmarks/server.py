"""The real service on a port of 127.0.0.1, with endpoints beside its own that do a part of the work."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from benchmarks.stack import HOST, free_port
from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.__main__ import serve
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.headers import media_type
from hessian_spectrum.service.request_parsing import json_body, parse_body, validate_document
from hessian_spectrum.service.uploads.parser import read_body

START_SECONDS = 60


def mount_parts(app: FastAPI) -> None:
    """`/received`, `/parsed` and `/validated`: what the closed form does up to that point, then a constant."""
    constant = Response(b"{}", media_type="application/json", headers={"Vary": "Accept"})

    @app.post("/received")
    async def received(request: Request) -> Response:
        await read_body(request, int(request.headers["content-length"]))
        return constant

    @app.post("/parsed")
    async def parsed(request: Request) -> Response:
        async with app.state.context.upload_parser.parse(request, media_type(request.scope)) as document:
            await run_in_threadpool(validate_document, ClosedFormRequest, document)
        return constant

    @app.post("/validated")
    async def validated_json(request: Request) -> Response:
        await run_in_threadpool(parse_body, await json_body(request), ClosedFormRequest)
        return constant


@contextlib.contextmanager
def running_server() -> Iterator[int]:
    """The port of a server in a process of its own, which ends with the context."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        environment = os.environ | {
            "SPECTRUM_REDIS_URL": f"unix://{directory}/none.sock",  # closed forms need no Redis
            "SPECTRUM_RESULTS_DIR": directory,
            "SPECTRUM_MAX_BODY_BYTES": str(2**30),  # for `/received` and `/parsed`, which take uploads too
        }
        command = [sys.executable, "-m", "benchmarks.server", str(port)]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            wait_until_listening(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Raises:  RuntimeError if the process ends, or listens nowhere for a minute."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError("the server does not start")


if __name__ == "__main__":
    application = create_app(ServiceSettings.load())
    mount_parts(application)
    serve(application, host=HOST, port=int(sys.argv[1]))
