"""Receivers of webhooks, named by host and port: those of URLs, and those that the operator lists."""

import re
from collections.abc import Container
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
_LISTED = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def receiver_of(url: str) -> str:
    """Name the receiver of a URL.

    Args:
        url: URL of the form that requests may have.

    Returns:
        Host and port.

    Raises:
        ValueError: There is no such port.
    """
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{_PORTS[parts.scheme] if parts.port is None else parts.port}"


def listed_receivers(text: str) -> frozenset[str]:
    """Read a list of receivers.

    Args:
        text: Hosts, separated by commas; one without a port stands for the standard ports of http and https.

    Returns:
        The receivers, as `receiver_of` names them.

    Raises:
        ValueError: An entry is neither a host nor a host with a port.
    """
    entries = [entry for part in text.split(",") if (entry := part.strip())]
    if not all(map(_LISTED.fullmatch, entries)):
        raise ValueError("must be hosts, each with a port or without one, separated by commas")
    return frozenset(receiver_of(f"{scheme}://{entry}") for entry in entries for scheme in _PORTS)


def is_receiver(url: str, receivers: Container[str]) -> bool:
    """Return whether the receiver of a URL is one of these."""
    try:
        return receiver_of(url) in receivers
    except ValueError:  # there is no such port
        return False
