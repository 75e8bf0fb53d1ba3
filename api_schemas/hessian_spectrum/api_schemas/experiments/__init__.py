"""Experiments that are lists of spectra: each file here describes one, and lists it in `EXPERIMENTS`.

A file that is added is found. The comparison of Hessian and Gauss-Newton matrix, which trains between its points, is
none of these: see `api_schemas.hessian_vs_ggn`.
"""

import sys

from hessian_spectrum.api_schemas.experiments.kind import ExperimentKind, ExperimentRequest, ExperimentResult
from hessian_spectrum.planning.registry import listed

__all__ = ["EXPERIMENTS", "ExperimentKind", "ExperimentRequest", "ExperimentResult"]

EXPERIMENTS: dict[str, ExperimentKind] = {kind.name: kind for kind in listed(sys.modules[__name__], "EXPERIMENTS")}
"""Experiments by name."""

for _each in EXPERIMENTS.values():
    _each.message.example, _each.message.entry = _each.example, _each
