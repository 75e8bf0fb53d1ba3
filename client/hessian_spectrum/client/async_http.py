"""Asynchronous client of the spectrum server, with the methods of the synchronous one."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

import httpx
from httpx_sse import aconnect_sse

from hessian_spectrum.api_schemas.artifacts import AnyArtifact, ArrayArtifact, TokenArtifact
from hessian_spectrum.api_schemas.checkpoints import LoadableModel
from hessian_spectrum.api_schemas.closed_form import ClosedFormSpectrum
from hessian_spectrum.api_schemas.health import Readiness
from hessian_spectrum.api_schemas.jobs import ENDED_STATES, AnyJobResult, CostEstimate, Job, JobState
from hessian_spectrum.api_schemas.random_matrix import IndexCurveAnswer, LawAnswer
from hessian_spectrum.client import requests
from hessian_spectrum.client.errors import (
    JobFailedError,
    ProblemResponseError,
    SpectrumClientError,
    to_client_error,
    unreachable,
)
from hessian_spectrum.client.output_file import output_file
from hessian_spectrum.client.requests import (
    DEFAULT_URL,
    POLL_SECONDS,
    ApiRequest,
    Body,
    PictureStyle,
    ResultFormat,
    Smoothing,
    async_chunks,
    refusal,
)
from hessian_spectrum.client.retries import SECONDS_BETWEEN_TRIES, EventCursor, OutageRetry, pause_before_repeat

T = TypeVar("T")


class AsyncSpectrumClient:
    """`SpectrumClient` for asyncio, with the same arguments and methods; methods are awaited."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        patience_seconds: float = 60.0,
        outage_seconds: float = 600.0,
    ) -> None:
        self.patience_seconds = patience_seconds
        self.outage_seconds = outage_seconds
        self._has_answered = False
        self._http = httpx.AsyncClient(**requests.connection(base_url, api_key))

    async def closed_form(self, request: Body | bytes) -> ClosedFormSpectrum:
        """Compute the complete Hessian spectrum of a network that has a formula.

        A request with numpy arrays, or one that is an npz archive of its fields, is sent as npz.

        Args:
            request: Model of the request, a dictionary of its fields, or an npz archive.

        Returns:
            The spectrum.
        """
        return await self._run(requests.closed_form(request))

    async def closed_form_file(
        self, request: Body | bytes, name: ResultFormat, style: PictureStyle | None = None
    ) -> bytes:
        """Return the spectrum as JSON, npz (which holds more eigenvectors) or a picture (PNG, SVG or PDF)."""
        return await self._run(requests.closed_form_file(request, name, style))

    async def random_matrix(self, request: Body) -> LawAnswer | IndexCurveAnswer:
        """Compute a random-matrix law, or its index as a function of the energy."""
        return await self._run(requests.random_matrix(request))

    async def random_matrix_file(self, request: Body, name: ResultFormat, style: PictureStyle | None = None) -> bytes:
        """Return the random-matrix law as JSON, npz or a picture (PNG, SVG or PDF)."""
        return await self._run(requests.random_matrix_file(request, name, style))

    async def estimate(self, request: Body) -> CostEstimate:
        """Predict the cost of a job; nothing is queued."""
        return await self._run(requests.estimate(request))

    async def submit(
        self, request: Body, *, wait_seconds: int = 0, idempotency_key: str | None = None, fresh: bool = False
    ) -> Job:
        """Submit a job.

        Args:
            request: Model of the request or a dictionary of its fields.
            wait_seconds: Time, at most 60 s, to wait for the end of the job before the call returns.
            idempotency_key: Key under which the same request, sent again within a day, returns the same job.
            fresh: Whether to compute even if an equal request has a stored result.

        Returns:
            The job's record.
        """
        return await self._run(
            requests.submit(request, wait_seconds=wait_seconds, idempotency_key=idempotency_key, fresh=fresh)
        )

    async def job(self, job_id: str, wait_seconds: float = 0.0) -> Job:
        """Return the record of a job, after at most `wait_seconds` if it has not ended."""
        return await self._run(requests.job(job_id, wait_seconds))

    async def jobs(self, state: JobState | None = None, tag: str | None = None) -> AsyncIterator[Job]:
        """Yield all jobs, newest first, fetched page by page."""
        token: str | None = None
        while True:
            page = await self._run(requests.jobs(state, tag, token))
            for job in page.jobs:
                yield job
            if (token := page.next_page_token) is None:
                return

    async def wait(
        self, job_id: str, timeout_seconds: float = float("inf"), on_change: Callable[[Job], None] | None = None
    ) -> Job:
        """Wait for the end of a job.

        Args:
            job_id: Id of the job.
            timeout_seconds: Time in seconds after which to return at the latest. A server that is slow to answer then
                delays it by two seconds at most.
            on_change: Receives the job's record about once a second.

        Returns:
            The record of the job when it has ended, or when the time is over.

        Raises:
            ServerUnreachableError: If the server does not answer, or is too busy to do so, until the time is over.
        """
        deadline = time.monotonic() + timeout_seconds
        retry = self._retry(job_id, deadline)
        while True:
            seconds = max(0.0, min(POLL_SECONDS, deadline - time.monotonic()))
            job = await self._follow(requests.job(job_id, seconds), retry)
            if on_change:
                on_change(job)
            if job.state in ENDED_STATES or time.monotonic() >= deadline:
                return job

    async def events(self, job_id: str) -> AsyncIterator[Job]:
        """Yield the record of a job, now and after each change until it ends; an interrupted stream is resumed."""
        cursor, retry = EventCursor(job_id), self._retry(job_id)
        while not cursor.ended:
            try:
                async with aconnect_sse(self._http, **cursor.arguments()) as source:
                    if not source.response.is_success:
                        await source.response.aread()
                        raise refusal(source.response)
                    if source.response.status_code == HTTPStatus.NO_CONTENT:
                        return
                    retry.reset()
                    async for event in source.aiter_sse():
                        if (job := cursor.read(event)) is not None:
                            yield job
                pause = SECONDS_BETWEEN_TRIES
            except (httpx.HTTPError, ProblemResponseError) as error:
                pause = retry.pause_seconds(to_client_error(self._http.base_url, error))
            if not cursor.ended:
                await asyncio.sleep(pause)

    async def result(self, job_id: str, smoothing: Smoothing | None = None) -> AnyJobResult:
        """Return the result of a job that succeeded; the curves of `lanczos` can be smoothed again."""
        return await self._run(requests.result(job_id, smoothing))

    async def result_file(
        self, job_id: str, name: ResultFormat, *, smoothing: Smoothing | None = None, style: PictureStyle | None = None
    ) -> bytes:
        """Return the result as JSON, npz (the only format with eigenvectors) or a picture (PNG, SVG or PDF)."""
        return await self._run(requests.result_file(job_id, name, smoothing=smoothing, style=style))

    async def save_result(
        self,
        job_id: str,
        path: Path | BinaryIO,
        name: ResultFormat,
        *,
        smoothing: Smoothing | None = None,
        style: PictureStyle | None = None,
    ) -> None:
        """Stream the result to a file; a file at a path appears only when it is complete.

        Args:
            job_id: Id of the job.
            path: Path, or a file that is open for writing.
            name: Format of the result.
            smoothing: Settings with which to smooth the curves of `lanczos` again.
            style: Settings of a picture.

        Raises:
            OSError: If the file cannot be written.
        """
        request = requests.result_file(job_id, name, smoothing=smoothing, style=style)
        with output_file(path) as file:
            await self._save(request, file)

    async def run(
        self, request: Body, on_change: Callable[[Job], None] | None = None, *, fresh: bool = False
    ) -> AnyJobResult:
        """Submit a job, wait for its end and return its result.

        Args:
            request: Model of the request or a dictionary of its fields.
            on_change: Receives the job's record about once a second.
            fresh: Whether to compute even if an equal request has a stored result.

        Returns:
            The result.

        Raises:
            JobFailedError: If the job ends without a result.
        """
        submitted = await self.submit(request, fresh=fresh)
        job = await self.wait(submitted.id, on_change=on_change)
        if job.state != "succeeded":
            raise JobFailedError(job)
        return await self._follow(requests.result(job.id), self._retry(job.id))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; its record shows when it has ended."""
        return await self._run(requests.cancel(job_id))

    async def delete(self, job_id: str) -> None:
        """Delete a job that has ended, and its result."""
        await self._run(requests.delete(job_id))

    async def upload_tokens(self, path: Path) -> TokenArtifact:
        """Upload a file of tokens chunk by chunk.

        Args:
            path: nanoGPT's .bin, or a .npy array of integers.

        Returns:
            The uploaded file, which jobs refer to by its id.

        Raises:
            OSError: If the file cannot be read.
        """
        with path.open("rb") as file:
            return await self._run(requests.upload_tokens(async_chunks(file), path.stat().st_size))

    async def upload_arrays(self, path: Path) -> ArrayArtifact:
        """Upload a file of arrays chunk by chunk: weights, or data x and y.

        Args:
            path: A .safetensors or .npz file.

        Returns:
            The uploaded file, which jobs refer to by its id.

        Raises:
            OSError: If the file cannot be read.
        """
        with path.open("rb") as file:
            return await self._run(requests.upload_arrays(async_chunks(file), path.stat().st_size, path.suffix))

    async def artifact(self, artifact_id: str) -> AnyArtifact:
        """Return the description of an uploaded file."""
        return await self._run(requests.artifact(artifact_id))

    async def artifacts(self) -> AsyncIterator[AnyArtifact]:
        """Yield all uploaded files, newest first, fetched page by page."""
        token: str | None = None
        while True:
            page = await self._run(requests.artifacts(token))
            for artifact in page.artifacts:
                yield artifact
            if (token := page.next_page_token) is None:
                return

    async def delete_artifact(self, artifact_id: str) -> None:
        """Delete an uploaded file; jobs that wait for it fail."""
        await self._run(requests.delete_artifact(artifact_id))

    async def models(self) -> list[LoadableModel]:
        """Return the checkpoints in the models directory, with the reason for those that cannot be loaded."""
        return await self._run(requests.models())

    async def ready(self) -> Readiness:
        """Return the readiness of server and workers; the error of a server that is not ready lists what is missing."""
        return await self._run(requests.ready())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, request: ApiRequest[T], deadline: float = float("inf")) -> T:
        """Return the answer of the server; while it is busy, the request is repeated until the deadline."""
        patience_ends = min(deadline, time.monotonic() + self.patience_seconds)
        while True:
            try:
                response = await self._http.request(**request.arguments(deadline))
            except httpx.HTTPError as error:
                raise unreachable(self._http.base_url, error) from error
            self._has_answered = True
            pause = pause_before_repeat(request, response)
            if pause is None or time.monotonic() + pause > patience_ends:
                return request.finish(response)
            await asyncio.sleep(pause)

    async def _save(self, request: ApiRequest[bytes], file: BinaryIO) -> None:
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                async with self._http.stream(**request.arguments()) as response:
                    if response.is_success:
                        async for chunk in response.aiter_bytes():
                            file.write(chunk)
                        return
                    await response.aread()
            except httpx.HTTPError as error:
                raise unreachable(self._http.base_url, error) from error
            pause = pause_before_repeat(request, response)
            if pause is None or time.monotonic() + pause > deadline:
                raise refusal(response)
            await asyncio.sleep(pause)

    async def _follow(self, request: ApiRequest[T], retry: OutageRetry) -> T:
        """Return the answer of the server; the request is repeated while the server does not answer."""
        while True:
            try:
                answer = await self._run(request, retry.deadline)
            except SpectrumClientError as error:
                await asyncio.sleep(retry.pause_seconds(error))
            else:
                retry.reset()
                return answer

    def _retry(self, job_id: str, deadline: float = float("inf")) -> OutageRetry:
        return OutageRetry(job_id, self.outage_seconds, is_known=self._has_answered, deadline=deadline)
