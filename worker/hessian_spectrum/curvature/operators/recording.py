"""Recording of a linear map as a graph of what a function does to its argument while it runs once."""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from hessian_spectrum.curvature.malloc_trim import release_freed_memory
from hessian_spectrum.curvature.operators.graph_passes import graph_module, in_place, simplify

Map = Callable[[Tensor], Tensor]

aten = torch.ops.aten

RELEASE_BYTES = 2**27
"""Size of results in bytes after which a recorder returns freed memory to the system: the C library may retain up to
40 % of it."""


class UnrecordableError(Exception):
    """Raised if the function does something that a graph cannot repeat."""


@dataclass(frozen=True, eq=False)
class Program:
    """A recorded map: the operations that depend on its argument, and the values of all others."""

    graph: fx.GraphModule  # (v, *constants) -> A v, each of the shape that was recorded
    constants: tuple[Tensor, ...]  # values of the primal pass that the graph reads

    def __call__(self, argument: Tensor) -> Tensor:
        """Return A v."""
        return self._in_place(argument, *self.constants)  # type: ignore[no-any-return]

    @cached_property
    def _in_place(self) -> fx.GraphModule:
        return in_place(self.graph)

    @property
    def num_nodes(self) -> int:
        """Approximate number of operations."""
        return len(self.graph.graph.nodes)

    def structure(self) -> str:
        """Return the operations and the shapes of their operands, equal for two programs that differ only in values."""
        shapes = [(str(tensor.dtype), *tensor.shape) for tensor in self.constants]
        return f"{self.graph.code}\n{shapes}"


def record(function: Map, argument: Tensor) -> tuple[Tensor, Program]:
    """f(v), and f as a program, for f linear in v and deterministic.

    Operations on values that do not depend on v are executed once, now; the program keeps those of their results that
    it reads. This differs from `torch.func.linearize`, whose constant folding (PyTorch 2.13) keeps every primal value,
    used or not, and loses in-place assignments, and from make_fx, which takes a hundred times as long.

    Args:
        function: The map f.
        argument: v, of the shape, type and device of all later arguments.

    Returns:
        f(argument), and the program, for arguments of the same shape, type and device.

    Raises:
        UnrecordableError: If values that do not depend on v are changed in place by values that do, or if values from
            before the recording are changed after they were read.
    """
    recorder = _Recorder(argument)
    with recorder:
        # a view, so that a function that returns its argument unchanged gives a tensor of its own
        value = function(argument.view_as(argument))
    return value, recorder.program(value)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Dispatch mode that observes every operation below autograd and vmap, with real values."""

    def __init__(self, argument: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = fx.Graph()
        self._varying = WeakIdKeyDictionary()  # tensor -> node
        self._constants: dict[str, Tensor] = {}
        self._readers = WeakIdKeyDictionary()  # constant tensor -> node that reads it
        self._own_memory: set[int] = set()  # addresses of memory that the function allocated
        self._num_bytes = 0  # bytes of results since memory was last returned to the system
        self._varying[argument] = self._graph.placeholder("argument")

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        varies = any(self._varies(argument) for argument in (*args, *kwargs.values()))
        if func._schema.is_mutable:
            self._check_mutation(func, args, kwargs, varies)
        result = func(*map(_materialised, args), **{name: _materialised(each) for name, each in kwargs.items()})
        if varies:
            self._append(func, args, kwargs, result)
        else:
            self._own_memory |= _addresses(result) - _addresses((*args, *kwargs.values()))
        self._release(result)
        return result

    def _release(self, result: Any) -> None:
        self._num_bytes += result.nbytes if isinstance(result, Tensor) else 0
        if self._num_bytes > RELEASE_BYTES:
            self._num_bytes = 0
            release_freed_memory()

    def program(self, value: Tensor) -> Program:
        """Return the recorded program, with the result `value`."""
        if value not in self._varying and bool(value.any()):
            raise UnrecordableError("the result does not depend on the argument, and is not zero")
        # a constant zero is copied, so that callers may add to what they get
        own = value in self._varying
        result = self._node(value) if own else self._graph.call_function(torch.clone, (self._node(value),))
        self._graph.output(result)
        simplify(self._graph, self._constants)
        constants = tuple(self._lift())
        return Program(graph_module(self._graph), constants)

    def _lift(self) -> Iterator[Tensor]:
        """Turn the constants that the graph reads into its arguments, in order."""
        # placeholders come first, in the order in which values are passed
        last = next(iter(self._graph.nodes))
        for node in [node for node in self._graph.nodes if node.op == "get_attr"]:
            yield self._constants[str(node.target)]
            with self._graph.inserting_after(last):
                last = self._graph.placeholder(str(node.target))
            node.replace_all_uses_with(last)
            self._graph.erase_node(node)

    def _check_mutation(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], varies: bool) -> None:
        for index, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            target = kwargs.get(argument.name) if argument.kwarg_only or index >= len(args) else args[index]
            if not isinstance(target, Tensor) or target in self._varying:
                continue
            readers = [each for each in self._readers if not _addresses(each).isdisjoint(_addresses(target))]
            if varies or (readers and self._own_memory.isdisjoint(_addresses(target))):
                raise UnrecordableError(f"{func} changes in place a value that does not depend on the argument")
            for tensor in readers:  # the graph reads what they were before the change
                name = str(self._readers.pop(tensor).target)  # type: ignore[no-untyped-call]
                self._constants[name] = self._constants[name].clone()

    def _append(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if not isinstance(result, (Tensor, tuple, list)):
            return  # a question about shapes, whose answer is part of the program
        if func is aten._new_zeros_with_same_feature_meta.default and isinstance(result, Tensor):
            # zeros in the layout of a primal value, which the program would otherwise hold for it
            func, args, kwargs = aten.new_zeros.default, (args[0], list(result.shape)), {}
        node_args = tuple(self._node(argument) for argument in args)
        node_kwargs = {name: self._node(argument) for name, argument in kwargs.items()}
        if isinstance(result, Tensor):
            self._varying[result] = self._call(func, node_args, node_kwargs, result)
        else:
            node = self._graph.call_function(func, node_args, node_kwargs)
            for index, each in enumerate(result):
                if isinstance(each, Tensor):
                    self._varying[each] = self._call(operator.getitem, (node, index), {}, each)

    def _call(self, target: Callable[..., Any], args: Any, kwargs: Any, result: Tensor) -> fx.Node:
        node = self._graph.call_function(target, args, kwargs)
        node.meta["layout"] = (tuple(result.shape), result.stride(), result.dtype)
        return node

    def _varies(self, argument: Any) -> bool:
        # arguments of operations are tensors, numbers, or flat lists of either
        if isinstance(argument, Tensor):
            return argument in self._varying
        return isinstance(argument, (list, tuple)) and any(self._varies(each) for each in argument)

    def _node(self, argument: Any) -> Any:
        """Node or constant that represents an argument in the graph."""
        if isinstance(argument, (list, tuple)):
            return type(argument)(self._node(each) for each in argument)
        if not isinstance(argument, Tensor):
            return argument
        if argument in self._varying:
            return self._varying[argument]
        if argument not in self._readers:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = _materialised(argument)
            self._readers[argument] = self._graph.create_node("get_attr", name)
        return self._readers[argument]


def _addresses(values: Any) -> set[int]:
    """Return the addresses of the memory of tensors, or of those in a flat list."""
    if isinstance(values, (list, tuple)):
        return set().union(*map(_addresses, values))
    has_memory = isinstance(values, Tensor) and not values._is_zerotensor()
    return {values.untyped_storage().data_ptr()} if has_memory else set()


def _materialised(argument: Any) -> Any:
    """Return an absent tangent as zeros that have memory.

    Autograd's own zeros have no memory. Some operations read it nevertheless when a dispatch mode calls them, as
    mul.Scalar does in PyTorch 2.13, and the process crashes.

    Args:
        argument: Argument of an operation.

    Returns:
        The argument, or zeros in its place.
    """
    if isinstance(argument, Tensor):
        return argument.new_zeros(argument.shape) if argument._is_zerotensor() else argument
    if isinstance(argument, (list, tuple)):
        return type(argument)(_materialised(each) for each in argument)
    return argument
