"""Page tokens: where the next page of a list begins."""

import base64
from typing import Annotated

from fastapi import Query

from hessian_spectrum.api_schemas.message import described

_TOKEN = described(r"^[A-Za-z0-9_-]{21}[AQgw]$", "must be the next_page_token of another page")

PageToken = Annotated[str | None, Query(pattern=_TOKEN, description="`next_page_token` of the page before")]
"""16 bytes in URL-safe base64; only two bits of the last character count."""


def encode_page_token(last_id: str) -> str:
    """The token of the page that begins after an id of 32 hexadecimal digits."""
    return base64.urlsafe_b64encode(bytes.fromhex(last_id)).decode().rstrip("=")


def decode_page_token(token: str | None) -> str | None:
    """The id of 32 hexadecimal digits after which a page begins; None for the first page."""
    return None if token is None else base64.urlsafe_b64decode(f"{token}==").hex()
