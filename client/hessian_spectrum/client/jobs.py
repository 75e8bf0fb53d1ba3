"""Jobs as the clients return them: records with methods, and groups of jobs."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import product
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from pydantic import BaseModel, PrivateAttr
from rich.console import Console

from hessian_spectrum.api_schemas.jobs import ENDED_STATES, MAX_BATCH_JOBS, AnyJobResult, Job
from hessian_spectrum.client import endpoints
from hessian_spectrum.client.errors import JobFailedError, JobTimeoutError, ProblemResponseError
from hessian_spectrum.client.progress import group_progress
from hessian_spectrum.client.requests import ApiRequest, Body

if TYPE_CHECKING:
    from hessian_spectrum.client.async_http import AsyncSpectrumClient
    from hessian_spectrum.client.http import SpectrumClient


class _BoundJob(Job):
    """The record of a job, and the client that read it."""

    _client: Any = PrivateAttr()

    @classmethod
    def of(cls, job: Job, client: Any) -> Self:
        """Return the record with its client."""
        bound = cls.model_construct(**dict(job))
        bound._client = client
        return bound

    @property
    def has_ended(self) -> bool:
        """Whether the job had ended when this record was read."""
        return self.state in ENDED_STATES

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        reached = self.progress
        rows = {
            "job": self.id,
            "computes": self.summary or self.kind,
            "state": self.state,
            "progress": ""
            if self.has_ended
            else f"{reached.phase} {reached.done:,} of {reached.total:,} {reached.unit}",
            "error": "" if self.error is None else f"{self.error.title}. {self.error.detail or ''}",
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{escape(text)}</td></tr>"
            for name, text in rows.items()
            if text
        )
        return f"<table>{cells}</table>"


class ClientJob(_BoundJob):
    """The record of a job, with methods that act on the job; a record does not change, methods return a new one."""

    _client: "SpectrumClient" = PrivateAttr()

    def refresh(self) -> "ClientJob":
        """Fetch the present record."""
        return self._client.job(self.id)

    def wait(self, timeout_seconds: float = float("inf"), *, progress: bool = False) -> "ClientJob":
        """Wait for the end of the job.

        Args:
            timeout_seconds: Time in seconds after which to return at the latest.
            progress: Whether to show a bar with rate and time left, in a terminal or a notebook.

        Returns:
            The record when the job has ended, or when the time is over.

        Raises:
            ServerUnreachableError: If the server does not answer until the time is over.
        """
        return self._client.wait(self.id, timeout_seconds, progress=progress)

    def result(self, timeout_seconds: float = float("inf"), *, progress: bool = False) -> AnyJobResult:
        """Wait for the end of the job and return its result.

        Args:
            timeout_seconds: Longest time in seconds to wait.
            progress: Whether to show a bar with rate and time left.

        Returns:
            The result.

        Raises:
            JobFailedError: If the job ends without a result.
            JobTimeoutError: If the job has not ended when the time is over.
        """
        job = self.wait(timeout_seconds, progress=progress)
        if not job.has_ended:
            raise JobTimeoutError(job, timeout_seconds)
        return self._client._result_of(job)

    def interim_results(self) -> Iterator[AnyJobResult]:
        """Yield what is known of a Lanczos spectrum while it is computed, then the result of the job."""
        return self._client.interim_results(self.id)

    def request(self) -> dict[str, Any]:
        """Return the request of the job, to submit it again."""
        return self._client.request(self.id)

    def cancel(self) -> "ClientJob":
        """Cancel the job; the record shows when it has ended."""
        return self._client.cancel(self.id)

    def delete(self) -> None:
        """Delete the job, which must have ended, and its result."""
        self._client.delete(self.id)


class AsyncClientJob(_BoundJob):
    """`ClientJob` for asyncio, with the same methods; they are awaited."""

    _client: "AsyncSpectrumClient" = PrivateAttr()

    async def refresh(self) -> "AsyncClientJob":
        """Fetch the present record."""
        return await self._client.job(self.id)

    async def wait(self, timeout_seconds: float = float("inf"), *, progress: bool = False) -> "AsyncClientJob":
        """Wait for the end of the job and return its record, as `ClientJob.wait` does."""
        return await self._client.wait(self.id, timeout_seconds, progress=progress)

    async def result(self, timeout_seconds: float = float("inf"), *, progress: bool = False) -> AnyJobResult:
        """Wait for the end of the job and return its result, as `ClientJob.result` does."""
        job = await self.wait(timeout_seconds, progress=progress)
        if not job.has_ended:
            raise JobTimeoutError(job, timeout_seconds)
        return await self._client._result_of(job)

    def interim_results(self) -> AsyncIterator[AnyJobResult]:
        """Yield what is known of a Lanczos spectrum while it is computed, then the result of the job."""
        return self._client.interim_results(self.id)

    async def request(self) -> dict[str, Any]:
        """Return the request of the job, to submit it again."""
        return await self._client.request(self.id)

    async def cancel(self) -> "AsyncClientJob":
        """Cancel the job; the record shows when it has ended."""
        return await self._client.cancel(self.id)

    async def delete(self) -> None:
        """Delete the job, which must have ended, and its result."""
        await self._client.delete(self.id)


class JobGroup(Sequence[ClientJob]):
    """Jobs that were submitted together, in the order of their requests.

    Args:
        jobs: The jobs.
        points: The values that each job has of the fields that vary, if the jobs are a grid.
    """

    def __init__(self, jobs: Iterable[ClientJob], points: Sequence[Mapping[str, Any]] | None = None) -> None:
        self._jobs = list(jobs)
        self.points: list[Mapping[str, Any]] = [{} for _ in self._jobs] if points is None else list(points)

    @overload
    def __getitem__(self, index: int) -> ClientJob: ...

    @overload
    def __getitem__(self, index: slice) -> "JobGroup": ...

    def __getitem__(self, index: int | slice) -> "ClientJob | JobGroup":
        if isinstance(index, slice):
            return JobGroup(self._jobs[index], self.points[index])
        return self._jobs[index]

    def __len__(self) -> int:
        return len(self._jobs)

    def __repr__(self) -> str:
        states = [job.state for job in self._jobs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        return f"JobGroup of {len(self)} jobs: {counts}"

    def wait(self, *, progress: bool = False) -> "JobGroup":
        """Wait for the end of all jobs.

        Args:
            progress: Whether to show one bar for all jobs, in a terminal or a notebook.

        Returns:
            The jobs with their last records.
        """
        with group_progress(Console(stderr=True), len(self), is_shown=progress) as show:
            ended = []
            for job in self._jobs:
                ended.append(job if job.has_ended else job.wait())
                show(len(ended))
        return JobGroup(ended, self.points)

    @overload
    def results(self, *, progress: bool = False, return_errors: Literal[False] = False) -> list[AnyJobResult]: ...

    @overload
    def results(
        self, *, progress: bool = False, return_errors: bool
    ) -> list[AnyJobResult | JobFailedError | ProblemResponseError]: ...

    def results(self, *, progress: bool = False, return_errors: bool = False) -> list[Any]:
        """Wait for the end of all jobs and return their results.

        Args:
            progress: Whether to show one bar for all jobs.
            return_errors: Whether the list has the error of a job without a result in its place, as `asyncio.gather`
                has with `return_exceptions`.

        Returns:
            The results, in the order of the requests.

        Raises:
            JobFailedError: If a job ends without a result, unless errors are returned.
            ProblemResponseError: If the server no longer has a result, unless errors are returned.
        """
        results: list[Any] = []
        for job in self.wait(progress=progress):
            try:
                results.append(job.result())
            except (JobFailedError, ProblemResponseError) as error:
                if not return_errors:
                    raise
                results.append(error)
        return results

    def cancel(self) -> "JobGroup":
        """Cancel the jobs that have not ended."""
        return JobGroup([job if job.has_ended else job.cancel() for job in self._jobs], self.points)


def requests_of(
    requests: Body | Sequence[Body], over: Mapping[str, Sequence[Any]] | None
) -> tuple[list[Body], list[dict[str, Any]] | None]:
    """Expand the arguments of `submit_many`.

    Args:
        requests: Requests, or with `over` the fields that the jobs of a grid have in common.
        over: Values by the path of a field.

    Returns:
        The request of each job, and the values of each at the point of the grid; None without a grid.

    Raises:
        TypeError: If an argument is no request, a grid is to vary several requests, or values are no list.
        ValueError: If a list of values is empty, or a path names no field.
    """
    if over is None:
        if isinstance(requests, BaseModel | Mapping):
            return [requests], None
        if not isinstance(requests, Iterable) or isinstance(requests, str | bytes):
            endpoints.check_request(requests, "requests")
        return [endpoints.check_request(each, f"requests[{index}]") for index, each in enumerate(requests)], None
    base = requests.model_dump(mode="json", exclude_none=True) if isinstance(requests, BaseModel) else requests
    if not isinstance(base, Mapping):
        raise TypeError("a grid varies fields of one request: requests must be one, not several")
    if not isinstance(over, Mapping):
        raise TypeError(f"over must be a dictionary of values by the path of a field, not {type(over).__name__}")
    axes = {path: _axis(path, values) for path, values in over.items()}
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return [_with_values(base, point) for point in points], points


def _axis(path: str, values: Any) -> list[Any]:
    """Return the values of a field in a grid; those of an array of numpy as numbers of Python."""
    if not isinstance(path, str) or not all(path.split(".")):
        raise ValueError(f"over has {path!r}, which is not the path of a field such as 'model.seed'")
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, Iterable) or isinstance(listed, str | bytes | Mapping):
        raise TypeError(f"over[{path!r}] must be a list of values, not {type(values).__name__}")
    if not (axis := list(listed)):
        raise ValueError(f"over[{path!r}] has no values")
    return axis


def batches_of(
    requests: Sequence[Body], *, idempotency_key: str | None, fresh: bool
) -> Iterator[ApiRequest[list[Job]]]:
    """Yield batches of as many jobs as the server accepts together.

    Args:
        requests: The request of each job.
        idempotency_key: Key of the first batch; those of the others have a number in addition.
        fresh: Whether to compute even if an equal request has a stored result.
    """
    for number, start in enumerate(range(0, len(requests), MAX_BATCH_JOBS)):
        key = idempotency_key if idempotency_key is None or number == 0 else f"{idempotency_key}-{number}"
        yield endpoints.submit_batch(requests[start : start + MAX_BATCH_JOBS], idempotency_key=key, fresh=fresh)


def _with_values(base: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the request with these values at these paths."""
    request = dict(base)
    for path, value in point.items():
        *parents, name = path.split(".")
        fields = request
        for parent in parents:
            inner = fields.get(parent)
            if inner is not None and not isinstance(inner, Mapping):
                raise ValueError(
                    f"over has {path!r}, but {parent} in the request is {shortened(inner)}, which has no fields"
                )
            fields[parent] = dict(inner or {})
            fields = fields[parent]
        fields[name] = value
    return request
