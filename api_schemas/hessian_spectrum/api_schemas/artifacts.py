"""Files that callers uploaded, to be named by jobs, and whoever knows them, who is asked while a job is validated."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, ValidationInfo
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.message import Message, RequestMessage, misfit
from hessian_spectrum.api_schemas.patterns import SHA256

ArtifactId = Annotated[str, Field(pattern=SHA256, description="The id that the upload returned.")]

CONTEXT = "artifacts"
"""Key of the `ArtifactCatalog` in the context of a validation."""

_MAX_NAMES_SHOWN = 8

ArrayType = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"]


class WholeNumbers(RequestMessage):
    """What classes and tokens must be, of an array in which nothing else is."""

    smallest: int | None = Field(
        default=None, description="The smallest of those that are not -100; null where all are."
    )
    largest: int | None = None
    num_ignored: int = Field(ge=0, description="The number of entries of -100, which no loss counts as a target.")


class StoredArray(RequestMessage):
    """One array of an artifact; not its numbers."""

    dtype: ArrayType = Field(description="The type of the numbers, by safetensors' name.")
    shape: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    whole_numbers: WholeNumbers | None = Field(
        default=None, description="What the whole numbers are; null where some are not whole or are beyond 2^53."
    )

    def __len__(self) -> int:
        return self.shape[0]


class Artifact(Message):
    """An uploaded file as the server keeps it."""

    id: str = Field(description="The SHA-256 of the stored file.")
    num_bytes: int = Field(description="The number of bytes of the stored file.")
    created_at: datetime = Field(description="When it was uploaded first, in UTC.")


class TokenArtifact(Artifact):
    """Tokens, stored as a .npy file of uint16, or uint32 where needed; the same ones always have the same id."""

    kind: Literal["tokens"]
    num_tokens: int
    largest_token: int


class ArrayArtifact(Artifact):
    """Arrays by name, stored as a safetensors file; the same names, types and numbers always have the same id."""

    kind: Literal["arrays"]
    arrays: dict[str, StoredArray]


AnyArtifact = TypeAliasType("AnyArtifact", Annotated[TokenArtifact | ArrayArtifact, Field(discriminator="kind")])


class ArtifactPage(Message):
    """Artifacts, newest first."""

    artifacts: list[AnyArtifact]
    next_page_token: str | None = Field(description="The token of the next page; null on the last page.")


class ArtifactError(ValueError):
    """An artifact that a request cannot name, and why."""


class ArtifactCatalog(Protocol):
    """Knows uploaded arrays by id."""

    def arrays(self, artifact_id: str) -> dict[str, StoredArray]:
        """Raises:  ArtifactError if there is no such artifact, or it holds no arrays."""
        ...


def arrays_of(fields: Any, info: ValidationInfo, *place: str) -> dict[str, StoredArray] | None:
    """What the artifact that the fields name holds; None where they name none.

    None also without a catalog in the context, as where a request is read that was accepted before.

    Args:
        place: Of the fields in the message that is validated.

    Raises:
        ValidationError: At their `id`.
    """
    if not isinstance(fields, dict) or not isinstance(fields.get("id"), str):
        return None
    catalog: ArtifactCatalog | None = (info.context or {}).get(CONTEXT)
    if catalog is None:
        return None
    try:
        return catalog.arrays(fields["id"])
    except ArtifactError as error:
        raise misfit(*place, "id", message=str(error)) from None


def listed(names: Iterable[str]) -> str:
    """The first of them, for readers."""
    shown = sorted(names)
    rest = len(shown) - _MAX_NAMES_SHOWN
    return ", ".join(shown[:_MAX_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
