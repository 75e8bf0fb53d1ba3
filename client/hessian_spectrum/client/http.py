"""Synchronous client of the spectrum server."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import httpx
from httpx_sse import connect_sse

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
from hessian_spectrum.client.jobs import ClientJob, JobGroup, batches_of, requests_of
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
    chunks,
    refusal,
)
from hessian_spectrum.client.retries import (
    SECONDS_BETWEEN_TRIES,
    EventCursor,
    InterimCursor,
    OutageRetry,
    pause_before_repeat,
)
from hessian_spectrum.client.tracking.spool import DISK_BYTES
from hessian_spectrum.client.tracking.start import SentRun, new_run, send_spooled, start_tracking
from hessian_spectrum.client.tracking.tracker import MEMORY_BYTES, Tracker

T = TypeVar("T")

UPLOADS_AT_ONCE = 4
"""Number of files that `upload_files` sends at the same time."""

_LARGEST_EIGENVALUE = {"kind": "top-k", "k": 1}


class SpectrumClient(ClientBase[httpx.Client]):
    """Client of a spectrum server.

    Every method raises ProblemResponseError if the server refuses the request, and ServerUnreachableError if it does
    not answer. Requests are `api_schemas` models or plain dictionaries of the same fields.

    Args:
        base_url: Address of the server.
        api_key: API key, for a server that requires one.
        patience_seconds: Longest time for which a call is repeated while the server is busy.
        outage_seconds: Longest outage for which `wait`, `events` and `run` continue, for example while the server
            restarts; a warning is logged when an outage begins.
        transport: What sends requests, as httpx has it; a `testing.FakeServer` answers them itself.
    """

    @staticmethod
    def _connect(**options: Any) -> httpx.Client:
        return httpx.Client(**options)

    def submit(
        self, request: Body, *, wait_seconds: int = 0, idempotency_key: str | None = None, fresh: bool = False
    ) -> ClientJob:
        """Submit a job.

        Args:
            request: Model of the request or a dictionary of its fields.
            wait_seconds: Time, at most 60 s, to wait for the end of the job before the call returns.
            idempotency_key: Key under which the same request, sent again within a day, returns the same job.
            fresh: Whether to compute even if an equal request has a stored result.

        Returns:
            The job.
        """
        sent = endpoints.submit(request, wait_seconds=wait_seconds, idempotency_key=idempotency_key, fresh=fresh)
        return self._bound(self._run(sent))

    def submit_many(
        self,
        requests: Body | Sequence[Body],
        over: Mapping[str, Sequence[Any]] | None = None,
        *,
        idempotency_key: str | None = None,
        fresh: bool = False,
    ) -> JobGroup:
        """Submit many jobs; up to 1,000 of them are accepted together, or none.

        Args:
            requests: Models of the requests or dictionaries of their fields; with `over`, the fields that the jobs of a
                grid have in common.
            over: Values by the path of a field, such as `{"method.num_probes": [2, 4, 8]}`; there is a job for each
                combination of values.
            idempotency_key: Key under which the same requests, sent again within a day, return the same jobs.
            fresh: Whether to compute even if an equal request has a stored result.

        Returns:
            The jobs, in the order of the requests; of a grid, the values of the last path vary fastest.

        Example:
            ```python
            jobs = client.submit_many(request, over={"model.seed": [0, 1, 2], "method.num_probes": [2, 8]})
            results = jobs.results(progress=True)
            ```
        """
        bodies, points = requests_of(requests, over)
        batches = batches_of(bodies, idempotency_key=idempotency_key, fresh=fresh)
        return JobGroup([self._bound(job) for batch in batches for job in self._run(batch)], points)

    def job(self, job_id: str, wait_seconds: float = 0.0) -> ClientJob:
        """Return the record of a job, after at most `wait_seconds` if it has not ended."""
        return self._bound(self._run(endpoints.job(job_id, wait_seconds)))

    def cancel(self, job_id: str) -> ClientJob:
        """Cancel a job; its record shows when it has ended."""
        return self._bound(self._run(endpoints.cancel(job_id)))

    def _bound(self, job: Job) -> ClientJob:
        return ClientJob.of(job, self)

    def jobs(self, state: JobState | None = None, tag: str | None = None) -> Iterator[ClientJob]:
        """Yield all jobs, newest first, fetched page by page."""
        for page in self._pages(lambda token: endpoints.jobs(state, tag, token)):
            yield from map(self._bound, page.jobs)

    def wait(
        self,
        job_id: str,
        timeout_seconds: float = float("inf"),
        on_change: Callable[[Job], None] | None = None,
        *,
        progress: bool = False,
    ) -> ClientJob:
        """Wait for the end of a job.

        Args:
            job_id: Id of the job.
            timeout_seconds: Time in seconds after which to return at the latest. A server that is slow to answer then
                delays it by two seconds at most.
            on_change: Receives the job's record about once a second.
            progress: Whether to show a bar with rate and time left, in a terminal or a notebook.

        Returns:
            The record of the job when it has ended, or when the time is over.

        Raises:
            ServerUnreachableError: If the server does not answer, or is too busy to do so, until the time is over.
        """
        deadline = time.monotonic() + timeout_seconds
        retry = self._retry(job_id, deadline)
        with listeners(job_id, on_change, progress=progress) as notify:
            while True:
                seconds = max(0.0, min(POLL_SECONDS, deadline - time.monotonic()))
                job = self._follow(endpoints.job(job_id, seconds), retry)
                notify(job)
                if job.state in ENDED_STATES or time.monotonic() >= deadline:
                    return self._bound(job)

    def events(self, job_id: str) -> Iterator[Job]:
        """Yield the record of a job, now and after each change until it ends; an interrupted stream is resumed."""
        cursor, retry = EventCursor(job_id), self._retry(job_id)
        while not cursor.ended:
            try:
                with connect_sse(self._http, **cursor.arguments()) as source:
                    if not source.response.is_success:
                        source.response.read()
                        raise refusal(source.response)
                    if source.response.status_code == HTTPStatus.NO_CONTENT:
                        return
                    retry.reset()
                    for event in source.iter_sse():
                        if (job := cursor.read(event)) is not None:
                            yield job
                pause = SECONDS_BETWEEN_TRIES
            except (httpx.HTTPError, ProblemResponseError) as error:
                pause = retry.pause_seconds(to_client_error(self._http.base_url, error))
            if not cursor.ended:
                time.sleep(pause)

    def interim_results(self, job_id: str) -> Iterator[AnyJobResult]:
        """Yield what is known of a Lanczos spectrum while it is computed, then the result of the job.

        A caller that is slower than the server gets only the newest interim results.

        Args:
            job_id: Id of the job; a job of another method has no interim results.

        Yields:
            Results with `interim` true, whose bands become narrower, and at last the result.

        Raises:
            JobFailedError: If the job ends without a result.
        """
        retry, shown = self._retry(job_id), InterimCursor()
        while (job := self._follow(endpoints.job(job_id, POLL_SECONDS), retry)).state not in ENDED_STATES:
            if shown.is_news(job):
                with suppress(ProblemResponseError):  # the job has ended: its record says how
                    if (found := shown.read(self._follow(endpoints.result(job_id, interim=True), retry))) is not None:
                        yield found
        yield self._result_of(job)

    def save_result(
        self,
        job_id: str,
        path: FilePath | BinaryIO,
        name: ResultFormat,
        *,
        smoothing: Smoothing | None = None,
        style: PictureStyle | None = None,
        interim: bool = False,
    ) -> None:
        """Stream the result to a file; a file at a path appears only when it is complete.

        Args:
            job_id: Id of the job.
            path: Path, or a file that is open for writing.
            name: Format of the result.
            smoothing: Settings with which to smooth the curves of `lanczos` again.
            style: Settings of a picture.
            interim: Whether the newest interim result will do while the job runs.

        Raises:
            OSError: If the file cannot be written.
        """
        request = endpoints.result_file(job_id, name, smoothing=smoothing, style=style, interim=interim)
        with output_file(path) as file:
            self._save(request, file)

    def run(
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
        return self._result_of(self.wait(self.submit(request, fresh=fresh).id, on_change=on_change))

    def _result_of(self, job: Job) -> AnyJobResult:
        """Return the result of a job that has ended; JobFailedError if it has none."""
        if job.state != "succeeded":
            raise JobFailedError(job)
        return self._follow(endpoints.result(job.id), self._retry(job.id))

    def upload_files(self, paths: Iterable[FilePath], *, progress: bool = False) -> list[AnyArtifact]:
        """Upload several files, four at a time.

        Args:
            paths: Files of arrays (.npz, .npy, .safetensors), programs (.pt2, .onnx) or tokens (.bin).
            progress: Whether to show one bar for all of them.

        Returns:
            The uploaded files, in the order of the paths.

        Raises:
            OSError: If a file cannot be read.
        """
        files = [Path(path) for path in paths]
        with (
            files_progress(sum(path.stat().st_size for path in files), is_shown=progress) as advance,
            ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool,
        ):

            def upload(path: Path) -> AnyArtifact:
                artifact = self.upload_file(path)
                advance(path.stat().st_size)
                return artifact

            return list(pool.map(upload, files))

    def upload_data_set(
        self, x: Any, y: Any = None, *, part_bytes: int = PART_BYTES, progress: UploadProgress = ignore_progress
    ) -> dict[str, Any]:
        """Upload samples in parts; those that the server has already, from an upload that was interrupted, are skipped.

        Args:
            x: Inputs (n, ...) as an array of numpy, which may be a mapped file, or a tensor of torch; for a program
                with several inputs a dictionary of these, by the names of the inputs.
            y: Targets (n, ...); None for a loss that needs none.
            part_bytes: Size in bytes of a part, of which one is in memory at a time.
            progress: Called with the number of bytes that the server has, and of those that there are, after each part.

        Returns:
            The field `data` of a request, which refers to the parts by their ids.

        Raises:
            UnfitArrayError: If an array has a type that the server does not take, or the numbers of samples differ.
        """
        data_set, ids, done_bytes = DataSet.of(x, y, part_bytes), [], 0
        for part in data_set.parts():
            ids.append(self._uploaded(part))
            done_bytes += part.num_bytes
            progress(done_bytes, data_set.num_bytes)
        return parts_reference(ids)

    def _uploaded(self, part: Part) -> str:
        """Return the id of a part, which is uploaded if the server does not have it."""
        try:
            return self._run(endpoints.artifact(part.id)).id
        except ProblemResponseError as error:
            if error.problem.status != HTTPStatus.NOT_FOUND:
                raise
        return self._run(endpoints.upload_part(part.content))

    def track(
        self,
        module: Any,
        *,
        loss: Any,
        data: Any,
        every: int,
        name: str | None = None,
        method: Mapping[str, Any] | None = None,
        matrix: Any = "hessian",
        trainable: str | None = None,
        learning_rate: float | None = None,
        example_inputs: Any = None,
        directory: FilePath | None = None,
        disk_bytes: int = DISK_BYTES,
        memory_bytes: int = MEMORY_BYTES,
        **fields: Any,
    ) -> Tracker:
        """Record a training run: call `step` of the returned tracker in the loop. Needs the extra `torch`.

        The call exports the module and writes program and data to disk. From then on, `step` waits only until the
        parameters are copied; threads write the copies to disk and send them as points of a series. If the server is
        away, the run goes on, and the points are sent later. They belong to the loss of the module in eval mode:
        without dropout, and with the running statistics of batch norm at that step.

        Args:
            module: A `torch.nn.Module`, which `torch.compile` or data parallelism may have wrapped. In a distributed
                run, track it in one process.
            loss: Loss, as in a request.
            data: Inputs and targets (x, y); x alone for a loss that needs no targets; or the field `data` that
                `upload_data` has returned.
            every: Every how many calls of `step` the parameters are recorded, beginning with the first.
            name: Name of the series; None: one that no other run has. A run with the same name and request adds to it.
            method: What is computed at each point; None: the largest eigenvalue.
            matrix: Matrix, as in a request.
            trainable: Glob on the names of the parameters to differentiate; None: those that require gradients.
            learning_rate: Learning rate of points for which `step` is given no other.
            example_inputs: Arguments of the module for at least two samples; None: the first samples of x.
            directory: Folder in which the run has a folder of its name; None: one for this user, as
                `platformdirs.user_state_path` names it.
            disk_bytes: Limit on the size of parameters that wait to be sent. When it is reached, waiting points are
                dropped, each time the one closest to its neighbours, so that the others cover the run evenly.
            memory_bytes: Limit on the size of copies that wait to be written; two are always allowed. When it is
                reached, because the disk is slower than the loop, the new point is dropped.
            **fields: Further fields of a spectrum job, such as `weight_decay`.

        Returns:
            The tracker, to be closed at the end, for example by a `with` statement.

        Raises:
            ModuleExportError: If the module cannot be exported.
            SpoolError: If another process tracks a run in the same folder, or it holds points of another run.
            OSError: If the folder cannot be written.
            ValueError: If an argument is wrong.
        """
        if every < 1:
            raise ValueError("every must be at least 1")
        request = {"loss": loss, "matrix": matrix, "method": dict(method or _LARGEST_EIGENVALUE), **fields}
        new = new_run(module, request, data=data, name=name, trainable=trainable, example_inputs=example_inputs)
        limits = {"disk_bytes": disk_bytes, "memory_bytes": memory_bytes}
        return start_tracking(new, self, self._another, directory, every=every, learning_rate=learning_rate, **limits)

    def send_tracked(self, directory: FilePath) -> list[SentRun]:
        """Send the points that tracked runs have left on disk, also after their processes were killed.

        Args:
            directory: Folder of one run, or a folder of several.

        Returns:
            What was sent of each run.

        Raises:
            SpoolError: If there is no tracked run, or its process still exists and sends by itself.
            SpectrumClientError: If the server does not answer or refuses; the points stay on disk.
        """
        return send_spooled(self, Path(directory))

    def artifacts(self) -> Iterator[AnyArtifact]:
        """Yield all uploaded files, newest first, fetched page by page."""
        for page in self._pages(endpoints.artifacts):
            yield from page.artifacts

    def _pages(self, request: Callable[[str | None], ApiRequest[Page]]) -> Iterator[Page]:
        """Yield the pages of a list; `request` takes the token of a page, None for the first one."""
        token: str | None = None
        while True:
            page = self._run(request(token))
            yield page
            if (token := page.next_page_token) is None:
                return

    def _another(self) -> Self:
        """Return another client of the same server, for another thread, which does not repeat calls by itself."""
        key = None if self._api_key is None else self._api_key.get_secret_value()
        return type(self)(self._base_url, key, patience_seconds=0.0)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, request: ApiRequest[T], deadline: float = float("inf")) -> T:
        """Return the answer of the server; while it is busy, the request is repeated until the deadline."""
        patience_ends = min(deadline, time.monotonic() + self.patience_seconds)
        with request.opened(chunks) as sent:
            while True:
                try:
                    response = self._http.request(**sent.arguments(deadline))
                except httpx.HTTPError as error:
                    raise unreachable(self._http.base_url, error) from error
                self._has_answered = True
                pause = pause_before_repeat(sent, response)
                if pause is None or time.monotonic() + pause > patience_ends:
                    return sent.finish(response)
                time.sleep(pause)

    def _save(self, request: ApiRequest[bytes], file: BinaryIO) -> None:
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                with self._http.stream(**request.arguments()) as response:
                    if response.is_success:
                        for chunk in response.iter_bytes():
                            file.write(chunk)
                        return
                    response.read()
            except httpx.HTTPError as error:
                raise unreachable(self._http.base_url, error) from error
            pause = pause_before_repeat(request, response)
            if pause is None or time.monotonic() + pause > deadline:
                raise refusal(response)
            time.sleep(pause)

    def _follow(self, request: ApiRequest[T], retry: OutageRetry) -> T:
        """Return the answer of the server; the request is repeated while the server does not answer."""
        while True:
            try:
                answer = self._run(request, retry.deadline)
            except SpectrumClientError as error:
                time.sleep(retry.pause_seconds(error))
            else:
                retry.reset()
                return answer
