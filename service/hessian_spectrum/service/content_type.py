"""What a body says it is."""

from collections.abc import Mapping

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError

JSON = "application/json"


def media_type(headers: Mapping[str, str]) -> str:
    """The media type of the body, lower case and without parameters; empty where the headers name none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def require_identity(headers: Mapping[str, str]) -> None:
    """Raises:  ProblemError 415 for a body that is compressed as a whole."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        problem = Problem(
            type="/problems/unsupported-encoding",
            title="Unsupported content encoding",
            status=415,
            detail="Send the body without Content-Encoding; the members of an npz may be deflated.",
        )
        raise ProblemError(problem)


def unsupported_media_type(*accepted: str) -> ProblemError:
    """Error 415 that says what is accepted."""
    detail = f"Send the body with the header Content-Type: {' or '.join(accepted)}."
    problem = Problem(
        type="/problems/unsupported-media-type", title="Unsupported media type", status=415, detail=detail
    )
    return ProblemError(problem)
