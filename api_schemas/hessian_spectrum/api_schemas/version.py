"""The version of every distribution of this project, which are released together, and what a server states of it."""

from pydantic import Field

from hessian_spectrum.api_schemas.message import Message

__version__ = "0.2.0"


class Version(Message):
    """Release of the server and digest of the code that it runs."""

    version: str = Field(description="Release of the server, as in 1.2.0.")
    code_version: str = Field(
        description="SHA-256 of the sources that service and workers share; workers report the same as source_version."
    )
