"""Oracle: 40-digit continuation from Im z = 1000, `tests/golden/random_matrix.json`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_spectrum.theory.random_matrix.ensembles import wigner_law, wishart_law
from hessian_spectrum.theory.random_matrix.hessian import critical_energy, hessian_law
from hessian_spectrum.theory.random_matrix.law import FreeLaw

ROWS = json.loads((Path(__file__).parents[2] / "golden" / "random_matrix.json").read_text())["rows"]


def law_of(row: dict[str, Any]) -> FreeLaw:
    match row["ensemble"]:
        case "wigner":
            return wigner_law(row["variance"])
        case "wishart":
            return wishart_law(row["variance"], row["ratio"])
        case activation:
            return hessian_law(activation, row["energy"], row["ratio"])


def test_every_golden_row_is_here() -> None:
    assert len(ROWS) == 15


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_row(row: dict[str, Any]) -> None:
    law = law_of(row)
    points = np.array(row["points"])
    np.testing.assert_allclose(law.density(points[:, 0]), points[:, 1], rtol=0, atol=1e-12)
    if "edges" in row:
        (interval,) = law.support
        np.testing.assert_allclose([interval.low, interval.high], row["edges"], rtol=1e-13)
    if "atom_at_zero" in row:
        assert law.atom_at_zero == pytest.approx(row["atom_at_zero"], abs=1e-15)
    if row["ensemble"] in ("linear", "relu"):
        expected = row["critical_energy"]
        found = critical_energy(row["ensemble"], row["ratio"])
        assert found is None if expected is None else found == pytest.approx(expected, rel=1e-12)
