"""Forms in which a result can be had: JSON, npz, and pictures."""

from functools import lru_cache

from hessian_spectrum.api_schemas.problem import Problem
from hessian_spectrum.service.problems import ProblemError

MEDIA_TYPES = {
    "json": "application/json",
    "npz": "application/x-npz",
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
}


@lru_cache(maxsize=64)
def accepted_format(accept: str | None, choice: tuple[str, ...] = tuple(MEDIA_TYPES)) -> str | None:
    """The format of the choice that an Accept header prefers, its first where it says nothing, None without any."""
    if not accept:
        return choice[0]
    ranked = sorted((_quality(part), -index, part) for index, part in enumerate(accept.split(",")[:32]))
    for quality, _, part in reversed(ranked):
        wanted = part.split(";")[0].strip().lower()
        for name in choice:
            media_type = MEDIA_TYPES[name]
            if quality > 0 and wanted in (media_type, media_type.split("/")[0] + "/*", "*/*"):
                return name
    return None


def require_format(accept: str | None, choice: tuple[str, ...] = tuple(MEDIA_TYPES)) -> str:
    """The format of the choice that an Accept header prefers.

    Raises:
        ProblemError: 406 if it is none of them.
    """
    name = accepted_format(accept, choice)
    if name is None:
        raise not_acceptable(choice)
    return name


def not_acceptable(choice: tuple[str, ...]) -> ProblemError:
    """Error 406 that says which formats there are."""
    names = ", ".join(MEDIA_TYPES[name] for name in choice)
    return ProblemError(Problem(title="Not acceptable", status=406, detail=f"a result can be had as {names}"))


def _quality(part: str) -> float:
    for parameter in part.split(";")[1:]:
        key, _, value = parameter.strip().partition("=")
        if key == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
