"""Data on which jobs evaluate the loss: each file here describes one kind, or a few that belong together.

`kind` says what such a file lists as `KINDS`. A file that is added is found.
"""

import sys
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.data.kind import DataKind, DataMessage
from hessian_spectrum.api_schemas.data.samples import ArrayData, InlineData, SampleData
from hessian_spectrum.api_schemas.data.text import TextData, TokenData
from hessian_spectrum.planning.registry import listed

__all__ = [
    "KINDS",
    "ArrayData",
    "Data",
    "InlineData",
    "SampleData",
    "TextData",
    "TokenData",
    "kind_of",
    "num_samples",
    "sequence_length",
]

KINDS: dict[type[DataMessage], DataKind] = {kind.message: kind for kind in listed(sys.modules[__name__], "KINDS")}
"""What is known of each message; uploaded tokens and uploaded arrays have the same `kind`."""

for _each in KINDS.values():
    _each.message.example = _each.example["data"]


def _tokens_or_arrays(fields: object) -> str:
    windows = ("num_sequences", "sequence_length")
    has = any(name in fields for name in windows) if isinstance(fields, dict) else isinstance(fields, TokenData)
    return "tokens" if has else "arrays"


UploadedData = TypeAliasType(
    "UploadedData",
    Annotated[
        Annotated[TokenData, Tag("tokens")] | Annotated[ArrayData, Tag("arrays")], Discriminator(_tokens_or_arrays)
    ],
)

if TYPE_CHECKING:
    Data = DataMessage
else:
    _uploaded = dict.fromkeys((TokenData, ArrayData), UploadedData)
    _members = dict.fromkeys(_uploaded.get(message, message) for message in KINDS)
    Data = Annotated[reduce(or_, _members), Field(discriminator="kind")]


def kind_of(data: Data) -> DataKind:
    """What is known of the kind of the data."""
    return KINDS[type(data)]


def num_samples(data: Data | None) -> int:
    """Samples of the data, or sequences; 1 where a matrix takes their place."""
    return 1 if data is None else kind_of(data).num_samples(data)


def sequence_length(data: Data | None) -> int:
    """Positions of each sequence; 1 where samples are vectors."""
    return 1 if data is None else kind_of(data).sequence_length(data)
