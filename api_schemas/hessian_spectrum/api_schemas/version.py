"""The version of this project's distributions, which are released together, and the server's message about it."""

from pydantic import Field

from hessian_spectrum.api_schemas.message import Message

__version__ = "0.2.0"


class Version(Message):
    """Release of the server and digest of the code that it runs."""

    version: str = Field(description="Release of the server, as in 1.2.0.")
    code_version: str = Field(
        description="SHA-256 of the sources that service and workers share; workers report the same as source_version."
    )
