"""Fixed rules of the service; settings that an operator may change are in `ServiceSettings`."""

API_PREFIX = "/v1"
HEALTH_PREFIX = f"{API_PREFIX}/health/"

MAX_SHARE_PER_KEY = 0.75
"""Largest share of a common resource (request slots, disk space for uploads) that one API key may hold."""

_PUBLIC_PATHS = frozenset(
    {"/", "/docs", "/openapi.json", f"{API_PREFIX}/version", f"{HEALTH_PREFIX}live", f"{HEALTH_PREFIX}ready"}
)
PAGE_FILES = "/page/"

_PUBLIC_PREFIXES = ("/static-offline-docs/", PAGE_FILES)


def is_public(path: str) -> bool:
    """Return whether a path never requires an API key; where the server has keys, every other path requires one."""
    return path in _PUBLIC_PATHS or path.startswith(_PUBLIC_PREFIXES)
