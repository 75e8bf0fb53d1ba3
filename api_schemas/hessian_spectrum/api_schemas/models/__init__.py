"""Networks whose spectra are computed: each file here describes one kind, or a few that belong together.

`kind` says what such a file lists: `KINDS` for jobs, `FAMILIES` for closed forms. A file that is added is found.
"""

import sys
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hessian_spectrum.api_schemas.models.attention import SelfAttention
from hessian_spectrum.api_schemas.models.causal_lm import CausalLm
from hessian_spectrum.api_schemas.models.gpt2 import AttentionSink, Gpt2
from hessian_spectrum.api_schemas.models.kind import ClosedFormFamily, ModelKind, ModelMessage, kind_of
from hessian_spectrum.api_schemas.models.mlp import Mlp
from hessian_spectrum.planning.registry import listed

__all__ = [
    "FAMILIES",
    "KINDS",
    "AttentionSink",
    "CausalLm",
    "ClosedFormModel",
    "Gpt2",
    "Mlp",
    "Model",
    "SelfAttention",
    "kind_of",
]

KINDS: dict[str, ModelKind] = {kind.name: kind for kind in listed(sys.modules[__name__], "KINDS")}
"""Kinds of models that jobs accept, by name."""

FAMILIES: dict[str, ClosedFormFamily] = {family.name: family for family in listed(sys.modules[__name__], "FAMILIES")}
"""Kinds of models whose spectrum has a closed form, by name."""

for _family in FAMILIES.values():
    _family.message.closed_form_family, _family.message.example = _family, _family.example["model"]
for _kind in KINDS.values():
    _kind.message.job_kind, _kind.message.example = _kind, _kind.example["model"]

if TYPE_CHECKING:
    Model = ModelMessage
    ClosedFormModel = ModelMessage
else:
    Model = Annotated[reduce(or_, (kind.message for kind in KINDS.values())), Field(discriminator="kind")]
    ClosedFormModel = Annotated[reduce(or_, (each.message for each in FAMILIES.values())), Field(discriminator="kind")]
