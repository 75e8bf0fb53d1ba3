"""`python benchmarks/echo_server.py PORT`: answers every request with its body, on the HTTP server of the service.

It imports nothing of the benchmarks, so that an earlier build can run it, too.
"""

import sys

from starlette.types import Receive, Scope, Send

from hessian_spectrum.service.__main__ import serve


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    serve(echo, host="127.0.0.1", port=int(sys.argv[1]))  # type: ignore[arg-type]
