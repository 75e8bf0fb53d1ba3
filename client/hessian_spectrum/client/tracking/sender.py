"""Sending of what a spool holds: files first, then the points that refer to them, and only then are files removed."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from hessian_spectrum.api_schemas.jobs import Job
from hessian_spectrum.client import endpoints
from hessian_spectrum.client.client_base import ClientBase
from hessian_spectrum.client.data_sets import parts_reference
from hessian_spectrum.client.errors import ProblemResponseError, SpectrumClientError
from hessian_spectrum.client.retries import is_transient
from hessian_spectrum.client.tracking.points import Point
from hessian_spectrum.client.tracking.spool import Batch, Spool

_OF_MISSING_FILES = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.UNPROCESSABLE_ENTITY}


class Sender:
    """Sends the points of a spool in batches, in order; nothing that the server has is sent again.

    Args:
        client: Synchronous client of the server.
        spool: The spool, which holds a run.

    Attributes:
        job_ids: Ids of the jobs that measure the points.
    """

    def __init__(self, client: ClientBase[Any], spool: Spool) -> None:
        self._client, self._spool = client, spool
        self.job_ids: list[str] = []
        self._uploaded: set[str] = set()
        self._last: Point | None = None  # that the server has acknowledged
        # an earlier process, or a try whose answer was lost, may have uploaded these
        self._is_doubtful = spool.digests()

    def send_batch(self) -> int:
        """Send the next batch.

        Returns:
            The number of points that the server has acknowledged; 0 if none wait.

        Raises:
            SpectrumClientError: If the server does not answer or refuses a request; the points stay in the spool.
            SpoolClosedError: If the spool was left to others meanwhile.
        """
        while (batch := self._spool.batch) is None:
            points = self._spool.first_points()
            if not points:
                return 0
            self._prepare(points)
        job_id = self._submit(batch)
        self._spool.acknowledge(batch)
        self._last = batch.points[-1]
        self.job_ids.append(job_id)
        self._uploaded = {each for each in self._uploaded if self._spool.holds(each)}
        return len(batch.points)

    def _prepare(self, points: list[Point]) -> None:
        """Upload the files of points, and make a batch of those that the limit of the disk has not dropped meanwhile.

        The batch is made last, because its points are no longer dropped, however long the server is away.

        Raises:
            FileNotFoundError: If somebody else has removed a file.
        """
        assert self._spool.run is not None
        for digest in self._spool.run.parts:
            self._upload_once(digest)
        uploaded = []
        for point in points:
            try:
                self._upload_once(point.parameters)
            except FileNotFoundError:
                if self._spool.holds(point.parameters):
                    raise
            else:
                uploaded.append(point)
        if self._spool.program_id is None:
            self._upload_program()
        self._spool.make_batch(uploaded, self._last)

    def _submit(self, batch: Batch) -> str:
        """Post the points; files that the server has removed since their upload are sent again first."""
        try:
            return self._post(batch)
        except ProblemResponseError as error:
            if error.problem.status not in _OF_MISSING_FILES or not self._upload_missing(batch):
                raise
        return self._post(self._spool.batch or batch)

    def _post(self, batch: Batch) -> str:
        job: Job = self._client._run(endpoints.submit(self._request(batch), idempotency_key=batch.key))
        return job.id

    def _digests(self, batch: Batch) -> Iterator[str]:
        """Yield the digests of the files of data and parameters that a request refers to."""
        assert self._spool.run is not None
        yield from self._spool.run.parts
        yield from (each.parameters for each in batch.points)

    def _request(self, batch: Batch) -> dict[str, Any]:
        run = self._spool.run
        assert run is not None
        fields = dict(run.request)
        if len(run.parts) == 1:
            fields["data"] = _reference(run.parts[0])
        elif run.parts:
            fields["data"] = parts_reference(list(run.parts))
        points = [
            {"step": each.step, "parameters": _reference(each.parameters), "learning_rate": each.learning_rate}
            for each in (*([] if batch.before is None else [batch.before]), *batch.points)
        ]
        model = {"kind": "exported", "program": _reference(self._spool.program_id)}
        return {"kind": "series", "name": run.name, "points": points, "model": model, **fields}

    def _upload_once(self, digest: str) -> None:
        if digest in self._uploaded:
            return
        if digest not in self._is_doubtful or not self._is_stored(digest):
            self._is_doubtful.add(digest)
            self._upload(digest)
        self._is_doubtful.discard(digest)
        self._uploaded.add(digest)

    def _upload(self, digest: str) -> None:
        self._client._run(endpoints.upload_arrays(self._spool.path(digest)))

    def _upload_program(self) -> None:
        self._spool.program_id = self._client._run(endpoints.upload_program(self._spool.program_path)).id

    def _upload_missing(self, batch: Batch) -> bool:
        """Upload the files that the server no longer has; return whether there were any."""
        found = False
        for digest in self._digests(batch):
            if not self._is_stored(digest):
                self._upload(digest)
                found = True
        if not self._is_stored(str(self._spool.program_id)):
            self._upload_program()
            found = True
        if batch.before is not None and not self._is_stored(batch.before.parameters):
            self._spool.without_point_before()
            found = True
        return found

    def _is_stored(self, artifact_id: str) -> bool:
        try:
            self._client._run(endpoints.artifact(artifact_id))
        except ProblemResponseError as error:
            if error.problem.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True


def may_be_repeated(error: SpectrumClientError) -> bool:
    """Return whether the same request may succeed later, also where the server asks to repeat it after a conflict."""
    if isinstance(error, ProblemResponseError) and error.problem.status == HTTPStatus.CONFLICT:
        return error.retry_after_seconds is not None
    return is_transient(error)


def _reference(artifact_id: str | None) -> dict[str, Any]:
    return {"kind": "artifact", "id": artifact_id}
