"""Methods of spectrum jobs: each file here has the request and the result of one, and lists it in `METHODS`.

A file that is added is found.
"""

import sys
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from typing_extensions import TypeAliasType

from hessian_spectrum.api_schemas.methods.exact import ExactMethod, ExactResult
from hessian_spectrum.api_schemas.methods.kind import MethodKind, MethodMessage
from hessian_spectrum.api_schemas.methods.lanczos import LanczosMethod, LanczosResult
from hessian_spectrum.api_schemas.methods.top_k import TopKMethod, TopKResult
from hessian_spectrum.api_schemas.methods.trace import TraceMethod, TraceResult
from hessian_spectrum.api_schemas.spectrum_results import MethodResult
from hessian_spectrum.planning.registry import listed

__all__ = [
    "METHODS",
    "AnySpectrumResult",
    "ExactMethod",
    "ExactResult",
    "LanczosMethod",
    "LanczosResult",
    "Method",
    "SpectrumResult",
    "TopKMethod",
    "TopKResult",
    "TraceMethod",
    "TraceResult",
]

METHODS: dict[str, MethodKind] = {kind.name: kind for kind in listed(sys.modules[__name__], "METHODS")}
"""Methods by name."""

for _each in METHODS.values():
    _each.message.method_kind, _each.message.example = _each, _each.example

if TYPE_CHECKING:
    Method = MethodMessage
    AnySpectrumResult = MethodResult
    SpectrumResult = MethodResult
else:
    Method = Annotated[reduce(or_, (kind.message for kind in METHODS.values())), Field(discriminator="kind")]
    AnySpectrumResult = reduce(or_, (kind.result for kind in METHODS.values()))
    SpectrumResult = TypeAliasType("SpectrumResult", Annotated[AnySpectrumResult, Field(discriminator="method")])
