"""Tokens of pages: where a list goes on."""

import base64

from service.problems import invalid_query


def token_of_id(last: str) -> str:
    """The token that leads on from these 32 hexadecimal digits."""
    return base64.urlsafe_b64encode(bytes.fromhex(last)).decode().rstrip("=")


def id_of_token(token: str | None) -> str | None:
    """The digits that a token stands for.

    Raises:  ProblemError 422 if this server made no such token.
    """
    if token is None:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) != 16:
        raise invalid_query("page_token", "is no token of this server")
    return raw.hex()
