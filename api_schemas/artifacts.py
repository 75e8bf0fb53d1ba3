"""Files that callers uploaded, to be named by jobs."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from api_schemas.message import Message

ArtifactId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="the id that the upload returned")]


class Artifact(Message):
    """An uploaded file as the server keeps it; the same tokens always have the same id."""

    id: str = Field(description="SHA-256 of the stored .npy file: one array of uint16, or uint32 where needed")
    kind: Literal["tokens"]
    num_tokens: int
    largest_token: int
    num_bytes: int = Field(description="of the stored file")
    created_at: datetime = Field(description="UTC")


class ArtifactPage(Message):
    """Artifacts, newest first."""

    artifacts: list[Artifact]
    next_page_token: str | None = Field(description="null on the last page")
