"""What processes that do heavy work can do: by name, from arguments that JSON can hold and bytes."""

import json
import logging
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from hessian_spectrum.api_schemas.artifacts import CONTEXT as ARTIFACTS
from hessian_spectrum.api_schemas.checkpoints import CONTEXT as CHECKPOINTS
from hessian_spectrum.api_schemas.checkpoints import CheckpointVerdict, UnknownCheckpointError
from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.api_schemas.job_requests import AnyJobRequest, JobRequest
from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.api_schemas.random_matrix import RandomMatrixRequest
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.jobs.planner import stored_plan
from hessian_spectrum.service.admission import Admission
from hessian_spectrum.service.auth.principal import Principal
from hessian_spectrum.service.bodies import read
from hessian_spectrum.service.formats import closed_form, random_matrix
from hessian_spectrum.service.formats.resmoothing import SmoothingChange, smoothed
from hessian_spectrum.service.formats.result import has_diagonal, represented, result_of, stored_arrays
from hessian_spectrum.service.heavy.messages import Reply
from hessian_spectrum.service.pictures.diagonal import diagonal_sample
from hessian_spectrum.service.pictures.sheet import PICTURES, Style
from hessian_spectrum.service.problems import ProblemError, translated
from hessian_spectrum.service.submission import Submission
from hessian_spectrum.service.uploads.artifact_service import ArtifactQuota, ArtifactService
from hessian_spectrum.service.whole_results import WholeResults
from hessian_spectrum.storage.results import ResultDamagedError, ResultStore
from hessian_spectrum.storage.stores import Stores, open_stores

Arguments = Mapping[str, Any]

_logger = logging.getLogger(__name__)


def done(head: bytes, content: bytes) -> Reply:
    """The answer to a message: what its task makes of it, or the problem that it has with it."""
    message = json.loads(head)
    try:
        return _TASKS[message["task"]](message["arguments"], content)
    except Exception as error:
        problem = translated(error)
        if problem is None:
            _logger.exception("unforeseen error in heavy work")
            return Reply(problem=Problem(title="Internal error", status=500))
        return Reply(problem=problem.problem, headers=problem.headers)


def _result(arguments: Arguments, _content: bytes) -> Reply:
    """The result of a job in the form `name`.

    Fields: `arrays` where it is the file beside the document; `damaged` where there is none.
    """
    digest, name = arguments["digest"], arguments["name"]
    results, whole = _results(arguments["results_dir"], arguments["storage_url"])
    diagonal = None
    try:
        result = smoothed(result_of(results.read(digest)), SmoothingChange(**arguments["changes"]))
        if name == "npz" and (stored := stored_arrays(result)) is not None:
            return Reply({"arrays": {"sha256": stored.sha256, "num_bytes": stored.num_bytes}})
        if name in PICTURES and has_diagonal(result):
            whole.check(digest)
            diagonal = diagonal_sample(partial(results.mapped_array, digest))
    except ResultDamagedError as error:
        return Reply({"damaged": str(error)})
    return Reply({}, represented(result, name, Style(**arguments["style"]), diagonal))


def _closed_form(arguments: Arguments, content: bytes) -> Reply:
    message, style = read(content, ClosedFormRequest), Style(**arguments["style"])
    return Reply({}, closed_form.represented(message, arguments["name"], style))


def _random_matrix(arguments: Arguments, content: bytes) -> Reply:
    message, style = read(content, RandomMatrixRequest), Style(**arguments["style"])
    return Reply({}, random_matrix.represented(message, arguments["name"], style))


def _model(arguments: Arguments, _content: bytes) -> Reply:
    """What `describe` says of a checkpoint, and the digests; nothing of one that went away meanwhile."""
    models = _models(arguments["models_dir"])
    try:
        found = models.describe(arguments["name"])
    except UnknownCheckpointError:
        return Reply()
    return Reply({"digests": models.digests.known()}, found.model_dump_json().encode())


def _submission(arguments: Arguments, content: bytes) -> Reply:
    """A job as it is to be stored with its plan, and in `refusal` why it is not admitted."""
    request, admission = _asked(arguments, content)
    submission = Submission.of(request)
    try:
        plan = admission.check(request)
    except ProblemError as error:
        verdict: dict[str, Any] = {"refusal": error.problem.model_dump(mode="json"), "plan": None}
    else:
        verdict = {"refusal": None, "plan": None if plan is None else stored_plan(plan)}
    return Reply({**submission.fields, **verdict}, submission.text.encode())


def _estimate(arguments: Arguments, content: bytes) -> Reply:
    request, admission = _asked(arguments, content)
    return Reply({}, admission.estimated(request).model_dump_json().encode())


def _asked(arguments: Arguments, content: bytes) -> tuple[AnyJobRequest, Admission]:
    caller = Principal(owner=arguments["owner"], is_admin=arguments["is_admin"])
    stores = _stores(arguments["results_dir"], arguments["storage_url"])
    quota = ArtifactQuota(max_bytes=arguments["uploads_bytes"], max_number=arguments["max_artifacts"])
    artifacts = ArtifactService(stores.artifacts, stores.artifact_owners, caller, quota)
    verdicts = _Verdicts(arguments["verdicts"])
    models = _models(arguments["models_dir"]).with_verdicts(verdicts)
    models.digests.learn(arguments["digests"])  # to take them again may be longer than a caller waits
    context = {CHECKPOINTS: models, ARTIFACTS: artifacts}
    admission = Admission(lambda: arguments["available_bytes"], artifacts, arguments["job_seconds"])
    return read(content, JobRequest, context).root, admission


class _Verdicts:
    """What workers found of the checkpoints that the body names, by "kind sha256"; a `Verdicts`."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = found

    def of(self, sha256: str, kind: str) -> CheckpointVerdict | None:
        """None of others."""
        found = self._found.get(f"{kind} {sha256}")
        return None if found is None else CheckpointVerdict.model_validate(found)


@lru_cache(maxsize=1)
def _stores(directory: str, url: str | None) -> Stores:
    return open_stores(Path(directory), url)


@lru_cache(maxsize=1)
def _results(directory: str, url: str | None) -> tuple[ResultStore, WholeResults]:
    results = _stores(directory, url).results
    return results, WholeResults(results)


@lru_cache(maxsize=1)
def _models(path: str | None) -> ModelsDirectory:
    return ModelsDirectory(None if path is None else Path(path))


_TASKS: Mapping[str, Callable[[Arguments, bytes], Reply]] = {
    "result": _result,
    "closed-form": _closed_form,
    "random-matrix": _random_matrix,
    "model": _model,
    "submission": _submission,
    "estimate": _estimate,
}
