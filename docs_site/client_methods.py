"""Methods of the Python client for its reference: in the source they are `Endpoint(endpoints.submit)` and the like.

`Endpoint` gives each of them the arguments and the documentation of the function in its argument. Static analysis sees
neither, so here the attributes are replaced by functions that have both.
"""

from typing import Any

import griffe

_CLIENT = "hessian_spectrum.client"


class EndpointMethods(griffe.Extension):
    """Replaces endpoints of the client's base class by methods with the signatures that they have when called."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Replace the endpoints once the package is loaded."""
        if pkg.path != _CLIENT.partition(".")[0]:
            return
        client = pkg["client.client_base.ClientBase"]
        for name, attribute in list(client.members.items()):
            if attribute.is_attribute and str(attribute.value).startswith("Endpoint("):
                client.set_member(name, _method(name, pkg[f"client.endpoints.{name}"], attribute))


def _method(name: str, request: griffe.Function, attribute: griffe.Attribute) -> griffe.Function:
    """Return a method with the arguments of the function that makes the request, and the type of the answer."""
    answer = request.returns.slice if isinstance(request.returns, griffe.ExprSubscript) else request.returns
    client = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    return griffe.Function(
        name,
        parameters=griffe.Parameters(client, *request.parameters),
        returns=answer,
        docstring=request.docstring,
        lineno=attribute.lineno,
        endlineno=attribute.endlineno,
        analysis="static",
    )
