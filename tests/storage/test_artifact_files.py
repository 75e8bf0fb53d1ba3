"""Uploaded arrays: the same ones are stored once, as a safetensors file, and described as they are."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from safetensors.torch import load

from hessian_spectrum.api_schemas.artifacts import ArrayArtifact, ArtifactError
from hessian_spectrum.storage.artifact_files import DTYPES, NamedArray, UnfitArrayError, described
from hessian_spectrum.storage.artifacts import ArtifactDamagedError, ArtifactStore, UnknownArtifactError
from hessian_spectrum.storage.local_directory import LocalDirectory
from tests.fixtures.longer import examples

PLAIN = [name for name in DTYPES if name != "BF16"]
ANY_ARRAY = st.sampled_from(PLAIN).flatmap(
    lambda name: st.tuples(
        st.just(name),
        numpy_strategies.arrays(
            DTYPES[name],
            numpy_strategies.array_shapes(min_dims=0, max_dims=3, max_side=4),
            elements={"allow_nan": False, "allow_infinity": False} if name.startswith("F") else None,
        ),
    )
)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(LocalDirectory(tmp_path, "artifacts"))


@settings(deadline=None, max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["x", "y", "layers.0.weight", "a"]), ANY_ARRAY, min_size=1), st.randoms())
def test_the_same_arrays_in_any_layout_are_one_artifact(store: ArtifactStore, arrays: Any, random: Any) -> None:
    given = {name: NamedArray(dtype, values) for name, (dtype, values) in arrays.items()}
    artifact, _ = store.write_arrays(given)
    assert isinstance(artifact, ArrayArtifact)
    content = store.safetensors(artifact.id)
    assert hashlib.sha256(content).hexdigest() == artifact.id
    assert len(content) == artifact.num_bytes
    loaded = load(content)
    assert list(artifact.arrays) == sorted(arrays)
    for name, (dtype, values) in arrays.items():
        assert (artifact.arrays[name].dtype, tuple(artifact.arrays[name].shape)) == (dtype, values.shape)
        np.testing.assert_array_equal(loaded[name].double().numpy(), values.astype(float))
    names = list(arrays)
    random.shuffle(names)
    others = {name: NamedArray(given[name].dtype, _in_another_layout(given[name].values)) for name in names}
    assert store.write_arrays(others) == (artifact, False)
    assert store.get(artifact.id) == artifact


def _in_another_layout(values: Any) -> Any:
    swapped = values.astype(values.dtype.newbyteorder(), order="F")
    unaligned = np.frombuffer(b"x" + swapped.tobytes(order="A"), np.uint8)[1:].view(swapped.dtype)
    return unaligned.reshape(values.shape, order="F" if swapped.flags.f_contiguous else "C")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 2], (0, 2, 0)),
        ([3.0, -100.0, 1.0], (1, 3, 1)),
        ([-100, -100], (None, None, 2)),
        ([-101, 5], (-101, 5, 0)),
        ([0.0, 0.5], None),
        ([2.0**53, 1.0], (1, 2**53, 0)),
        ([2.0**54], None),
        (np.array([2**64 - 1], np.uint64), None),
        (np.array([-(2**63), 0]), None),
        (np.array([0, 255], np.uint8), (0, 255, 0)),
    ],
)
def test_whole_numbers_are_known(values: Any, expected: Any) -> None:
    array = np.asarray(values)
    dtype: Any = f"{array.dtype.kind.upper()}{8 * array.dtype.itemsize}"
    found = described({"y": NamedArray(dtype, array)})["y"].whole_numbers
    assert (None if found is None else (found.smallest, found.largest, found.num_ignored)) == expected


def test_what_is_whole_in_every_block_but_one_is_not_whole() -> None:
    values = np.zeros(300_000)
    values[-200_000] = 0.5
    assert described({"y": NamedArray("F64", values)})["y"].whole_numbers is None
    values[-200_000], values[0], values[-1] = -7, 3, -100
    found = described({"y": NamedArray("F64", values)})["y"].whole_numbers
    assert found is not None
    assert (found.smallest, found.largest, found.num_ignored) == (-7, 3, 1)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_numbers_must_be_finite(store: ArtifactStore, tmp_path: Path, dtype: Any, wrong: float) -> None:
    values = np.zeros(200_000, np.float64)
    values[150_000] = wrong
    bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    array = NamedArray(dtype, bits if dtype == "BF16" else values.astype(DTYPES[dtype]))
    with pytest.raises(UnfitArrayError, match=r"^b must be finite"):
        store.write_arrays({"a": NamedArray("U8", np.ones(1, np.uint8)), "b": array})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_bfloat16_is_kept_as_it_is(store: ArtifactStore) -> None:
    values = torch.tensor([1.0, -2.5, 3e38], dtype=torch.bfloat16)
    artifact, _ = store.write_arrays({"w": NamedArray("BF16", values.view(torch.uint16).numpy())})
    assert torch.equal(load(store.safetensors(artifact.id))["w"], values)


def test_damage_and_loss_are_noticed(store: ArtifactStore, tmp_path: Path) -> None:
    artifact, _ = store.write_arrays({"x": NamedArray("U8", np.arange(9, dtype=np.uint8))})
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o640)
    path.write_bytes(content)
    with pytest.raises(ArtifactDamagedError):
        store.safetensors(artifact.id)
    store.delete(artifact.id)
    with pytest.raises(UnknownArtifactError):
        store.safetensors(artifact.id)
    with pytest.raises(ArtifactError, match="no such artifact"):
        store.arrays(artifact.id)


def test_tokens_are_no_arrays_and_arrays_no_tokens(store: ArtifactStore) -> None:
    tokens, _ = store.write_tokens(lambda: iter([np.array([1, 2])]))
    arrays, _ = store.write_arrays({"x": NamedArray("U8", np.ones(1, np.uint8))})
    with pytest.raises(ArtifactError, match="holds tokens"):
        store.arrays(tokens.id)
    with pytest.raises(UnknownArtifactError):
        store.tokens(arrays.id)
    assert {artifact.kind for artifact in store.page(9, None)[0]} == {"tokens", "arrays"}
