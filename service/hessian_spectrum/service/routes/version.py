"""`/v1/version`: the release of the server."""

import anyio.to_thread
from fastapi import APIRouter

from hessian_spectrum.api_schemas.health import Version
from hessian_spectrum.api_schemas.version import __version__
from hessian_spectrum.jobs.fingerprints import protocol_version
from hessian_spectrum.service.routes.parameters import StrictRoute

router = APIRouter(prefix="/version", tags=["health"], route_class=StrictRoute)


@router.get("", summary="Get the release of the server")
async def get_version() -> Version:
    """The release and a hash of its source; no key is needed."""
    return Version(version=__version__, code_version=await anyio.to_thread.run_sync(protocol_version))
