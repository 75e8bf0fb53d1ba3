"""Encoding of requests that contain arrays as npz archives."""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel

from hessian_spectrum.api_schemas.message import Array

NPZ = "application/x-npz"


def fields(request: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """Fields that are set, by their dotted paths such as `model.w`."""
    if isinstance(request, BaseModel):
        request = request.model_dump(exclude_none=True, warnings=False)
    return dict(_leaves(request, ""))


def holds_arrays(request: BaseModel | Mapping[str, Any]) -> bool:
    """Whether any field is an array object rather than a list."""
    return any(isinstance(value, Array) for value in fields(request).values())


def archive(request: BaseModel | Mapping[str, Any]) -> bytes:
    """The request as an npz archive with uncompressed members."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(value) for name, value in fields(request).items()})
    return buffer.getvalue()


def _leaves(request: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in request.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value
