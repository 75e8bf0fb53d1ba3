"""Look-up of single header fields of requests, which are a list of pairs in ASGI."""

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a header field of a request; None without one.

    Mappings such as Starlette's `Headers` take several calls for each look-up, of which a request has a dozen.

    Args:
        scope: The ASGI scope of the request.
        name: The name in lower case.
    """
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the header fields of a request, with the first value of each; names are in lower case."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


def media_type(scope: Scope) -> str:
    """Return the media type of the body, in lower case and without parameters; empty if the headers name none."""
    return (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
