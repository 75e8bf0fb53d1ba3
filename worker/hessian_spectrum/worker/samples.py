"""Samples that a caller gives as data sets: those in the request in memory, uploaded ones of programs on disk."""

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian_spectrum.api_schemas.artifacts import ProgramInput
from hessian_spectrum.api_schemas.data import InlineData, SampleData, Scaling, UploadedSamples
from hessian_spectrum.api_schemas.losses import LOSSES
from hessian_spectrum.api_schemas.models import kind_of
from hessian_spectrum.api_schemas.models.exported import Exported
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.stored import AffineMap, Column, Rows, StoredDataset, StoredNumbers
from hessian_spectrum.worker.uploads import Artifacts, uploaded_rows


def sample_dataset(spec: SampleData, request: SpectrumRequest, artifacts: Artifacts) -> Dataset:
    """Build the data set of samples that a caller gives.

    Uploaded samples of a program stay on disk, in the type in which they were stored, until a micro-batch is used.

    Args:
        spec: Data of the request.
        request: The request, which names model and loss.
        artifacts: Uploaded files.

    Returns:
        Real numbers as float64; labels and tokens as int64; other inputs of programs in the program's type.

    Raises:
        InvalidProblemError: If uploaded samples are missing or damaged.
    """
    reads = kind_of(request.model).samples
    if isinstance(spec, InlineData):
        return _inline_dataset(spec, request)
    if reads == "arrays":
        return _program_dataset(spec, request, artifacts)
    rows = uploaded_rows(artifacts, spec.files, spec.arrays)
    has_labels = reads == "tokens" or _has_labels(request)
    inputs = _numbers(rows["x"], torch.int64 if reads == "tokens" else torch.float64, spec.scaling.get("x")).read()
    if spec.y is None:
        return _shaped(inputs, _no_targets(len(inputs)), reads)
    targets = _numbers(rows["y"], torch.int64 if has_labels else torch.float64, spec.scaling.get("y")).read()
    return _shaped(inputs, targets, reads)


def _inline_dataset(spec: InlineData, request: SpectrumRequest) -> Dataset:
    reads = kind_of(request.model).samples
    if reads == "tokens":
        return Dataset(_integers(spec.x), _integers(spec.y))
    if spec.y is None:
        targets = _no_targets(len(spec.x))
    else:
        targets = _integers(spec.y) if _has_labels(request) else _real(spec.y)
    if reads != "arrays":
        return _shaped(_real(spec.x), targets, reads)
    dtype = input_type(cast("Exported", request.model).inputs[0])
    return Dataset(_real(spec.x).to(dtype), targets if _has_labels(request) else _with_last_axis(targets))


def _program_dataset(spec: UploadedSamples, request: SpectrumRequest, artifacts: Artifacts) -> Dataset:
    """Return samples of a program's own shapes; a target that is one number stands for one output."""
    rows = uploaded_rows(artifacts, spec.files, spec.arrays)
    expected = cast("Exported", request.model).inputs
    names = {"": expected[0]} if spec.x is not None else {each.name: each for each in expected}
    inputs = {
        name: _numbers(rows[name or "x"], input_type(each), spec.scaling.get(name or "x"))
        for name, each in names.items()
    }
    if len(expected) == 1:
        inputs = {"": next(iter(inputs.values()))}
    loss = request.effective_loss
    if spec.y is None or (loss is not None and not LOSSES[loss].needs_targets):
        return StoredDataset(inputs, None)
    if _has_labels(request):
        return StoredDataset(inputs, _numbers(rows["y"], torch.int64, None))
    column: Rows = rows["y"] if len(spec.y.shape) > 1 else Column(rows["y"])
    return StoredDataset(inputs, _numbers(column, torch.float64, spec.scaling.get("y")))


def input_type(expected: ProgramInput) -> torch.dtype:
    """Return the type of an input while it is built: float64 for real numbers, else the program's."""
    return torch.float64 if "float" in expected.dtype else cast("torch.dtype", getattr(torch, expected.dtype))


def _has_labels(request: SpectrumRequest) -> bool:
    loss = request.effective_loss
    return loss is not None and LOSSES[loss].needs_labels


def _numbers(rows: Rows, dtype: torch.dtype, scaling: Scaling | None) -> StoredNumbers:
    affine = None if scaling is None else _affine_map(scaling, num_axes=len(rows.shape))
    return StoredNumbers(rows, range(rows.shape[0]), dtype, scaling=affine)


def _affine_map(scaling: Scaling, *, num_axes: int) -> AffineMap:
    def along_axis(values: float | list[float]) -> NDArray[np.float64] | float:
        if not isinstance(values, list):
            return values
        return np.asarray(values, np.float64).reshape(-1, *[1] * (num_axes - 1 - scaling.axis))

    return AffineMap(scaling.scale, along_axis(scaling.mean), along_axis(scaling.std))


def _shaped(inputs: Tensor, targets: Tensor, reads: str) -> Dataset:
    """Return samples that are vectors, or sequences of vectors; one number may stand for a vector of length 1."""
    if reads == "tokens":
        return Dataset(inputs, targets)
    num_axes = 3 if reads == "sequences" else 2
    return Dataset(_vectors(inputs, num_axes), _vectors(targets, num_axes) if targets.is_floating_point() else targets)


def _vectors(numbers: Tensor, num_axes: int) -> Tensor:
    return numbers if numbers.ndim == num_axes else numbers.unsqueeze(-1)


def _no_targets(num_samples: int) -> Tensor:
    """Return zeros that only count the samples, for a loss that the model returns itself."""
    return torch.zeros(num_samples, 1, dtype=torch.float64)


def _with_last_axis(numbers: Tensor) -> Tensor:
    return numbers if numbers.ndim > 1 else numbers.unsqueeze(-1)


def _real(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _integers(values: Any) -> Tensor:
    return _real(values).to(torch.int64)
