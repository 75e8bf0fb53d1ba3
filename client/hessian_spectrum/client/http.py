"""The client, for programs that wait."""

import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

import httpx
from httpx_sse import connect_sse

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
from hessian_spectrum.client.pieces import pieces

T = TypeVar("T")


class SpectrumClient:
    """A spectrum server as Python calls.

    Every method raises ProblemResponseError where the server refuses, ServerUnreachableError where it does not answer.
    Requests are `api_schemas` models or plain dictionaries of the same fields.

    Args:
        base_url: Where it listens.
        api_key: The key, for a server that wants one.
        patience_seconds: Time for which a call may wait before it is sent again, where the server has too much to do.
        outage_seconds: Time for which `wait`, `events` and `run` go on while a server that has answered before does
            not answer any more, for example because it is restarted; a warning is logged when that begins.
    """

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
        self._http = httpx.Client(**exchanges.connection(base_url, api_key))

    def closed_form(self, request: Body | bytes) -> ClosedFormSpectrum:
        """The whole Hessian spectrum of a network that has a formula.

        A request that holds numpy arrays, or is an npz archive of its fields, is sent as npz.
        """
        return self._run(exchanges.closed_form(request))

    def closed_form_file(self, request: Body | bytes, name: ResultFormat, style: PictureStyle | None = None) -> bytes:
        """The same as JSON, npz (which carries more eigenvectors) or a picture, PNG, SVG or PDF."""
        return self._run(exchanges.closed_form_file(request, name, style))

    def random_matrix(self, request: Body) -> LawAnswer | IndexCurveAnswer:
        """A random-matrix law, or its index against the energy."""
        return self._run(exchanges.random_matrix(request))

    def random_matrix_file(self, request: Body, name: ResultFormat, style: PictureStyle | None = None) -> bytes:
        """The same as JSON, npz or a picture, PNG, SVG or PDF."""
        return self._run(exchanges.random_matrix_file(request, name, style))

    def estimate(self, request: Body) -> CostEstimate:
        """What a job would take; nothing is queued."""
        return self._run(exchanges.estimate(request))

    def submit(
        self, request: Body, wait_seconds: int = 0, idempotency_key: str | None = None, *, fresh: bool = False
    ) -> Job:
        """Submit a job; with `wait_seconds` (at most 60) the answer comes when it ended or the time is over.

        Sent again with the same key, within a day, the same request gives the same job. A request that was answered
        before is answered by the stored result, unless it is to be `fresh`.
        """
        return self._run(exchanges.submit(request, wait_seconds, idempotency_key, fresh=fresh))

    def job(self, job_id: str, wait_seconds: float = 0.0) -> Job:
        """How a job stands."""
        return self._run(exchanges.job(job_id, wait_seconds))

    def jobs(self, state: JobState | None = None, tag: str | None = None) -> Iterator[Job]:
        """Jobs, newest first, page by page."""
        token: str | None = None
        while True:
            page = self._run(exchanges.jobs(state, tag, token))
            yield from page.jobs
            if (token := page.next_page_token) is None:
                return

    def wait(
        self, job_id: str, timeout_seconds: float = float("inf"), on_change: Callable[[Job], None] | None = None
    ) -> Job:
        """The job once it ended, or as it stands after this time; `on_change` hears of it about once a second."""
        deadline = time.monotonic() + timeout_seconds
        patience = self._patience(job_id, deadline)
        while True:
            seconds = max(0.0, min(POLL_SECONDS, deadline - time.monotonic()))
            job = self._follow(exchanges.job(job_id, seconds), patience)
            if on_change:
                on_change(job)
            if job.state in ENDED_STATES or time.monotonic() >= deadline:
                return job

    def events(self, job_id: str) -> Iterator[Job]:
        """A job as it stands, then after each change, until it ended; a stream that breaks off is taken up again."""
        place, patience = EventPlace(job_id), self._patience(job_id)
        while not place.ended:
            try:
                with connect_sse(self._http, **place.arguments()) as source:
                    if not source.response.is_success:
                        source.response.read()
                        raise refusal(source.response)
                    if source.response.status_code == HTTPStatus.NO_CONTENT:
                        return
                    patience.heard()
                    for event in source.iter_sse():
                        if (job := place.heard(event)) is not None:
                            yield job
                pause = SECONDS_BETWEEN_TRIES
            except (httpx.HTTPError, ProblemResponseError) as error:
                pause = patience.pause_seconds(told(self._http.base_url, error))
            if not place.ended:
                time.sleep(pause)

    def result(self, job_id: str, smoothing: Smoothing | None = None) -> AnyJobResult:
        """The result of a job that succeeded; of `lanczos` with its curves smoothed anew, if wished."""
        return self._run(exchanges.result(job_id, smoothing))

    def result_file(
        self, job_id: str, name: ResultFormat, smoothing: Smoothing | None = None, style: PictureStyle | None = None
    ) -> bytes:
        """The result as JSON, npz (which alone holds eigenvectors) or a picture, PNG, SVG or PDF."""
        return self._run(exchanges.result_file(job_id, name, smoothing, style))

    def save_result(
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
            self._save(exchange, file)

    def run(
        self, request: Body, on_change: Callable[[Job], None] | None = None, *, fresh: bool = False
    ) -> AnyJobResult:
        """Submit, wait and fetch; computed even if a stored result answers the request, if it is to be `fresh`.

        Raises:
            JobFailedError: If the job ends without a result.
        """
        job = self.wait(self.submit(request, fresh=fresh).id, on_change=on_change)
        if job.state != "succeeded":
            raise JobFailedError(job)
        return self._follow(exchanges.result(job.id), self._patience(job.id))

    def cancel(self, job_id: str) -> Job:
        """Ask for the end of a job."""
        return self._run(exchanges.cancel(job_id))

    def delete(self, job_id: str) -> None:
        """Forget a job that ended, and its result."""
        self._run(exchanges.delete(job_id))

    def upload_tokens(self, path: Path) -> TokenArtifact:
        """Send a file of tokens, nanoGPT's .bin or a .npy array of integers, piece by piece; jobs name it by its id.

        Raises:
            OSError: If it cannot be read.
        """
        with path.open("rb") as file:
            return self._run(exchanges.upload_tokens(pieces(file), path.stat().st_size))

    def upload_arrays(self, path: Path) -> ArrayArtifact:
        """Send a .safetensors or .npz file piece by piece: weights, or data x and y; jobs name it by its id.

        Raises:
            OSError: If it cannot be read.
        """
        with path.open("rb") as file:
            return self._run(exchanges.upload_arrays(pieces(file), path.stat().st_size, path.suffix))

    def artifact(self, artifact_id: str) -> AnyArtifact:
        """What an uploaded file holds."""
        return self._run(exchanges.artifact(artifact_id))

    def artifacts(self) -> Iterator[AnyArtifact]:
        """Uploaded files, newest first, page by page."""
        token: str | None = None
        while True:
            page = self._run(exchanges.artifacts(token))
            yield from page.artifacts
            if (token := page.next_page_token) is None:
                return

    def delete_artifact(self, artifact_id: str) -> None:
        """Delete an uploaded file; jobs that wait for it fail."""
        self._run(exchanges.delete_artifact(artifact_id))

    def models(self) -> list[LoadableModel]:
        """The checkpoints that the server can load, and those that it cannot, with the reason."""
        return self._run(exchanges.models())

    def ready(self) -> Readiness:
        """The workers that are there; a problem names what is missing."""
        return self._run(exchanges.ready())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, exchange: Exchange[T]) -> T:
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                response = self._http.request(**exchange.arguments())
            except httpx.HTTPError as error:
                raise unreachable(self._http.base_url, error) from error
            self._has_answered = True
            pause = exchanges.pause_seconds(exchange, response)
            if pause is None or time.monotonic() + pause > deadline:
                return exchange.finish(response)
            time.sleep(pause)

    def _save(self, exchange: Exchange[bytes], file: BinaryIO) -> None:
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                with self._http.stream(**exchange.arguments()) as response:
                    if response.is_success:
                        for piece in response.iter_bytes():
                            file.write(piece)
                        return
                    response.read()
            except httpx.HTTPError as error:
                raise unreachable(self._http.base_url, error) from error
            pause = exchanges.pause_seconds(exchange, response)
            if pause is None or time.monotonic() + pause > deadline:
                raise refusal(response)
            time.sleep(pause)

    def _follow(self, exchange: Exchange[T], patience: Patience) -> T:
        """The answer, once the server is there to give it."""
        while True:
            try:
                answer = self._run(exchange)
            except SpectrumClientError as error:
                time.sleep(patience.pause_seconds(error))
            else:
                patience.heard()
                return answer

    def _patience(self, job_id: str, deadline: float = float("inf")) -> Patience:
        return Patience(job_id, self.outage_seconds, is_known=self._has_answered, deadline=deadline)
