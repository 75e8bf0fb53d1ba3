"""Two computations of a figure have the same numbers."""

from typing import Any

import pytest
import torch

from hessian_spectrum.api_schemas.experiments.figure import FigureRequest
from hessian_spectrum.api_schemas.figures import FIGURES
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.worker.experiments.experiment import run_experiment
from hessian_spectrum.worker.hardware import Hardware
from tests.worker.figures.test_kills import SMALL

HARDWARE = Hardware(torch.device("cpu"), 1, 2**33)

_CELLS = {"num_samples": 20, "width": 4, "num_seeds": 3}
_PAIRS = SMALL["cracking-3"]
_PRETRAINING = SMALL["cracking-5"]
_DIMS = SMALL["cracking-4"]
_DEPTHS = SMALL["cracking-17"]
SMALLEST: dict[str, dict[str, Any]] = SMALL | {
    "cracking-1": _CELLS,
    "cracking-2": {"key_dim": 4, "batch_size": 1, "length": 2, "num_seeds": 3},
    "cracking-6": {name: _PRETRAINING[name] for name in ("sizes", "data", "num_steps")},
    "cracking-7": {"num_samples": 20, "width": 3, "num_seeds": 3, "variances": [1.0, 2.0, 3.0]},
    "cracking-9": {"embedding_dim": 1, "key_dim": 3, "batch_size": 1, "length": 2, "num_seeds": 3},
    **dict.fromkeys(("cracking-10", "cracking-11", "cracking-12"), _PAIRS),
    "cracking-13": {"input_dims": [1, 2], "num_networks": 3},
    **dict.fromkeys(("cracking-14", "cracking-15", "cracking-16", "cracking-26"), _DIMS),
    **dict.fromkeys(("cracking-18", "cracking-19", "cracking-20", "cracking-21", "cracking-22"), _DEPTHS),
    **dict.fromkeys(("cracking-23", "cracking-24", "cracking-25"), _PRETRAINING),
    "poster-evolution": SMALL["cracking-8"],
    "poster-bulk": _CELLS,
    "lecture-1": {"size": 50, "num_matrices": 3, "ratios": [0.5], "energies": [0.0, 0.1]},
}
"""Overrides of each figure for a computation of a second or so."""

OF_EACH_CODE = ("cracking-1", "cracking-2", "cracking-3", "cracking-4", "cracking-6", "cracking-8", "cracking-9")
OF_EACH_CODE += ("cracking-17", "cracking-27", "lecture-1", "lecture-6")
"""One figure of each kind of measurement; the others compute other sizes with the same code."""


def figure(name: str) -> dict[str, Any]:
    """Compute a figure, and return the numbers of its points, curves and verdicts."""
    request = FigureRequest.model_validate({"kind": "figure", "figure": name, "overrides": SMALLEST[name]})
    document = run_experiment(request, HARDWARE, ignore_progress).result.model_dump()
    return {part: document[part] for part in ("points", "panels", "verdicts", "choices")}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in OF_EACH_CODE else [pytest.mark.long]) for name in FIGURES]
)
def test_a_figure_that_is_computed_again_is_the_same(name: str) -> None:
    assert figure(name) == figure(name)
