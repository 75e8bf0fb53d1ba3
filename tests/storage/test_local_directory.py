"""What a directory of files is besides a blob store: who may read it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hessian_spectrum.storage.local_directory import LocalDirectory
from hessian_spectrum.storage.stores import Stores, open_stores

JOB = "0" * 32


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    mask = os.umask(request.param)
    try:
        yield open_stores(tmp_path / "results")
    finally:
        os.umask(mask)


def test_only_the_user_of_the_deployment_may_read_what_is_stored(stores: Stores, tmp_path: Path) -> None:
    with stores.results.drafted({"eigenvalues": np.arange(3.0)}) as arrays:
        stores.results.write(b"{}", arrays)
    artifact, _ = stores.artifacts.write_tokens(lambda: iter([np.arange(9)]))
    with stores.artifact_owners.settled():
        stores.artifact_owners.add("anna", artifact.id)
    stores.requests.write(JOB, "{}")
    for attempt in (1, 2):
        checkpoints = stores.checkpoints.of_attempt(JOB, attempt)
        checkpoints.commit(None, {checkpoints.put(b"numbers")})
    shard = stores.checkpoints.of_shard(JOB, 0, 1)
    shard.commit(None, {shard.put(b"numbers")})

    paths = [tmp_path / "results", *(tmp_path / "results").rglob("*")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert len(modes) > 15


def test_a_directory_that_an_administrator_made_keeps_its_mode(tmp_path: Path) -> None:
    directory = tmp_path / "results"
    directory.mkdir()
    directory.chmod(0o750)
    LocalDirectory(directory).prepare()
    LocalDirectory(directory).put("12/name", b"content")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750
    assert stat.S_IMODE((directory / "12").stat().st_mode) == 0o700
