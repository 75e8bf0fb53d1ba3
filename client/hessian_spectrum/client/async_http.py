"""The client, for asyncio: the same methods."""

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
from hessian_spectrum.api_schemas.estimates import CostEstimate
from hessian_spectrum.api_schemas.health import Readiness
from hessian_spectrum.api_schemas.job_results import AnyJobResult
from hessian_spectrum.api_schemas.jobs import ENDED_STATES, Job, JobState
from hessian_spectrum.api_schemas.random_matrix import IndexCurveAnswer, LawAnswer
from hessian_spectrum.client import exchanges
from hessian_spectrum.client.errors import JobFailedError, ProblemResponseError, SpectrumClientError, told, unreachable
from hessian_spectrum.client.event_place import SECONDS_BETWEEN_TRIES, EventPlace
from hessian_spectrum.client.exchanges import (
    DEFAULT_URL,
    POLL_SECONDS,
    Body,
    Exchange,
    PictureStyle,
    ResultFormat,
    Smoothing,
    refusal,
)
from hessian_spectrum.client.output_file import output_file
from hessian_spectrum.client.patience import Patience
from hessian_spectrum.client.pieces import async_pieces

T = TypeVar("T")


class AsyncSpectrumClient:
    """`SpectrumClient` for asyncio: the same methods, awaited."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        patience_seconds: float = 60.0,
        outage_seconds: float = 600.0,
    ) -> None:
        self.patience_seconds = patience_seconds
        self.outage_seconds = outage_seconds
        self._has_answered = False
        self._http = httpx.AsyncClient(**exchanges.connection(base_url, api_key))

    async def closed_form(self, request: Body | bytes) -> ClosedFormSpectrum:
        """The whole Hessian spectrum of a network that has a formula.

        A request that holds numpy arrays, or is an npz archive of its fields, is sent as npz.
        """
        return await self._run(exchanges.closed_form(request))

    async def closed_form_file(
        self, request: Body | bytes, name: ResultFormat, style: PictureStyle | None = None
    ) -> bytes:
        """The same as JSON, npz (which carries more eigenvectors) or a picture, PNG, SVG or PDF."""
        return await self._run(exchanges.closed_form_file(request, name, style))

    async def random_matrix(self, request: Body) -> LawAnswer | IndexCurveAnswer:
        """A random-matrix law, or its index against the energy."""
        return await self._run(exchanges.random_matrix(request))

    async def random_matrix_file(self, request: Body, name: ResultFormat, style: PictureStyle | None = None) -> bytes:
        """The same as JSON, npz or a picture, PNG, SVG or PDF."""
        return await self._run(exchanges.random_matrix_file(request, name, style))

    async def estimate(self, request: Body) -> CostEstimate:
        """What a job would take; nothing is queued."""
        return await self._run(exchanges.estimate(request))

    async def submit(
        self, request: Body, wait_seconds: int = 0, idempotency_key: str | None = None, *, fresh: bool = False
    ) -> Job:
        """Submit a job; with `wait_seconds` (at most 60) the answer comes when it ended or the time is over.

        Sent again with the same key, within a day, the same request gives the same job. A request that was answered
        before is answered by the stored result, unless it is to be `fresh`.
        """
        return await self._run(exchanges.submit(request, wait_seconds, idempotency_key, fresh=fresh))

    async def job(self, job_id: str, wait_seconds: float = 0.0) -> Job:
        """How a job stands."""
        return await self._run(exchanges.job(job_id, wait_seconds))

    async def jobs(self, state: JobState | None = None, tag: str | None = None) -> AsyncIterator[Job]:
        """Jobs, newest first, page by page."""
        token: str | None = None
        while True:
            page = await self._run(exchanges.jobs(state, tag, token))
            for job in page.jobs:
                yield job
            if (token := page.next_page_token) is None:
                return

    async def wait(
        self, job_id: str, timeout_seconds: float = float("inf"), on_change: Callable[[Job], None] | None = None
    ) -> Job:
        """The job once it ended, or as it stands after this time; `on_change` hears of it about once a second."""
        deadline = time.monotonic() + timeout_seconds
        patience = self._patience(job_id, deadline)
        while True:
            seconds = max(0.0, min(POLL_SECONDS, deadline - time.monotonic()))
            job = await self._follow(exchanges.job(job_id, seconds), patience)
            if on_change:
                on_change(job)
            if job.state in ENDED_STATES or time.monotonic() >= deadline:
                return job

    async def events(self, job_id: str) -> AsyncIterator[Job]:
        """A job as it stands, then after each change, until it ended; a stream that breaks off is taken up again."""
        place, patience = EventPlace(job_id), self._patience(job_id)
        while not place.ended:
            try:
                async with aconnect_sse(self._http, **place.arguments()) as source:
                    if not source.response.is_success:
                        await source.response.aread()
                        raise refusal(source.response)
                    if source.response.status_code == HTTPStatus.NO_CONTENT:
                        return
                    patience.heard()
                    async for event in source.aiter_sse():
                        if (job := place.heard(event)) is not None:
                            yield job
                pause = SECONDS_BETWEEN_TRIES
            except (httpx.HTTPError, ProblemResponseError) as error:
                pause = patience.pause_seconds(told(self._http.base_url, error))
            if not place.ended:
                await asyncio.sleep(pause)

    async def result(self, job_id: str, smoothing: Smoothing | None = None) -> AnyJobResult:
        """The result of a job that succeeded; of `lanczos` with its curves smoothed anew, if wished."""
        return await self._run(exchanges.result(job_id, smoothing))

    async def result_file(
        self, job_id: str, name: ResultFormat, smoothing: Smoothing | None = None, style: PictureStyle | None = None
    ) -> bytes:
        """The result as JSON, npz (which alone holds eigenvectors) or a picture, PNG, SVG or PDF."""
        return await self._run(exchanges.result_file(job_id, name, smoothing, style))

    async def save_result(
        self,
        job_id: str,
        path: Path | BinaryIO,
        name: ResultFormat,
        smoothing: Smoothing | None = None,
        style: PictureStyle | None = None,
    ) -> None:
        """Write the result to a file, piece by piece; the file at a path is there when all of it is.

        Raises:
            OSError: If it cannot be written.
        """
        exchange = exchanges.result_file(job_id, name, smoothing, style)
        with output_file(path) as file:
            await self._save(exchange, file)

    async def run(
        self, request: Body, on_change: Callable[[Job], None] | None = None, *, fresh: bool = False
    ) -> AnyJobResult:
        """Submit, wait and fetch; computed even if a stored result answers the request, if it is to be `fresh`.

        Raises:
            JobFailedError: If the job ends without a result.
        """
        submitted = await self.submit(request, fresh=fresh)
        job = await self.wait(submitted.id, on_change=on_change)
        if job.state != "succeeded":
            raise JobFailedError(job)
        return await self._follow(exchanges.result(job.id), self._patience(job.id))

    async def cancel(self, job_id: str) -> Job:
        """Ask for the end of a job."""
        return await self._run(exchanges.cancel(job_id))

    async def delete(self, job_id: str) -> None:
        """Forget a job that ended, and its result."""
        await self._run(exchanges.delete(job_id))

    async def upload_tokens(self, path: Path) -> TokenArtifact:
        """Send a file of tokens, nanoGPT's .bin or a .npy array of integers, piece by piece; jobs name it by its id.

        Raises:
            OSError: If it cannot be read.
        """
        with path.open("rb") as file:
            return await self._run(exchanges.upload_tokens(async_pieces(file), path.stat().st_size))

    async def upload_arrays(self, path: Path) -> ArrayArtifact:
        """Send a .safetensors or .npz file piece by piece: weights, or data x and y; jobs name it by its id.

        Raises:
            OSError: If it cannot be read.
        """
        with path.open("rb") as file:
            return await self._run(exchanges.upload_arrays(async_pieces(file), path.stat().st_size, path.suffix))

    async def artifact(self, artifact_id: str) -> AnyArtifact:
        """What an uploaded file holds."""
        return await self._run(exchanges.artifact(artifact_id))

    async def artifacts(self) -> AsyncIterator[AnyArtifact]:
        """Uploaded files, newest first, page by page."""
        token: str | None = None
        while True:
            page = await self._run(exchanges.artifacts(token))
            for artifact in page.artifacts:
                yield artifact
            if (token := page.next_page_token) is None:
                return

    async def delete_artifact(self, artifact_id: str) -> None:
        """Delete an uploaded file; jobs that wait for it fail."""
        await self._run(exchanges.delete_artifact(artifact_id))

    async def models(self) -> list[LoadableModel]:
        """The checkpoints that the server can load, and those that it cannot, with the reason."""
        return await self._run(exchanges.models())

    async def ready(self) -> Readiness:
        """The workers that are there; a problem names what is missing."""
        return await self._run(exchanges.ready())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, exchange: Exchange[T]) -> T:
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                response = await self._http.request(**exchange.arguments())
            except httpx.HTTPError as error:
                raise unreachable(self._http.base_url, error) from error
            self._has_answered = True
            pause = exchanges.pause_seconds(exchange, response)
            if pause is None or time.monotonic() + pause > deadline:
                return exchange.finish(response)
            await asyncio.sleep(pause)

    async def _save(self, exchange: Exchange[bytes], file: BinaryIO) -> None:
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                async with self._http.stream(**exchange.arguments()) as response:
                    if response.is_success:
                        async for piece in response.aiter_bytes():
                            file.write(piece)
                        return
                    await response.aread()
            except httpx.HTTPError as error:
                raise unreachable(self._http.base_url, error) from error
            pause = exchanges.pause_seconds(exchange, response)
            if pause is None or time.monotonic() + pause > deadline:
                raise refusal(response)
            await asyncio.sleep(pause)

    async def _follow(self, exchange: Exchange[T], patience: Patience) -> T:
        """The answer, once the server is there to give it."""
        while True:
            try:
                answer = await self._run(exchange)
            except SpectrumClientError as error:
                await asyncio.sleep(patience.pause_seconds(error))
            else:
                patience.heard()
                return answer

    def _patience(self, job_id: str, deadline: float = float("inf")) -> Patience:
        return Patience(job_id, self.outage_seconds, is_known=self._has_answered, deadline=deadline)
