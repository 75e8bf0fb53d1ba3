"""What no HTTP library would send: bytes on a connection, and how they must be answered."""

from collections.abc import Callable, Iterator

_HOST = b"Host: 127.0.0.1\r\n"
_TO_CLOSED_FORM = b"POST /v1/closed-form HTTP/1.1\r\n" + _HOST
_POST = _TO_CLOSED_FORM + b"Content-Type: application/json\r\n"
_NPZ = _TO_CLOSED_FORM + b"Content-Type: application/x-npz\r\n"
_FORM = _TO_CLOSED_FORM + b"Content-Type: multipart/form-data; boundary=b\r\n"
_CHUNKS_OF_NPZ = b"Transfer-Encoding: chunked\r\n\r\n" + b"a\r\nPK\x03\x04567890\r\n" * 2 + b"0\r\n\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"


def hostile_messages() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and maker of each message; all deserve 4xx, or a closed connection where nobody can tell what was meant."""
    get = b"GET /v1/health/live HTTP/1.1\r\n"
    messages = {
        "no-http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        "redis": b"*1\r\n$8\r\nFLUSHALL\r\n\r\n",
        "http-0.9": b"GET /\r\n\r\n",
        "no-host": get + b"\r\n",
        "two-hosts": get + _HOST + b"Host: other\r\n\r\n",
        "null-in-path": b"GET /v1/\0health HTTP/1.1\r\n" + _HOST + b"\r\n",
        "null-in-header": get + _HOST + b"X: a\0b\r\n\r\n",
        "blank-before-colon": get + _HOST + b"X : a\r\n\r\n",
        "header-without-colon": get + _HOST + b"nonsense\r\n\r\n",
        "two-lengths": _POST + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\n{}",
        "length-and-chunks": _POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "npz-longer-than-its-length": _NPZ + b"Content-Length: 5\r\n" + _CHUNKS_OF_NPZ,
        "form-longer-than-its-length": _FORM + b"Content-Length: 1\r\n" + _CHUNKS_OF_NPZ,
        "length-negative": _POST + b"Content-Length: -1\r\n\r\n",
        "length-of-many-digits": _POST + b"Content-Length: " + b"9" * 4000 + b"\r\n\r\n",
        "length-hexadecimal": _POST + b"Content-Length: 0x10\r\n\r\n" + b"{}" * 8,
        "length-signed": _POST + b"Content-Length: +2\r\n\r\n{}",
        "encoding-unknown": _POST + b"Transfer-Encoding: gzip\r\n\r\n{}",
        "encoding-twice": _POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "chunk-of-2-64": _CHUNKED + b"FFFFFFFFFFFFFFFFF\r\n{}",
        "chunk-negative": _CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
        "chunk-nonsense": _CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
        "chunk-without-end": _CHUNKED + b"2\r\n{}XX0\r\n\r\n",
    }
    for name, message in messages.items():
        yield name, lambda message=message: message
    yield "chunk-extension-of-1-mb", lambda: _CHUNKED + b"2;" + b"a" * 2**20 + b"\r\n{}\r\n0\r\n\r\n"
    yield "path-of-1-mb", lambda: b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\n" + _HOST + b"\r\n"
    yield "header-of-1-mb", lambda: get + _HOST + b"X: " + b"a" * 2**20 + b"\r\n\r\n"
    yield "100000-headers", lambda: get + _HOST + b"X: a\r\n" * 100_000 + b"\r\n"
    yield "headers-without-end", lambda: get + _HOST + b"X: a\r\n" * 100_000
