"""Bodies are JSON and say so."""

from fastapi import Request

from hessian_spectrum.service.content_type import JSON, media_type, unsupported_media_type


async def require_json(request: Request) -> None:
    """Raises:  ProblemError 415 for any other content type.

    Asynchronous, since FastAPI starts a thread for a dependency that is not.
    """
    if media_type(request.headers) != JSON:
        raise unsupported_media_type(JSON)
