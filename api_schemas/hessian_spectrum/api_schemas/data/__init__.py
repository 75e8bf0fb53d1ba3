"""Data on which jobs evaluate the loss: each file here describes one kind, or a few that belong together.

`kind` says what such a file lists as `KINDS`. A file that is added is found.
"""

import sys
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.data.kind import DataKind, DataMessage, kind_of, num_samples, sequence_length
from hessian_spectrum.api_schemas.data.samples import InlineData, SampleData
from hessian_spectrum.api_schemas.data.text import TextData, TokenData
from hessian_spectrum.api_schemas.data.uploaded import ArrayData, PartsData, Scaling, UploadedSamples
from hessian_spectrum.planning.registry import listed

__all__ = [
    "KINDS",
    "ArrayData",
    "Data",
    "InlineData",
    "PartsData",
    "SampleData",
    "Scaling",
    "TextData",
    "TokenData",
    "UploadedSamples",
    "kind_of",
    "num_samples",
    "sequence_length",
]

KINDS: dict[type[DataMessage], DataKind] = {kind.message: kind for kind in listed(sys.modules[__name__], "KINDS")}
"""Kind of data by class of the message, since uploaded tokens and uploaded arrays have the same `kind`."""

for _kind in KINDS.values():
    _kind.message.data_kind, _kind.message.example = _kind, _kind.example["data"]


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
