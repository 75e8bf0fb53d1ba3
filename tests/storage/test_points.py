"""Points by content: what was written is read, what is damaged is not there, and what nobody uses is removed."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.points import PointStore, StoredPoint

KEY = "0" * 64


@given(
    document=st.text(st.characters(codec="utf-8")),
    arrays=st.dictionaries(
        st.text("abc_", min_size=1, max_size=8),
        hnp.arrays(
            st.sampled_from([np.float32, np.float64, np.int64]), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)
        ),
        max_size=3,
    ),
)
def test_a_point_is_read_as_it_was_written(
    document: str, arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = PointStore(LocalDirectory(tmp_path_factory.mktemp("points")))
    assert not store.held([KEY])
    assert store.read(KEY) is None
    assert store.write(KEY, StoredPoint(document, arrays))
    assert store.held([KEY]) == {KEY}
    found = store.read(KEY)
    assert found is not None
    assert found.document == document
    assert found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype


@pytest.mark.parametrize("place", [0, 40, 70, -1])
def test_a_damaged_point_is_not_there(place: int, tmp_path: Path) -> None:
    store = PointStore(LocalDirectory(tmp_path))
    store.write(KEY, StoredPoint("{}", {"values": np.arange(4.0)}))
    path = tmp_path / KEY[:2] / KEY
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert store.read(KEY) is None
    assert not store.held([KEY])  # so that the next one can be stored


def test_a_full_disk_costs_the_reuse_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PointStore(LocalDirectory(tmp_path))

    def full(*_: object, **__: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalDirectory, "put", full)
    assert not store.write(KEY, StoredPoint("{}", {}))


def test_what_nobody_uses_is_removed(tmp_path: Path) -> None:
    store = PointStore(LocalDirectory(tmp_path))
    for key in (KEY, "1" * 64):
        store.write(key, StoredPoint("{}", {}))
        os.utime(tmp_path / key[:2] / key, (time.time() - 100,) * 2)
    store.held([KEY])  # somebody uses it
    assert list(store.remove_unused(50)) == ["1" * 64]
    assert store.held([KEY]) == {KEY}


def test_a_key_is_a_digest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no digest"):
        PointStore(LocalDirectory(tmp_path)).read("../../etc/passwd")
