"""The tasks of the process pool by name; each takes arguments that JSON can hold, and bytes."""

import json
import logging
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import hessian_spectrum.results.plots.closed_form  # noqa: F401 - before the first task, as loading it takes a second
import hessian_spectrum.results.plots.drawings  # noqa: F401
import hessian_spectrum.results.plots.random_matrix  # noqa: F401
from hessian_spectrum.api_schemas.artifacts import CONTEXT as ARTIFACTS
from hessian_spectrum.api_schemas.checkpoints import CONTEXT as CHECKPOINTS
from hessian_spectrum.api_schemas.checkpoints import CheckpointVerdict, UnknownCheckpointError
from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.api_schemas.experiments.series import SeriesResult, merged_series
from hessian_spectrum.api_schemas.jobs import AnyJobRequest, JobRequest
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.random_matrix import RandomMatrixRequest
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.jobs.plans import stored_plan
from hessian_spectrum.results.plots.figure_style import FIGURE_FORMATS, FigureStyle
from hessian_spectrum.results.plots.trace import diagonal_sample
from hessian_spectrum.service.admission import Admission
from hessian_spectrum.service.auth import Principal
from hessian_spectrum.service.job_service import Submission
from hessian_spectrum.service.problems import ProblemError, problem_for
from hessian_spectrum.service.process_pool.worker import Reply
from hessian_spectrum.service.request_parsing import parse_body
from hessian_spectrum.service.result_integrity import ResultVerifier
from hessian_spectrum.service.routes import closed_form, closed_form_batch, random_matrix
from hessian_spectrum.service.serialization.render import has_diagonal, parse_result, render, stored_arrays
from hessian_spectrum.service.serialization.resmooth import SmoothingOverrides, resmooth
from hessian_spectrum.service.uploads.artifact_service import ArtifactQuota, ArtifactService
from hessian_spectrum.storage.results import ResultDamagedError, ResultStore
from hessian_spectrum.storage.stores import Stores, open_stores

Arguments = Mapping[str, Any]

_logger = logging.getLogger(__name__)


def run_task(head: bytes, content: bytes) -> Reply:
    """Run the task of a message; errors become the problem that a route would answer."""
    message = json.loads(head)
    try:
        return _TASKS[message["task"]](message["arguments"], content)
    except Exception as error:
        known = problem_for(error)
        if known is None:
            _logger.exception("unexpected error in a task of the process pool")
            return Reply(problem=Problem(title="Internal error", status=500))
        return Reply(problem=known.problem, headers=known.headers)


def _result(arguments: Arguments, _content: bytes) -> Reply:
    """Render the result of a job in the format `name`.

    Returns:
        The bytes of the response; or, in the field `arrays`, the description of the npz file beside the document; or,
        in the field `damaged`, what is missing.
    """
    digest, name = arguments["digest"], arguments["name"]
    results, verifier = _results(arguments["results_dir"], arguments["storage_url"])
    diagonal = None
    try:
        result = resmooth(parse_result(results.read(digest)), SmoothingOverrides(**arguments["changes"]))
        if name == "npz" and (stored := stored_arrays(result)) is not None:
            return Reply({"arrays": {"sha256": stored.sha256, "num_bytes": stored.num_bytes}})
        if name in FIGURE_FORMATS and has_diagonal(result):
            verifier.verify(digest)
            diagonal = diagonal_sample(partial(results.mapped_array, digest))
    except ResultDamagedError as error:
        return Reply({"damaged": str(error)})
    return Reply({}, render(result, name, FigureStyle(**arguments["style"]), diagonal=diagonal))


def _series(arguments: Arguments, _content: bytes) -> Reply:
    """Render the points of all jobs of a series; a job whose result has gone meanwhile is left out."""
    results, _ = _results(arguments["results_dir"], arguments["storage_url"])
    parts = []
    for job_id, digest in arguments["jobs"]:
        try:
            parts.append((job_id, parse_result(results.read(digest))))
        except (ResultDamagedError, ProblemError) as error:
            _logger.warning("job %s is left out of its series: %s", job_id, error)
    own = [(job_id, part) for job_id, part in parts if isinstance(part, SeriesResult)]
    if not own:
        return Reply({"damaged": "the results of the series are missing"})
    series = merged_series(own)
    return Reply({}, render(series, arguments["name"], FigureStyle(**arguments["style"])))


def _closed_form(arguments: Arguments, content: bytes) -> Reply:
    message, style = parse_body(content, ClosedFormRequest), FigureStyle(**arguments["style"])
    return Reply({}, closed_form.render(message, arguments["name"], style))


def _closed_form_batch(arguments: Arguments, content: bytes) -> Reply:
    return Reply({}, closed_form_batch.render_items(content.split(b"\n"), arguments["first"]))


def _random_matrix(arguments: Arguments, content: bytes) -> Reply:
    message, style = parse_body(content, RandomMatrixRequest), FigureStyle(**arguments["style"])
    return Reply({}, random_matrix.render(message, arguments["name"], style))


def _model(arguments: Arguments, _content: bytes) -> Reply:
    """Describe a checkpoint, with the digests of its files; the reply is empty if it has disappeared meanwhile."""
    models = _models(arguments["models_dir"])
    try:
        model = models.describe(arguments["name"])
    except UnknownCheckpointError:
        return Reply()
    return Reply({"digests": models.digests.known()}, model.model_dump_json().encode())


def _submission(arguments: Arguments, content: bytes) -> Reply:
    """Return a job as it is stored, with its plan; `refusal` is the reason if it is not admitted."""
    request, admission = _job(arguments, content)
    submission = Submission.of(request)
    try:
        plan = admission.check(request)
    except ProblemError as error:
        verdict: dict[str, Any] = {"refusal": error.problem.model_dump(mode="json"), "plan": None}
    else:
        verdict = {"refusal": None, "plan": None if plan is None else stored_plan(plan)}
    return Reply({**submission.fields, **verdict}, submission.text.encode())


def _estimate(arguments: Arguments, content: bytes) -> Reply:
    request, admission = _job(arguments, content)
    return Reply({}, admission.estimate(request).model_dump_json().encode())


def _job(arguments: Arguments, content: bytes) -> tuple[AnyJobRequest, Admission]:
    caller = Principal(owner=arguments["owner"], is_admin=arguments["is_admin"])
    stores = _stores(arguments["results_dir"], arguments["storage_url"])
    quota = ArtifactQuota(max_bytes=arguments["uploads_bytes"], max_number=arguments["max_artifacts"])
    artifacts = ArtifactService(store=stores.artifacts, owners=stores.artifact_owners, principal=caller, quota=quota)
    verdicts = _Verdicts(arguments["verdicts"])
    models = _models(arguments["models_dir"]).with_verdicts(verdicts)
    models.digests.learn(arguments["digests"])  # computing them again may take longer than a caller waits
    context = {CHECKPOINTS: models, ARTIFACTS: artifacts}
    admission = Admission(lambda: arguments["available_bytes"], artifacts, arguments["job_seconds"])
    return parse_body(content, JobRequest, context).root, admission


class _Verdicts:
    """Verdicts of workers on the checkpoints that the body names, by "kind sha256"; implements `Verdicts`."""

    def __init__(self, verdicts: Mapping[str, Any]) -> None:
        self._verdicts = verdicts

    def of(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        """Return the verdict on a checkpoint; None if no worker has tried it."""
        verdict = self._verdicts.get(f"{kind} {sha256}")
        return None if verdict is None else CheckpointVerdict.model_validate(verdict)


@lru_cache(maxsize=1)
def _stores(directory: str, url: str | None) -> Stores:
    return open_stores(Path(directory), url)


@lru_cache(maxsize=1)
def _results(directory: str, url: str | None) -> tuple[ResultStore, ResultVerifier]:
    results = _stores(directory, url).results
    return results, ResultVerifier(results)


@lru_cache(maxsize=1)
def _models(path: str | None) -> ModelsDirectory:
    return ModelsDirectory(None if path is None else Path(path))


_TASKS: Mapping[str, Callable[[Arguments, bytes], Reply]] = {
    "result": _result,
    "series": _series,
    "closed-form": _closed_form,
    "closed-form-batch": _closed_form_batch,
    "random-matrix": _random_matrix,
    "model": _model,
    "submission": _submission,
    "estimate": _estimate,
}
