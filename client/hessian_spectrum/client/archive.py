"""Requests that hold arrays, as the npz archives in which they are sent."""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel

from hessian_spectrum.api_schemas.arrays import Array

NPZ = "application/x-npz"


def fields(request: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are set, by their dotted paths: `model.w`."""
    if isinstance(request, BaseModel):
        request = request.model_dump(exclude_none=True, warnings=False)
    return dict(_leaves(request, ""))


def holds_arrays(request: BaseModel | Mapping[str, Any]) -> bool:
    """Whether a field is an array rather than lists."""
    return any(isinstance(value, Array) for value in fields(request).values())


def archive(request: BaseModel | Mapping[str, Any]) -> bytes:
    """The request as npz, its members uncompressed."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(value) for name, value in fields(request).items()})
    return buffer.getvalue()


def _leaves(request: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in request.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value
