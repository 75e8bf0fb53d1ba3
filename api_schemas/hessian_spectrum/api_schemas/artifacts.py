"""Files that callers uploaded and that jobs refer to, and the catalog that is consulted to validate a request."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, NonNegativeInt, ValidationInfo
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.message import SHA256, Message, RequestMessage, misfit
from hessian_spectrum.planning.size import Sort

ArtifactId = Annotated[str, Field(pattern=SHA256, description="Id that the upload returned.")]

CONTEXT = "artifacts"
"""Key of the `ArtifactCatalog` in the context of a validation."""

_MAX_NAMES_SHOWN = 8

ArrayType = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"]


class WholeNumbers(RequestMessage):
    """Range of an array that contains only whole numbers, as classes and tokens must be."""

    smallest: int | None = Field(
        default=None, description="Smallest entry other than -100; null if every entry is -100."
    )
    largest: int | None = Field(default=None, description="Largest entry other than -100; null if every entry is -100.")
    num_ignored: int = Field(ge=0, description="Number of entries equal to -100, which no loss counts as a target.")


class StoredArray(RequestMessage):
    """Type and shape of one array of an artifact, without its numbers."""

    dtype: ArrayType = Field(description="Data type, named as in the safetensors format.")
    shape: list[Annotated[int, Field(ge=1)]] = Field(
        description="Length along each dimension, outermost first; empty for a single number."
    )
    whole_numbers: WholeNumbers | None = Field(
        default=None, description="Range of the entries; null if some are not whole or exceed 2^53."
    )

    def __len__(self) -> int:
        return self.shape[0]


def joined(parts: Sequence[StoredArray]) -> StoredArray:
    """Return the description of arrays of one type and row shape as one array, the rows of one after the other.

    Args:
        parts: At least one description.

    Returns:
        The description of the whole.

    Raises:
        ValueError: If types or shapes of rows differ; the message says how.
    """
    first = parts[0]
    for each in parts:
        if (each.dtype, each.shape[1:]) != (first.dtype, first.shape[1:]):
            raise ValueError(f"{each.dtype} of shape {each.shape[1:]} beside {first.dtype} of shape {first.shape[1:]}")
    ranges = [each.whole_numbers for each in parts if each.whole_numbers is not None]
    whole = None
    if len(ranges) == len(parts):
        ends = [end for each in ranges for end in (each.smallest, each.largest) if end is not None]
        whole = WholeNumbers(
            smallest=min(ends, default=None),
            largest=max(ends, default=None),
            num_ignored=sum(each.num_ignored for each in ranges),
        )
    return StoredArray(dtype=first.dtype, shape=[sum(map(len, parts)), *first.shape[1:]], whole_numbers=whole)


class Artifact(Message):
    """An uploaded file as the server stores it."""

    id: str = Field(description="SHA-256 of the stored file, in hexadecimal.")
    num_bytes: int = Field(description="Size of the stored file in bytes.")
    created_at: datetime = Field(description="Time of the upload, in UTC.")


class TokenArtifact(Artifact):
    """Tokens, stored as a .npy file of uint16, or of uint32 where needed; equal tokens always have the same id."""

    kind: Literal["tokens"]
    num_tokens: int = Field(description="Number of tokens in the file.")
    largest_token: int = Field(description="Largest token in the file.")


class ArrayArtifact(Artifact):
    """Named arrays, stored as a safetensors file; equal names, types and numbers always have the same id."""

    kind: Literal["arrays"]
    arrays: dict[str, StoredArray] = Field(description="Type and shape of each array, by name.")


class ProgramInput(RequestMessage):
    """An input of a program, or its output."""

    name: str = Field(description="Name of the argument in the program.")
    dtype: str = Field(description="Type of the numbers when the program was exported.")
    shape: list[int | None] = Field(
        description="Length along each axis; null where it may vary, as for the number of samples."
    )
    num_rows: int | None = Field(
        default=None,
        description="Number of rows of the table that this input indexes, such as the vocabulary of an embedding; null "
        "if the input is not an index.",
    )


class ProgramParameter(RequestMessage):
    """A parameter of a program; one that the network uses under several names is listed once."""

    name: str = Field(description="Name of the parameter in the network.")
    shape: list[int] = Field(description="Length along each axis.")
    trainable: bool = Field(description="Whether it is differentiated by default; others are constants.")


class ProgramArtifact(Artifact):
    """A network as a program; equal graphs with equal numbers always have the same id."""

    kind: Literal["program"]
    source: str = Field(description="Format of the file that was uploaded: torch.export or onnx.")
    parameters: list[ProgramParameter] = Field(description="Parameters in the order of the entries of eigenvectors.")
    inputs: list[ProgramInput] = Field(description="Inputs of the program, in order.")
    output: ProgramInput = Field(description="The output of the program.")
    num_samples: int | None = Field(
        description="Number of samples that it evaluates at a time; null if it accepts any."
    )
    num_calls: int = Field(description="Number of operator calls in the program.")
    operators: list[str] = Field(description="The operators that it calls, in alphabetical order.")
    numbers_per_sample: dict[Sort, NonNegativeInt] = Field(
        description="Numbers that a forward pass produces for each sample, by the sort of operator that produces them."
    )
    numbers_per_pair: dict[Sort, NonNegativeInt] = Field(
        default_factory=dict,
        description="Numbers that a forward pass produces for each pair of samples, such as similarities between all "
        "samples of a batch.",
    )
    mixes_samples: bool = Field(
        default=False,
        description="Whether the output of a sample depends on other samples, judging by shapes, so that all samples "
        "are evaluated together.",
    )


AnyArtifact = TypeAliasType(
    "AnyArtifact", Annotated[TokenArtifact | ArrayArtifact | ProgramArtifact, Field(discriminator="kind")]
)


class ArtifactPage(Message):
    """A page of the list of artifacts, newest first."""

    artifacts: list[AnyArtifact] = Field(description="Artifacts of this page, newest first.")
    next_page_token: str | None = Field(description="Token that requests the next page; null on the last page.")


class ArtifactError(ValueError):
    """An artifact cannot be used in a request; the message says why."""


class ArtifactCatalog(Protocol):
    """Looks up uploaded arrays by the id of their artifact."""

    def arrays(self, artifact_id: str) -> dict[str, StoredArray]:
        """Return the types and shapes of the arrays of an artifact.

        Args:
            artifact_id: SHA-256 of the stored file.

        Returns:
            The arrays by name.

        Raises:
            ArtifactError: If there is no such artifact, or it holds no arrays.
        """
        ...

    def program(self, artifact_id: str) -> ProgramArtifact:
        """Return the description of a program.

        Args:
            artifact_id: SHA-256 of the stored file.

        Returns:
            Its parameters, inputs and output.

        Raises:
            ArtifactError: If there is no such artifact, or it is not a program.
        """
        ...


def arrays_of(fields: Any, info: ValidationInfo, *location: str) -> dict[str, StoredArray] | None:
    """Return the arrays of the artifact that a message refers to.

    Args:
        fields: The message before validation; the artifact is named by its field `id`.
        info: Validation state, whose context may hold the `ArtifactCatalog`.
        *location: Path to `fields` within the message that is being validated.

    Returns:
        The arrays by name. None if the fields refer to no artifact, or if the context has no catalog, as when a request
        that was accepted earlier is read again.

    Raises:
        ValidationError: At `id`, if the artifact does not exist or holds no arrays.
    """
    if not isinstance(fields, dict) or not isinstance(fields.get("id"), str):
        return None
    return stored_arrays(fields["id"], info, *location, "id")


def stored_arrays(artifact_id: str, info: ValidationInfo, *location: str | int) -> dict[str, StoredArray] | None:
    """Return the arrays of an artifact that a message refers to at `location`; None without an `ArtifactCatalog`.

    Raises:
        ValidationError: At `location`, if the artifact does not exist or holds no arrays.
    """
    catalog: ArtifactCatalog | None = (info.context or {}).get(CONTEXT)
    if catalog is None:
        return None
    try:
        return catalog.arrays(artifact_id)
    except ArtifactError as error:
        raise misfit(*location, message=str(error)) from None


def listed(names: Iterable[str]) -> str:
    """Return the first few names in alphabetical order, for an error message."""
    shown = sorted(names)
    rest = len(shown) - _MAX_NAMES_SHOWN
    return ", ".join(shown[:_MAX_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
