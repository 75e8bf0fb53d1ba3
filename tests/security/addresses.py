"""Addresses, queries, methods and headers that lead nowhere."""

import json
from collections.abc import Iterator

from tests.security.attack import Attack
from tests.security.bodies import JOB, JOBS

TRAVERSALS = {
    "parents": "..%2f..%2f..%2fetc%2fpasswd",
    "parents-twice-encoded": "%252e%252e%252fetc%252fpasswd",
    "absolute": "%2fetc%2fpasswd",
    "null": "0" * 31 + "%00",
    "line-end": "0" * 32 + "%0a",
    "line-ends": "0" * 32 + "%0d%0aSet-Cookie:%20a=b",
    "wide": "%ef%bc%90" * 32,
    "not-unicode": "%ff" * 32,
    "glob": "*",
    "redis": "a%0d%0aFLUSHALL%0d%0a",
    "lua": "%22)%20redis.call('FLUSHALL')--",
    "format": "%25n%25s{0.__class__}",
    "capitals": "A" * 32,
    "long": "0" * 30_000,
}
QUERIES = {
    "token-junk": "page_token=!!!!",
    "token-short": "page_token=AAAA",
    "token-long": "page_token=" + "A" * 20_000,
    "token-of-lua": "page_token=%22)--AAAAAAAAAAAAAAAAA",
    "token-with-line-end": "page_token=" + "A" * 22 + "%0a",
    "size-zero": "page_size=0",
    "size-negative": "page_size=-1",
    "size-huge": "page_size=1000000000000000000000000",
    "size-digits": "page_size=" + "9" * 6000,
    "size-text": "page_size=all",
    "state": "state=sleeping",
    "state-key": "state=all%0d%0aDEL",
    "tag": "tag=nocolon",
    "tag-long": "tag=" + "a" * 10_000 + ":b",
}
NO_JOB = "0" * 32


def hostile_addresses() -> Iterator[Attack]:
    """Attacks by address, query, method or header; those that name a job name none that is there."""
    for name, text in TRAVERSALS.items():
        for folder in ("jobs", "artifacts", "models"):
            yield Attack(f"{folder}-{name}", f"/v1/{folder}/{text}", method="GET", media_type=None)
        yield Attack(f"delete-job-{name}", f"/v1/jobs/{text}", method="DELETE", media_type=None)
        yield Attack(f"delete-artifact-{name}", f"/v1/artifacts/{text}", method="DELETE", media_type=None)
        yield Attack(f"cancel-{name}", f"/v1/jobs/{text}/cancel", media_type=None)
        yield Attack(f"suffix-{name}", f"/v1/jobs/{NO_JOB}/result.{text}", method="GET", media_type=None)
    for name, query in QUERIES.items():
        yield Attack(f"query-{name}", f"/v1/jobs?{query}", method="GET", media_type=None)
    for name in ("1e9", "-1", "nan", "inf", "60.001", "1" * 5000, "wait"):
        yield Attack(f"wait-{name[:9]}", f"/v1/jobs/{NO_JOB}?wait={name}", method="GET", media_type=None)
    for name in ("num_points=1000000000", "num_points=1.5", "kappa=nan", "kappa=0", "margin=-1", "margin=1e99"):
        yield Attack(f"smooth-{name}", f"/v1/jobs/{NO_JOB}/result?{name}", method="GET", media_type=None)
    for method in ("PUT", "PATCH", "TRACE", "CONNECT", "PROPFIND", "HEAD", "OPTIONS", "LINK", "A" * 200):
        yield Attack(f"method-{method[:9]}", JOBS, method=method, media_type=None)
    for path in (
        "/.env",
        "/.git/config",
        "/v1/../etc/passwd",
        "//etc/passwd",
        "/static-offline-docs/..%2f..%2fapp.py",
        "/v1/jobs;a=b",
        "/v1/%6a%6f%62%73/x",
        "/metrics/../v1/x",
        "/admin",
        "/v2/jobs",
        "/v1/" + "a/" * 5000,
    ):
        yield Attack(f"path-{path[:24]}", path, method="GET", media_type=None)
    headers = {
        "key-empty": {"Idempotency-Key": ""},
        "key-long": {"Idempotency-Key": "a" * 256},
        "key-huge": {"Idempotency-Key": "a" * 30_000},
        "cookie-of-50-kb": {"Cookie": "a=" + "b" * 50_000},
        "many": {f"X-{index}": "a" * 100 for index in range(900)},
    }
    for name, fields in headers.items():
        body = json.dumps(JOB).encode()
        # whose JSON is refused even where nothing is wrong with the headers
        wanted = body if name.startswith("key") else body[:-1]
        yield Attack(f"header-{name}", JOBS, lambda wanted=wanted: wanted, headers=fields, statuses=(400, 422, 431))
