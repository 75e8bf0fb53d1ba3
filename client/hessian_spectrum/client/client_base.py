"""What the synchronous and the asynchronous client share: their arguments, and methods made from endpoints."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, get_args, overload

import httpx
from pydantic import SecretStr

from hessian_spectrum.api_schemas.artifacts import ArtifactPage
from hessian_spectrum.api_schemas.jobs import JobPage
from hessian_spectrum.client import endpoints
from hessian_spectrum.client.requests import DEFAULT_URL, ApiRequest, connection
from hessian_spectrum.client.retries import OutageRetry

HttpClient = TypeVar("HttpClient", httpx.Client, httpx.AsyncClient)
Page = TypeVar("Page", JobPage, ArtifactPage)
T = TypeVar("T")
P = ParamSpec("P")
Function = TypeVar("Function", bound=Callable[..., Any])


class Endpoint(Generic[P, T]):
    """Method of a client that sends the request of an endpoint and returns its answer; `AsyncSpectrumClient` awaits it.

    Args:
        request: Returns the request for given arguments; the method takes the same ones.
    """

    def __init__(self, request: Callable[P, ApiRequest[T]]) -> None:
        def send(client: "ClientBase[Any]", /, *arguments: P.args, **options: P.kwargs) -> Any:
            return client._run(request(*arguments, **options))

        async def send_async(client: "ClientBase[Any]", /, *arguments: P.args, **options: P.kwargs) -> Any:
            return await client._run(request(*arguments, **options))

        self._send, self._send_async = _documented(send, request), _documented(send_async, request)

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...

    @overload
    def __get__(self, client: "ClientBase[httpx.Client]", owner: type) -> Callable[P, T]: ...

    @overload
    def __get__(self, client: "ClientBase[httpx.AsyncClient]", owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, client: Any, owner: Any) -> Any:
        """Return the method, bound to a client unless it is accessed on the class."""
        method = self._send_async if owner.is_asynchronous else self._send
        return method if client is None else MethodType(method, client)


def _documented(method: Function, request: Callable[..., ApiRequest[Any]]) -> Function:
    """Give a method the name, the documentation and the signature of the function that makes its request."""
    signature = inspect.signature(request)
    (answer,) = get_args(signature.return_annotation)
    client = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [client, *signature.parameters.values()]
    method.__name__, method.__doc__ = request.__name__, request.__doc__
    method.__signature__ = signature.replace(parameters=parameters, return_annotation=answer)  # type: ignore[attr-defined]
    return method


class ClientBase(ABC, Generic[HttpClient]):
    """Arguments and connections of a client, and its methods that send a single request.

    Args:
        base_url: Address of the server.
        api_key: API key, for a server that requires one.
        patience_seconds: Longest time for which a call is repeated while the server is busy.
        outage_seconds: Longest outage for which `wait`, `events` and `run` continue, for example while the server
            restarts; a warning is logged when an outage begins.
        transport: What sends requests, as httpx has it; a `testing.FakeServer` answers them itself.
    """

    is_asynchronous: ClassVar[bool] = False
    """Whether methods are awaited."""

    closed_form = Endpoint(endpoints.closed_form)
    closed_form_file = Endpoint(endpoints.closed_form_file)
    closed_forms = Endpoint(endpoints.closed_forms)
    random_matrix = Endpoint(endpoints.random_matrix)
    random_matrix_file = Endpoint(endpoints.random_matrix_file)
    estimate = Endpoint(endpoints.estimate)
    request = Endpoint(endpoints.request)
    result = Endpoint(endpoints.result)
    result_file = Endpoint(endpoints.result_file)
    series = Endpoint(endpoints.series)
    series_file = Endpoint(endpoints.series_file)
    figures = Endpoint(endpoints.figures)
    delete = Endpoint(endpoints.delete)
    upload_file = Endpoint(endpoints.upload_file)
    upload_tokens = Endpoint(endpoints.upload_tokens)
    upload_arrays = Endpoint(endpoints.upload_arrays)
    upload_program = Endpoint(endpoints.upload_program)
    upload_module = Endpoint(endpoints.upload_module)
    upload_parameters = Endpoint(endpoints.upload_parameters)
    upload_data = Endpoint(endpoints.upload_data)
    artifact = Endpoint(endpoints.artifact)
    delete_artifact = Endpoint(endpoints.delete_artifact)
    models = Endpoint(endpoints.models)
    ready = Endpoint(endpoints.ready)

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        patience_seconds: float = 60.0,
        outage_seconds: float = 600.0,
        transport: Any = None,
    ) -> None:
        self.patience_seconds = patience_seconds
        self.outage_seconds = outage_seconds
        self._base_url, self._api_key = base_url, None if api_key is None else SecretStr(api_key)
        self._has_answered = False
        self._http: HttpClient = self._connect(**connection(base_url, api_key), transport=transport)

    @staticmethod
    @abstractmethod
    def _connect(**options: Any) -> HttpClient:
        """Return the client of httpx with these options."""

    @abstractmethod
    def _run(self, request: ApiRequest[Any], deadline: float = float("inf")) -> Any:
        """Return the answer of the server; while it is busy, the request is repeated until the deadline."""

    def _retry(self, job_id: str, deadline: float = float("inf")) -> OutageRetry:
        return OutageRetry(job_id, self.outage_seconds, is_known=self._has_answered, deadline=deadline)
