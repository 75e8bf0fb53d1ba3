"""Tables of results: rows that belong together, in an order that a reader expects."""

import numpy as np
import pytest

from hessian_spectrum.api_schemas.methods.slice import SliceResult
from hessian_spectrum.results.tables import csv_text, result_table
from tests.service.serialization.test_render import result, top_k


@pytest.mark.parametrize("num_directions", [1, 2])
def test_a_slice_has_a_row_for_each_point_of_its_grid(num_directions: int) -> None:
    offsets, slopes, curvatures = [-1.0, 0.0, 0.5], [0.3, -0.1][:num_directions], [4.0, 2.0][:num_directions]
    grid = np.stack(np.meshgrid(*[offsets] * num_directions, indexing="ij"), axis=-1).reshape(-1, num_directions)
    model = 0.5 + grid @ slopes + (grid**2) @ curvatures / 2
    found = result(
        "slice",
        5,
        which="largest",
        eigenpairs=[{"value": value, "residual": 0.0, "converged": True} for value in curvatures],
        slopes=slopes,
        offsets=offsets,
        losses=(model + 0.01).tolist(),
        quadratic_model=model.tolist(),
    )
    assert isinstance(found, SliceResult)
    table = {name: np.asarray(column, float) for name, column in result_table(found).items()}
    rows = np.stack([table[f"offset_{direction}"] for direction in range(num_directions)], axis=-1)
    np.testing.assert_array_equal(rows, grid)
    np.testing.assert_allclose(table["quadratic_model"], 0.5 + rows @ slopes + (rows**2) @ curvatures / 2)
    np.testing.assert_array_equal(table["loss"], found.losses)
    assert len(csv_text(result_table(found)).splitlines()) == 1 + 3**num_directions


def test_the_value_of_a_pair_comes_first() -> None:
    assert csv_text(result_table(top_k([2.0, 1.0]))).startswith("value,lower,upper,residual,converged,")
