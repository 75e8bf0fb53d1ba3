"""Asynchronous client of the spectrum server, with the methods of the synchronous one, apart from tracking."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import httpx
from httpx_sse import aconnect_sse

from hessian_spectrum.api_schemas.artifacts import AnyArtifact
from hessian_spectrum.api_schemas.jobs import ENDED_STATES, AnyJobResult, Job, JobState
from hessian_spectrum.client import endpoints
from hessian_spectrum.client.client_base import ClientBase, Page
from hessian_spectrum.client.data_sets import (
    PART_BYTES,
    DataSet,
    Part,
    UploadProgress,
    ignore_progress,
    parts_reference,
)
from hessian_spectrum.client.errors import (
    JobFailedError,
    ProblemResponseError,
    SpectrumClientError,
    to_client_error,
    unreachable,
)
from hessian_spectrum.client.jobs import AsyncClientJob, batches_of, requests_of
from hessian_spectrum.client.output_file import output_file
from hessian_spectrum.client.progress import files_progress, listeners
from hessian_spectrum.client.requests import (
    POLL_SECONDS,
    ApiRequest,
    Body,
    FilePath,
    PictureStyle,
    ResultFormat,
    Smoothing,
    async_chunks,
    refusal,
)
from hessian_spectrum.client.retries import (
    SECONDS_BETWEEN_TRIES,
    EventCursor,
    InterimCursor,
    OutageRetry,
    pause_before_repeat,
)

T = TypeVar("T")


class AsyncSpectrumClient(ClientBase[httpx.AsyncClient]):
    """`SpectrumClient` for asyncio, with the same arguments and methods; methods are awaited."""

    is_asynchronous = True

    @staticmethod
    def _connect(**options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(**options)

    async def submit(
        self, request: Body, *, wait_seconds: int = 0, idempotency_key: str | None = None, fresh: bool = False
    ) -> AsyncClientJob:
        """Submit a job, as `SpectrumClient.submit` does."""
        sent = endpoints.submit(request, wait_seconds=wait_seconds, idempotency_key=idempotency_key, fresh=fresh)
        return self._bound(await self._run(sent))

    async def submit_many(
        self,
        requests: Body | Sequence[Body],
        over: Mapping[str, Sequence[Any]] | None = None,
        *,
        idempotency_key: str | None = None,
        fresh: bool = False,
    ) -> list[AsyncClientJob]:
        """Submit many jobs, as `SpectrumClient.submit_many` does, and return them as a list."""
        bodies, _ = requests_of(requests, over)
        batches = batches_of(bodies, idempotency_key=idempotency_key, fresh=fresh)
        return [self._bound(job) for batch in batches for job in await self._run(batch)]

    async def job(self, job_id: str, wait_seconds: float = 0.0) -> AsyncClientJob:
        """Return the record of a job, after at most `wait_seconds` if it has not ended."""
        return self._bound(await self._run(endpoints.job(job_id, wait_seconds)))

    async def cancel(self, job_id: str) -> AsyncClientJob:
        """Cancel a job; its record shows when it has ended."""
        return self._bound(await self._run(endpoints.cancel(job_id)))

    def _bound(self, job: Job) -> AsyncClientJob:
        return AsyncClientJob.of(job, self)

    async def jobs(self, state: JobState | None = None, tag: str | None = None) -> AsyncIterator[AsyncClientJob]:
        """Yield all jobs, newest first, fetched page by page."""
        async for page in self._pages(lambda token: endpoints.jobs(state, tag, token)):
            for job in page.jobs:
                yield self._bound(job)

    async def wait(
        self,
        job_id: str,
        timeout_seconds: float = float("inf"),
        on_change: Callable[[Job], None] | None = None,
        *,
        progress: bool = False,
    ) -> AsyncClientJob:
        """Wait for the end of a job and return its record, as `SpectrumClient.wait` does."""
        deadline = time.monotonic() + timeout_seconds
        retry = self._retry(job_id, deadline)
        with listeners(job_id, on_change, progress=progress) as notify:
            while True:
                seconds = max(0.0, min(POLL_SECONDS, deadline - time.monotonic()))
                job = await self._follow(endpoints.job(job_id, seconds), retry)
                notify(job)
                if job.state in ENDED_STATES or time.monotonic() >= deadline:
                    return self._bound(job)

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

    async def interim_results(self, job_id: str) -> AsyncIterator[AnyJobResult]:
        """Yield what is known of a Lanczos spectrum, then the result, as `SpectrumClient.interim_results` does."""
        retry, shown = self._retry(job_id), InterimCursor()
        while (job := await self._follow(endpoints.job(job_id, POLL_SECONDS), retry)).state not in ENDED_STATES:
            if shown.is_news(job):
                with suppress(ProblemResponseError):  # the job has ended: its record says how
                    answer = await self._follow(endpoints.result(job_id, interim=True), retry)
                    if (found := shown.read(answer)) is not None:
                        yield found
        yield await self._result_of(job)

    async def save_result(
        self,
        job_id: str,
        path: FilePath | BinaryIO,
        name: ResultFormat,
        *,
        smoothing: Smoothing | None = None,
        style: PictureStyle | None = None,
        interim: bool = False,
    ) -> None:
        """Stream the result to a file, as `SpectrumClient.save_result` does."""
        request = endpoints.result_file(job_id, name, smoothing=smoothing, style=style, interim=interim)
        with output_file(path) as file:
            await self._save(request, file)

    async def run(
        self, request: Body, on_change: Callable[[Job], None] | None = None, *, fresh: bool = False
    ) -> AnyJobResult:
        """Submit a job, wait for its end and return its result, as `SpectrumClient.run` does."""
        submitted = await self.submit(request, fresh=fresh)
        return await self._result_of(await self.wait(submitted.id, on_change=on_change))

    async def _result_of(self, job: Job) -> AnyJobResult:
        """Return the result of a job that has ended; JobFailedError if it has none."""
        if job.state != "succeeded":
            raise JobFailedError(job)
        return await self._follow(endpoints.result(job.id), self._retry(job.id))

    async def upload_files(self, paths: Iterable[FilePath], *, progress: bool = False) -> list[AnyArtifact]:
        """Upload several files one after the other, as `SpectrumClient.upload_files` does."""
        files, uploaded = [Path(path) for path in paths], []
        with files_progress(sum(path.stat().st_size for path in files), is_shown=progress) as advance:
            for path in files:
                uploaded.append(await self.upload_file(path))
                advance(path.stat().st_size)
        return uploaded

    async def upload_data_set(
        self, x: Any, y: Any = None, *, part_bytes: int = PART_BYTES, progress: UploadProgress = ignore_progress
    ) -> dict[str, Any]:
        """Upload samples in parts, as `SpectrumClient.upload_data_set` does."""
        data_set, ids, done_bytes = DataSet.of(x, y, part_bytes), [], 0
        for part in data_set.parts():
            ids.append(await self._uploaded(part))
            done_bytes += part.num_bytes
            progress(done_bytes, data_set.num_bytes)
        return parts_reference(ids)

    async def _uploaded(self, part: Part) -> str:
        try:
            return (await self._run(endpoints.artifact(part.id))).id
        except ProblemResponseError as error:
            if error.problem.status != HTTPStatus.NOT_FOUND:
                raise
        return await self._run(endpoints.upload_part(part.content))

    async def artifacts(self) -> AsyncIterator[AnyArtifact]:
        """Yield all uploaded files, newest first, fetched page by page."""
        async for page in self._pages(endpoints.artifacts):
            for artifact in page.artifacts:
                yield artifact

    async def _pages(self, request: Callable[[str | None], ApiRequest[Page]]) -> AsyncIterator[Page]:
        """Yield the pages of a list; `request` takes the token of a page, None for the first one."""
        token: str | None = None
        while True:
            page = await self._run(request(token))
            yield page
            if (token := page.next_page_token) is None:
                return

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
        with request.opened(async_chunks) as sent:
            while True:
                try:
                    response = await self._http.request(**sent.arguments(deadline))
                except httpx.HTTPError as error:
                    raise unreachable(self._http.base_url, error) from error
                self._has_answered = True
                pause = pause_before_repeat(sent, response)
                if pause is None or time.monotonic() + pause > patience_ends:
                    return sent.finish(response)
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
