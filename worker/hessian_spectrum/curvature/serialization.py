"""Conversion of states of computations to plain values and tensors, which a file can hold, and back, without pickle."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

_Type = TypeVar("_Type", bound=type)


class UsedPart(NamedTuple):
    """The defined part of a tensor: from 0 to a number along an axis."""

    axis: int
    length: str  # name of the attribute of the state that holds the number


TYPES: dict[str, type] = {}
"""Dataclasses that may appear in a document, by name."""

USED_PARTS: dict[tuple[type, str], UsedPart] = {}
"""Fields of these dataclasses whose tensors are only partly defined."""


def serializable(**used_parts: UsedPart) -> Callable[[_Type], _Type]:
    """Allow instances of a dataclass in the states that checkpoints hold.

    Args:
        used_parts: Fields whose tensors are only partly defined; the rest is not saved.

    Returns:
        A decorator that leaves the class unchanged.

    Raises:
        ValueError: If another dataclass of the same name is registered.
    """

    def register(kind: _Type) -> _Type:
        if TYPES.setdefault(kind.__name__, kind) is not kind:
            raise ValueError(f"two kinds of state are named {kind.__name__}")
        USED_PARTS.update({(kind, name): part for name, part in used_parts.items()})
        return kind

    return register


def transient() -> Any:
    """Return a dataclass field that checkpoints leave out; it is None in a restored state."""
    return field(default=None, compare=False, repr=False, metadata={"transient": True})


@dataclass(frozen=True, eq=False)
class Serialized:
    """A state at one moment: a document of JSON values, and its tensors, which are not copied."""

    document: Any
    tensors: list[Tensor] = field(default_factory=list)  # the document refers to them by their position


def serialize(state: Any) -> Serialized:
    """Return the present state in serialised form; its tensors must be read before the state changes.

    Args:
        state: A tree of `serializable` dataclasses, tensors, numpy arrays, CPU generators, lists, tuples, mappings and
            plain values.

    Raises:
        TypeError: For anything else.
    """
    tensors: list[Tensor] = []
    return Serialized(_to_document(state, tensors), tensors)


def deserialize(document: Any, tensors: Sequence[Tensor], device: torch.device) -> Any:
    """Return the state that was serialised; tensors that were not on the CPU are moved to `device`.

    Args:
        document: Document of `serialize`.
        tensors: Tensors of `serialize`, in its order.
        device: Device of the tensors that were not on the CPU.

    Raises:
        ValueError: If the document was not made by `serialize`.
        KeyError: If the document was not made by `serialize`.
        TypeError: If the document was not made by `serialize`.
        IndexError: If the document was not made by `serialize`.
    """
    if not isinstance(document, dict):
        return [deserialize(each, tensors, device) for each in document] if isinstance(document, list) else document
    ((kind, content),) = document.items()
    return _from_tagged(kind, content, tensors=tensors, device=device)


def _from_tagged(kind: str, content: Any, *, tensors: Sequence[Tensor], device: torch.device) -> Any:
    match kind:
        case "float":
            value: Any = float.fromhex(content)
        case "tuple":
            value = tuple(deserialize(each, tensors, device) for each in content)
        case "mapping":
            value = {key: deserialize(each, tensors, device) for key, each in content}
        case "generator":
            value = torch.Generator()
            value.set_state(tensors[content])
        case "array":
            value = tensors[content].numpy()
        case "tensor":
            value = _to_tensor(content, tensors, device)
        case _:
            fields: Mapping[str, Any] = content
            value = TYPES[kind](**{name: deserialize(each, tensors, device) for name, each in fields.items()})
    return value


def _to_document(value: Any, tensors: list[Tensor]) -> Any:
    match value:
        case None | bool() | int() | str():
            document: Any = value
        case float():
            document = {"float": value.hex()}
        case Tensor():
            document = _tensor_document(value, used=value, axis=0, tensors=tensors)
        case np.ndarray():
            tensors.append(torch.from_numpy(value))
            document = {"array": len(tensors) - 1}
        case torch.Generator():
            tensors.append(value.get_state())
            document = {"generator": len(tensors) - 1}
        case list():
            document = [_to_document(each, tensors) for each in value]
        case tuple():
            document = {"tuple": [_to_document(each, tensors) for each in value]}
        case dict():
            document = {"mapping": [[key, _to_document(each, tensors)] for key, each in value.items()]}
        case _:
            if type(value).__name__ not in TYPES:
                raise TypeError(f"a state must not contain a {type(value).__name__}")
            document = {type(value).__name__: dict(_field_documents(value, tensors))}
    return document


def _field_documents(state: Any, tensors: list[Tensor]) -> Iterator[tuple[str, Any]]:
    for each in dataclasses.fields(state):
        if each.metadata.get("transient"):
            continue
        value = getattr(state, each.name)
        part = USED_PARTS.get((type(state), each.name))
        if part is None:
            yield each.name, _to_document(value, tensors)
        else:
            used = value.narrow(part.axis, 0, getattr(state, part.length))
            yield each.name, _tensor_document(value, used=used, axis=part.axis, tensors=tensors)


def _tensor_document(whole: Tensor, *, used: Tensor, axis: int, tensors: list[Tensor]) -> dict[str, Any]:
    tensors.append(used.detach())
    content = {"index": len(tensors) - 1, "shape": list(whole.shape), "axis": axis, "on_device": not whole.is_cpu}
    return {"tensor": content}


def _to_tensor(content: dict[str, Any], tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    shape, axis = content["shape"], content["axis"]
    used: Tensor = tensors[content["index"]]
    target = device if content["on_device"] else torch.device("cpu")
    if list(used.shape) == shape:
        return used.to(target)
    whole = torch.empty(shape, dtype=used.dtype, device=target)
    whole.narrow(axis, 0, used.shape[axis]).copy_(used)
    return whole
