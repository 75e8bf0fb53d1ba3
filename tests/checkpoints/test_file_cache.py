"""Files of checkpoints are read once, and again when one of them changes."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hessian_spectrum.checkpoints import checkpoint
from hessian_spectrum.checkpoints.directory import ModelsDirectory


@pytest.fixture
def models(tmp_path: Path, write_gpt2: Callable[..., Path]) -> ModelsDirectory:
    write_gpt2(tmp_path / "tiny")
    return ModelsDirectory(tmp_path)


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files whose headers were read."""
    found: list[Path] = []
    read = checkpoint._header
    monkeypatch.setattr(checkpoint, "_header", lambda name, path: found.append(path) or read(name, path))
    return found


def test_headers_are_read_once(models: ModelsDirectory, headers: list[Path]) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: models.describe_all(), range(16)))
    assert len(headers) == 1
    assert all(each == found[0] for each in found)
    assert [models.gpt2("tiny") for _ in range(3)] == 3 * [models.gpt2("tiny")]
    assert len(headers) == 2


def test_what_changes_is_read_again(
    models: ModelsDirectory, headers: list[Path], tmp_path: Path, write_gpt2: Callable[..., Path]
) -> None:
    before = models.describe("tiny")
    path = tmp_path / "tiny" / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"n_layer": 3}))
    problem = models.describe("tiny").problem
    assert problem is not None
    assert "disagree" in problem
    assert models.describe("tiny").problem == problem
    assert len(headers) == 2  # what is wrong is remembered, too
    path.write_text(json.dumps(fields))
    assert models.describe("tiny").problem is None
    write_gpt2(tmp_path / "other", seed=1)
    shutil.rmtree(tmp_path / "tiny")
    os.rename(tmp_path / "other", tmp_path / "tiny")
    assert models.describe("tiny").sha256 not in (None, before.sha256)


def test_the_length_of_headers_is_known_without_reading_them(
    models: ModelsDirectory, headers: list[Path], tmp_path: Path
) -> None:
    start = (tmp_path / "tiny" / "model.safetensors").read_bytes()[:8]
    assert models.num_header_bytes("tiny") == int.from_bytes(start, "little") > 1000
    assert models.num_header_bytes("none") == models.num_header_bytes("../tiny") == 0
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"\xff" * 8)
    assert models.num_header_bytes("tiny") == checkpoint.MAX_HEADER_BYTES
    assert not headers
