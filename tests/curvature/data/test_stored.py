"""Samples on disk are those in memory, bit by bit, whatever their type and however they are split."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.stored import AffineMap, Column, StoredDataset, StoredNumbers
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.storage.array_rows import JoinedRows
from hessian_spectrum.storage.artifact_files import NamedArray
from hessian_spectrum.storage.artifacts import ArtifactStore
from hessian_spectrum.storage.stores import open_stores
from hessian_spectrum.worker.experiments.results import digest

RNG = np.random.default_rng(3)
CPU = torch.device("cpu")
F32, F64 = torch.float32, torch.float64
VALUES: dict[Any, Any] = {
    "F64": RNG.normal(size=(11, 3, 2)),
    "F32": RNG.normal(size=(11, 3, 2)).astype(np.float32),
    "F16": RNG.normal(size=(11, 3, 2)).astype(np.float16),
    "BF16": (RNG.normal(size=(11, 3, 2)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16),
    "I64": RNG.integers(-(2**52), 2**52, (11, 3, 2)),
    "U64": RNG.integers(0, 2**52, (11, 3, 2)).astype(np.uint64),
    "U32": RNG.integers(0, 2**32, (11, 3, 2)).astype(np.uint32),
    "I16": RNG.integers(-(2**15), 2**15, (11, 3, 2)).astype(np.int16),
    "U8": RNG.integers(0, 256, (11, 3, 2)).astype(np.uint8),
    "BOOL": RNG.integers(0, 2, (11, 3, 2)).astype(bool),
}
LABELS = RNG.integers(-1, 5, 11)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_stores(tmp_path).artifacts


def rows_of(store: ArtifactStore, dtype: Any, values: Any, *bounds: int) -> JoinedRows:
    """Rows of an array that is stored in parts, which begin at the bounds."""
    ends = [*bounds[1:], len(values)]
    parts = [NamedArray(dtype, values[start:stop]) for start, stop in zip(bounds, ends, strict=True)]
    return JoinedRows([store.rows(store.write_arrays({"x": each})[0].id)["x"] for each in parts])


def widened(dtype: str, values: Any) -> Any:
    return (values.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else values


def bits(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


@pytest.mark.parametrize("dtype", VALUES)
@pytest.mark.parametrize("precision", [F32, F64])
def test_real_numbers_are_those_that_pass_through_float64(store: ArtifactStore, dtype: str, precision: Any) -> None:
    rows = rows_of(store, dtype, VALUES[dtype], 0, 4, 5)
    read = StoredNumbers(rows, range(11), F64).to(precision, CPU).read()
    through = torch.from_numpy(widened(dtype, VALUES[dtype]).astype(np.float64)).to(precision)
    assert read.dtype == precision
    assert bits(read) == bits(through)


def test_splits_and_selections_are_those_of_a_data_set_in_memory(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hessian_spectrum.curvature.data.stored._NUMBERS_AT_ONCE", 13)
    rows, labels = rows_of(store, "U8", VALUES["U8"], 0, 4, 9), rows_of(store, "I64", LABELS, 0, 7)
    stored: Dataset = StoredDataset(
        {"": StoredNumbers(rows, range(11), F64)}, StoredNumbers(labels, range(11), torch.int64)
    )
    held = Dataset(torch.from_numpy(VALUES["U8"].astype(np.float64)), torch.from_numpy(LABELS))
    stored, held = stored.to(F32, CPU), held.to(F32, CPU)
    order = torch.tensor([10, 0, 3, 3, 7])
    pairs = [
        (stored, held),
        *zip(stored.split(4), held.split(4), strict=True),
        (stored.take(order), held.take(order)),
        *zip(stored.take(order).split(2), held.take(order).split(2), strict=True),
        (stored.split(6)[1].take(torch.tensor([4, 1])), held.split(6)[1].take(torch.tensor([4, 1]))),
    ]
    for one, other in pairs:
        assert len(one) == len(other)
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.in_memory().inputs, other.inputs)
        assert digest(one.numbers) == digest(other.numbers)
    assert not stored.tensors
    assert held.in_memory() is held


def test_scaling_is_the_formula(store: ArtifactStore) -> None:
    mean, std = RNG.normal(size=(3, 1)), RNG.uniform(1, 2, (3, 1))
    rows = rows_of(store, "U8", VALUES["U8"], 0)
    read = StoredNumbers(rows, range(11), F64, scaling=AffineMap(1 / 255, mean, std)).read().numpy()
    assert np.array_equal(read, (VALUES["U8"].astype(np.float64) * (1 / 255) - mean) / std)


def test_several_inputs_and_no_targets(store: ArtifactStore) -> None:
    numbers = {
        "a": StoredNumbers(rows_of(store, "U8", VALUES["U8"], 0), range(11), torch.uint8),
        "b": StoredNumbers(Column(rows_of(store, "I64", LABELS, 0)), range(11), torch.int32),
    }
    batch = StoredDataset(numbers, None).split(5)[2]
    assert {name: (each.dtype, tuple(each.shape)) for name, each in batch.inputs.items()} == {
        "a": (torch.uint8, (1, 3, 2)),
        "b": (torch.int32, (1, 1)),
    }
    assert batch.targets.shape == (1, 1)
    held = batch.in_memory()
    assert torch.equal(held.take(torch.tensor([0])).inputs["b"], batch.inputs["b"])
    with pytest.raises(InvalidProblemError, match="same number of samples"):
        StoredDataset(numbers | {"b": StoredNumbers(numbers["b"].rows, range(10), torch.int32)}, None)


def test_a_file_stays_readable_after_it_was_deleted_and_is_checked_before(store: ArtifactStore, tmp_path: Path) -> None:
    artifact, _ = store.write_arrays({"x": NamedArray("F64", VALUES["F64"])})
    rows = store.rows(artifact.id)["x"]
    store.delete(artifact.id)
    assert np.array_equal(rows.read(2, 5), VALUES["F64"][2:5])
