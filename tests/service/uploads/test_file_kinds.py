"""A file that was sent as something else is recognised, and the error says how to send it or what to write instead."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch import nn

from tests.fixtures.exported import saved
from tests.security.archives import archive
from tests.security.onnx_files import good
from tests.service.uploads.test_arrays import npz, post

NPY, NPZ, SAFETENSORS = "application/x-npy", "application/x-npz", "application/x-safetensors"
PT2, ONNX, BINARY = "application/vnd.pytorch.pt2", "application/onnx", "application/octet-stream"
X = np.ones((3, 2))


@cache
def program() -> bytes:
    return saved(nn.Linear(2, 1), torch.zeros(2, 2))


def checkpoint(*, is_archive: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(nn.Linear(2, 1).state_dict(), file, _use_new_zipfile_serialization=is_archive)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


FILES = {
    NPY: lambda: npy(X),
    NPZ: lambda: npz(x=X),
    SAFETENSORS: lambda: save({"x": X}),
    PT2: program,
    ONNX: good,
}


@pytest.mark.parametrize("sent_as", [*FILES, BINARY])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_kind_is_recognised(tmp_path: Path, kind: str, sent_as: str) -> None:
    response = post(tmp_path, FILES[kind](), sent_as)
    if kind == sent_as != NPY:
        assert response.status_code == 201, response.text
    else:
        assert response.status_code in (400, 422)
        # tokens and data of the same format differ by the name that data are given
        assert (kind if sent_as not in (NPY, BINARY) or kind != NPY else "?name=x") in response.json()["detail"]


@pytest.mark.parametrize("is_archive", [True, False])
@pytest.mark.parametrize("sent_as", [PT2, NPZ, BINARY])
def test_a_file_of_torch_save_is_recognised(tmp_path: Path, sent_as: str, is_archive: bool) -> None:
    response = post(tmp_path, checkpoint(is_archive=is_archive), sent_as)
    assert response.status_code in (400, 422)
    assert "torch.save" in response.json()["detail"]
    assert "torch.export.save" in response.json()["detail"]


def test_a_program_of_an_older_pytorch_is_recognised(tmp_path: Path) -> None:
    content = archive({"serialized_exported_program.json": b"{}", "serialized_state_dict.pt": b"", "version": b"5"})
    assert "an older PyTorch" in post(tmp_path, content, PT2).json()["detail"]


@pytest.mark.parametrize("num_bytes", [5, 100, 3000, -1, -100, -1000])
def test_a_program_that_was_cut_off_is_said_to_be_damaged(tmp_path: Path, num_bytes: int) -> None:
    response = post(tmp_path, program()[:num_bytes], PT2)
    assert response.status_code == 400
    assert response.json()["detail"] == "The body is not a valid .pt2 file: it is damaged, or was cut off."


def test_tokens_that_look_like_nothing_else_are_stored(tmp_path: Path) -> None:
    for first in (8, 0x0A08, 0x4B50, 0x2208):
        assert post(tmp_path, np.array([first, 7, 50_000, 12], "<u2").tobytes(), BINARY).status_code == 201
