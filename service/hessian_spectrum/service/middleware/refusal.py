"""How a middleware answers a request that it does not pass on."""

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from hessian_spectrum.service.problems import ProblemError, problem_response


async def refuse(refusal: ProblemError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the request with a problem; its body is not read."""
    response = problem_response(Request(scope), refusal.problem, refusal.headers)
    await response(scope, receive, send)
