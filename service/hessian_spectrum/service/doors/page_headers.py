"""What browsers are told of every answer."""

import base64
import hashlib
import re

_NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

RawHeaders = list[tuple[bytes, bytes]]

PAGE_HEADERS: dict[str, str] = {
    "Content-Security-Policy": f"{_NOTHING}; style-src 'unsafe-inline'; img-src data:",  # what an SVG picture needs
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of an answer that does not say otherwise."""


def documentation_policy(page: bytes) -> str:
    """The policy under which the page of the documentation works: its own script, and files of this server."""
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts)
    return (
        f"{_NOTHING}; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'"
    )


def completed(given: RawHeaders, wanted: dict[str, str]) -> RawHeaders:
    """The headers of an answer, and those that are wanted and not among them."""
    names = {name.lower() for name, _ in given}
    return [
        *given,
        *((name.encode(), text.encode()) for name, text in wanted.items() if name.lower().encode() not in names),
    ]
