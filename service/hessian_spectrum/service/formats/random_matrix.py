"""The answer to a random-matrix request as JSON, npz or a picture."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.random_matrix import (
    IndexCurveAnswer,
    IndexCurveRequest,
    LawAnswer,
    RandomMatrixRequest,
)
from hessian_spectrum.service.pictures.random_matrix import draw_index_curves, draw_law
from hessian_spectrum.service.pictures.sheet import AS_USUAL, Style
from hessian_spectrum.service.random_matrix import answer

_PICTURE_POINTS = 2000


def represented(request: RandomMatrixRequest, name: str, style: Style = AS_USUAL) -> bytes:
    """The answer in this format: json, npz or a picture.

    Raises:  as `answer`.
    """
    if name in ("json", "npz"):
        found = answer(request)
        return found.model_dump_json().encode() if name == "json" else _npz(found)
    found = answer(_for_a_picture(request))
    if isinstance(found, IndexCurveAnswer):
        return draw_index_curves(found, name, style)
    return draw_law(found, name, style)


def _for_a_picture(request: RandomMatrixRequest) -> RandomMatrixRequest:
    wanted = request.root
    if isinstance(wanted, IndexCurveRequest):
        return request
    whole = {"points": None, "num_points": _PICTURE_POINTS, "transform_points": None}
    return RandomMatrixRequest.model_construct(wanted.model_copy(update=whole))


def _npz(found: LawAnswer | IndexCurveAnswer) -> bytes:
    """Arrays that need no pickle, and in `document` the rest of the answer as JSON.

    Where JSON says null an array holds 0, and its companion `..._defined` false.
    """
    if isinstance(found, IndexCurveAnswer):
        arrays = _index_curve_arrays(found)
        rest = found.model_dump_json(exclude={"curves"})
    else:
        arrays = _law_arrays(found)
        rest = found.model_dump_json(exclude={*arrays, "sample"})
        if found.sample is not None:
            arrays |= {f"sample_{name}": np.asarray(getattr(found.sample, name)) for name in _SAMPLE_ARRAYS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, document=np.asarray(rest), **arrays)
    return buffer.getvalue()


_SAMPLE_ARRAYS = ("edges", "counts", "density", "expected", "negative_fraction", "zero_fraction")


def _law_arrays(found: LawAnswer) -> dict[str, NDArray[Any]]:
    return {
        **{name: np.asarray(getattr(found, name)) for name in ("grid", "cumulative", "support", "interval_masses")},
        **{name: np.asarray(getattr(found, name)) for name in ("atom_at_zero", "index", "moments")},
        **_masked("density", found.density),
        "transform_points": _complexes(found.transform_points),
        **_masked("r_transform", found.r_transform),
        **_masked("stieltjes", found.stieltjes),
    }


def _index_curve_arrays(found: IndexCurveAnswer) -> dict[str, NDArray[Any]]:
    curves = found.curves
    return {
        "ratios": np.asarray([curve.ratio for curve in curves]),
        "energies": np.asarray(curves[0].energies),
        "index": np.asarray([curve.index for curve in curves]),
        "index_at_small_energy": np.asarray([curve.index_at_small_energy for curve in curves]),
        **_masked("critical_energy", [curve.critical_energy for curve in curves]),
        **_masked("alpha_0", [curve.alpha_0 for curve in curves]),
    }


def _masked(name: str, values: Sequence[float | list[float] | None]) -> dict[str, NDArray[Any]]:
    defined = np.asarray([value is not None for value in values], dtype=bool)
    pairs = any(isinstance(value, list) for value in values)
    filled = [([0.0, 0.0] if pairs else 0.0) if value is None else value for value in values]
    return {name: _complexes(filled) if pairs else np.asarray(filled), f"{name}_defined": defined}


def _complexes(pairs: Sequence[Any]) -> NDArray[np.complex128]:
    array = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    return np.asarray(array[:, 0] + 1j * array[:, 1])
