"""What every address does with its query."""

from fastapi import Request
from fastapi.dependencies.models import Dependant

from service.near_names import unknown_name
from service.problems import invalid_query


async def refuse_unknown_parameters(request: Request) -> None:
    """Refuse a parameter that the address does not have, which would be ignored otherwise.

    A dependency of the whole application. Asynchronous, since FastAPI starts a thread for one that is not.

    Raises:
        ProblemError: 422, with the name of the parameter that may have been meant.
    """
    if not request.scope["query_string"]:
        return
    known = _names(request.scope["route"].dependant)
    for name in request.query_params:
        if name not in known:
            raise invalid_query(name, unknown_name("parameter", name, known))


def _names(dependant: Dependant) -> list[str]:
    """Of the parameters that a handler takes itself, and of those that what it depends on does."""
    own = [parameter.alias for parameter in dependant.query_params]
    return own + [name for each in dependant.dependencies for name in _names(each)]
