"""Tokens of pages: where a list goes on."""

import base64
from typing import Annotated

from fastapi import Query

from hessian_spectrum.api_schemas.patterns import described

_TOKEN = described(r"^[A-Za-z0-9_-]{21}[AQgw]$", "must be the next_page_token of another page")

PageToken = Annotated[str | None, Query(pattern=_TOKEN, description="`next_page_token` of the page before")]
"""16 bytes in the alphabet of URLs; of the last character only two bits count."""


def token_of_id(last: str) -> str:
    """The token that leads on from these 32 hexadecimal digits."""
    return base64.urlsafe_b64encode(bytes.fromhex(last)).decode().rstrip("=")


def id_of_token(token: str | None) -> str | None:
    """The 32 hexadecimal digits that a token stands for."""
    return None if token is None else base64.urlsafe_b64decode(f"{token}==").hex()
