"""Conversion of states of algorithms to plain values and tensors, which a file can hold, and back, without pickle."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.diagonal import RowRegression
from hessian_spectrum.curvature.algorithms.hutchinson import ComplementProbes
from hessian_spectrum.curvature.algorithms.lanczos import LanczosState, Tridiagonal
from hessian_spectrum.curvature.algorithms.pairs import PairSums
from hessian_spectrum.curvature.algorithms.sketch import Sketch
from hessian_spectrum.curvature.algorithms.stochastic_lanczos import LanczosSweep
from hessian_spectrum.curvature.algorithms.subspace import SubspaceState
from hessian_spectrum.curvature.algorithms.trace import ColumnSums, TraceState
from hessian_spectrum.curvature.operators.base import Triangle
from hessian_spectrum.curvature.training.batches import Place
from hessian_spectrum.curvature.training.state import TrainingCheckpoint, TrainingResult

TYPES = {
    kind.__name__: kind
    for kind in (
        ColumnSums,
        ComplementProbes,
        LanczosState,
        LanczosSweep,
        PairSums,
        Place,
        RowRegression,
        Sketch,
        SubspaceState,
        TraceState,
        TrainingCheckpoint,
        TrainingResult,
        Triangle,
        Tridiagonal,
    )
}
"""That may stand in a document, by name."""

USED_ROWS = {(LanczosState, "basis"): (1, "num_vectors"), (SubspaceState, "basis"): (0, "num_rows")}
"""Tensors that are defined in part only: along which axis, and the attribute that says how far."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """A state at one moment: a document of JSON values, and its tensors, not copied, in the order of reference."""

    document: Any
    tensors: list[Tensor] = field(default_factory=list)


def freeze(state: Any) -> Frozen:
    """The present state; its tensors must be read before it changes.

    Args:
        state: A tree of the types above, tensors, CPU generators, lists, tuples, mappings and plain values.

    Returns:
        The document and its tensors, which share memory with the state.

    Raises:
        TypeError: For anything else.
    """
    tensors: list[Tensor] = []
    return Frozen(_freeze(state, tensors), tensors)


def thaw(document: Any, tensors: Sequence[Tensor], device: torch.device) -> Any:
    """The state that was frozen; tensors that were not on the CPU are moved to `device`.

    Args:
        document: Document of `freeze`.
        tensors: Tensors of `freeze`, in its order.
        device: Device of the tensors that were not on the CPU.

    Returns:
        The state.

    Raises:
        ValueError: If the document is not one of `freeze`.
        KeyError: If the document is not one of `freeze`.
        TypeError: If the document is not one of `freeze`.
        IndexError: If the document is not one of `freeze`.
    """
    if not isinstance(document, dict):
        return [thaw(each, tensors, device) for each in document] if isinstance(document, list) else document
    ((kind, content),) = document.items()
    return _thaw_tagged(kind, content, tensors, device)


def _thaw_tagged(kind: str, content: Any, tensors: Sequence[Tensor], device: torch.device) -> Any:
    match kind:
        case "float":
            found: Any = float.fromhex(content)
        case "tuple":
            found = tuple(thaw(each, tensors, device) for each in content)
        case "mapping":
            found = {key: thaw(value, tensors, device) for key, value in content}
        case "generator":
            found = torch.Generator()
            found.set_state(tensors[content])
        case "tensor":
            found = _thaw_tensor(content, tensors, device)
        case _:
            found = TYPES[kind](**{name: thaw(value, tensors, device) for name, value in content.items()})
    return found


def _freeze(value: Any, tensors: list[Tensor]) -> Any:
    match value:
        case None | bool() | int() | str():
            found: Any = value
        case float():
            found = {"float": value.hex()}
        case Tensor():
            found = _freeze_tensor(value, value, 0, tensors)
        case torch.Generator():
            tensors.append(value.get_state())
            found = {"generator": len(tensors) - 1}
        case list():
            found = [_freeze(each, tensors) for each in value]
        case tuple():
            found = {"tuple": [_freeze(each, tensors) for each in value]}
        case dict():
            found = {"mapping": [[key, _freeze(each, tensors)] for key, each in value.items()]}
        case _:
            if type(value).__name__ not in TYPES:
                raise TypeError(f"a state may not hold a {type(value).__name__}")
            found = {type(value).__name__: dict(_fields(value, tensors))}
    return found


def _fields(state: Any, tensors: list[Tensor]) -> Iterator[tuple[str, Any]]:
    for each in dataclasses.fields(state):
        value = getattr(state, each.name)
        if (type(state), each.name) in USED_ROWS:
            axis, count = USED_ROWS[type(state), each.name]
            yield each.name, _freeze_tensor(value, value.narrow(axis, 0, getattr(state, count)), axis, tensors)
        else:
            yield each.name, _freeze(value, tensors)


def _freeze_tensor(whole: Tensor, used: Tensor, axis: int, tensors: list[Tensor]) -> dict[str, Any]:
    tensors.append(used.detach())
    place = {"index": len(tensors) - 1, "shape": list(whole.shape), "axis": axis, "on_device": not whole.is_cpu}
    return {"tensor": place}


def _thaw_tensor(place: dict[str, Any], tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    shape, axis = place["shape"], place["axis"]
    used: Tensor = tensors[place["index"]]
    target = device if place["on_device"] else torch.device("cpu")
    if list(used.shape) == shape:
        return used.to(target)
    whole = torch.empty(shape, dtype=used.dtype, device=target)
    whole.narrow(axis, 0, used.shape[axis]).copy_(used)
    return whole
