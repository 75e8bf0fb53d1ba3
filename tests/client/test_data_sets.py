"""Uploads of samples: arrays of any type as the server stores them, and data sets in parts that continue."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.client.arrays import UnfitArrayError, file_pieces, sample_arrays
from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.data_sets import DataSet
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.service.uploads.safetensors import safetensors_arrays
from hessian_spectrum.storage.artifact_files import described, safetensors_pieces

RNG = np.random.default_rng(5)
ARRAYS = {
    "float64": RNG.normal(size=(4, 3)),
    "float16, whole": RNG.integers(-3, 3, (4, 3)).astype(np.float16),
    "big-endian float32": RNG.normal(size=(4, 3)).astype(">f4"),
    "Fortran order": np.asfortranarray(RNG.normal(size=(4, 3))),
    "every second": RNG.normal(size=(8, 3))[::2],
    "uint16": RNG.integers(0, 2**16, (4, 3)).astype(np.uint16),
    "uint64 beyond 2^53": np.full((4, 1), 2**60, np.uint64),
    "ignored alone": np.full((4, 2), -100),
    "truth": RNG.integers(0, 2, (4, 3)).astype(bool),
    "bfloat16": torch.from_numpy(RNG.normal(size=(4, 3))).to(torch.bfloat16),
    "int8 of torch": torch.arange(12, dtype=torch.int8).reshape(4, 3),
    "a gradient's leaf": torch.ones(4, 2, requires_grad=True),
    "a list": [[1, 2], [3, 4], [5, 6], [7, 8]],
    "many blocks": RNG.integers(0, 9, (4, 100_000)).astype(np.uint8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_files_are_sent_as_the_server_stores_them(name: str) -> None:
    content = b"".join(file_pieces(sample_arrays({"x": ARRAYS[name], "z": np.zeros(4)}, np.arange(4))))
    arrays = dict(safetensors_arrays(memoryview(content)))
    assert content == b"".join(safetensors_pieces(arrays, described(arrays)))


def test_the_digest_of_what_is_sent_is_the_id_of_the_artifact(client: SpectrumClient) -> None:
    content = b"".join(file_pieces(sample_arrays(ARRAYS["bfloat16"], ARRAYS["truth"])))
    data = client.upload_data(ARRAYS["bfloat16"], ARRAYS["truth"])
    assert data == {"kind": "artifact", "id": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((2, 2), complex), np.ones(2), "complex128"),
        (np.ones((2, 2)), np.ones(3), "same number of samples"),
        (np.float64(3), np.ones(3), "one number"),
        (np.array(["a"]), np.ones(1), "give float16"),
        ({"y": np.ones(3)}, np.ones(3), "other than y"),
        ({}, None, "other than y"),
    ],
)
def test_what_the_server_does_not_take_is_refused_before_it_is_sent(x: Any, y: Any, message: str) -> None:
    with pytest.raises(UnfitArrayError, match=message):
        sample_arrays(x, y)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_before_they_are_sent(number: float) -> None:
    with pytest.raises(UnfitArrayError, match="x must be finite"):
        b"".join(file_pieces(sample_arrays(np.array([[1.0, number]]), None)))


def test_an_upload_that_was_interrupted_continues(client: SpectrumClient, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = RNG.normal(size=(103, 8)).astype(np.float32), RNG.integers(0, 3, 103)
    sent: list[str] = []
    run = client._run

    def counted(request: Any, *arguments: Any) -> Any:
        if request.method == "POST":
            if len(sent) == 3:
                raise KeyboardInterrupt
            sent.append(request.path)
        return run(request, *arguments)

    monkeypatch.setattr(client, "_run", counted)
    seen: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        client.upload_data_set(x, y, part_bytes=500, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == 3
    sent.clear()
    monkeypatch.setattr(client, "_run", lambda request, *rest: (sent.append(request.method), run(request, *rest))[1])
    data = client.upload_data_set(x, y, part_bytes=500, progress=lambda done, total: seen.append((done, total)))
    total = x.nbytes + y.nbytes
    assert seen[-1] == (total, total)
    assert sorted(done for done, _ in seen[3:]) == [done for done, _ in seen[3:]]
    assert sent.count("GET") == len(data["parts"])
    assert sent.count("POST") == len(data["parts"]) - 3
    sizes = [client.artifact(each).arrays["x"].shape[0] for each in data["parts"]]
    assert sum(sizes) == 103

    async def again() -> dict[str, Any]:
        async with AsyncSpectrumClient(str(client._http.base_url)) as other:
            return await other.upload_data_set(torch.from_numpy(x), torch.from_numpy(y), part_bytes=500)

    assert asyncio.run(again()) == data


def test_parts_are_few_enough_for_a_request() -> None:
    arrays = sample_arrays(np.broadcast_to(np.float32(1), (10_000, 4)), None)
    parts = list(DataSet(arrays, part_bytes=16).parts())
    assert len(parts) <= 512
    assert sum(len(part.arrays["x"]) for part in parts) == 10_000
    assert len(list(DataSet(arrays, part_bytes=10**9).parts())) == 1


def test_several_files_are_uploaded_with_one_bar(client: SpectrumClient, tmp_path: Path) -> None:
    for number in range(6):
        np.savez(tmp_path / f"{number}.npz", x=np.full((4, 2), float(number)), y=np.zeros(4))
    np.arange(5000, dtype="<u2").tofile(tmp_path / "tokens.bin")
    paths = [*sorted(tmp_path.glob("*.npz")), tmp_path / "tokens.bin"]
    uploaded = client.upload_files(paths, progress=True)
    assert [each.id for each in uploaded] == [client.upload_file(path).id for path in paths]
    assert len({each.id for each in uploaded}) == 7
    assert [each.kind for each in uploaded] == ["arrays"] * 6 + ["tokens"]
