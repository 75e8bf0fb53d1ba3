"""Programs of linear maps: how they are recorded while a function runs once, and how they are executed afterwards.

They are interpreted, compiled if that pays off, or run as CUDA graphs.
"""

import hashlib
import json
import logging
import operator
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from hessian_spectrum.curvature.operators.graphs.nodes import graph_module
from hessian_spectrum.curvature.operators.graphs.placement import in_place
from hessian_spectrum.curvature.operators.graphs.simplification import simplify
from hessian_spectrum.curvature.process_memory import release_freed_memory

Map = Callable[[Tensor], Tensor]

MatmulPrecision = Literal["tf32", "bfloat16"]

Mode = Literal["interpreted", "compiled", "measured"]

# Used before anything is measured: the time that compiling takes for each operation, and the share that it may save.
COMPILE_SECONDS_PER_NODE = 0.03

EXPECTED_SAVING = {"cpu": 0.15, "cuda": 0.5}

NUM_TIMINGS = 3

aten = torch.ops.aten

RELEASE_BYTES = 2**27
"""Size of results in bytes after which a recorder returns freed memory to the system: the C library may retain up to
40 % of it."""

_logger = logging.getLogger(__name__)


class UnrecordableError(Exception):
    """Raised if the function does something that a graph cannot repeat."""


@dataclass(frozen=True, eq=False)
class Program:
    """A recorded map: the operations that depend on its argument, and the results of all others."""

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
    used or not, and loses in-place assignments. It also differs from make_fx, which takes a hundred times as long.

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


def is_odd(program: Program, rows: Tensor, value: Tensor) -> bool:
    """Return whether the program maps negated rows to negated results, unlike one with a spurious constant term."""
    try:
        total = program(rows.neg_()).add_(value)  # in place: a copy takes as much memory as the parameters
    finally:
        rows.neg_()
    # not <=: products that are NaN are reported by the algorithms, and are no reason to fall back
    return not bool(total.norm() > torch.finfo(rows.dtype).eps ** 0.5 * value.norm())


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
            self._check_mutation(func, args, kwargs, varies=varies)
        result = func(*map(_materialised, args), **{name: _materialised(each) for name, each in kwargs.items()})
        if varies:
            self._append(func, args, kwargs, result=result)
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

    def _check_mutation(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], *, varies: bool) -> None:
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

    def _append(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], *, result: Any) -> None:
        if not isinstance(result, (Tensor, tuple, list)):
            return  # a query about shapes, whose result is part of the program
        if func is aten._new_zeros_with_same_feature_meta.default and isinstance(result, Tensor):
            # zeros in the layout of a primal value, which the program would otherwise hold for it
            func, args, kwargs = aten.new_zeros.default, (args[0], list(result.shape)), {}
        node_args = tuple(self._node(argument) for argument in args)
        node_kwargs = {name: self._node(argument) for name, argument in kwargs.items()}
        if isinstance(result, Tensor):
            self._varying[result] = self._call(func, node_args, node_kwargs, result=result)
        else:
            node = self._graph.call_function(func, node_args, node_kwargs)
            for index, each in enumerate(result):
                if isinstance(each, Tensor):
                    self._varying[each] = self._call(operator.getitem, (node, index), {}, result=each)

    def _call(self, target: Callable[..., Any], args: Any, kwargs: Any, *, result: Tensor) -> fx.Node:
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


@contextmanager
def matmuls_in(precision: MatmulPrecision | None) -> Iterator[None]:
    """Context in which tensor cores may round float32 factors to tf32, if `precision` says so."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@dataclass(frozen=True)
class Timing:
    """Measured times of one program, in seconds."""

    interpreted: float  # per product
    compiled: float  # per product
    compilation: float  # once; infinite where it failed

    def pays(self, num_products: int) -> bool:
        """Return whether compiling saves time for the given number of products."""
        return num_products * (self.interpreted - self.compiled) > self.compilation


class Timings:
    """Measured times of each program, stored in a file so that every later job makes the same choice."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    @cached_property
    def _known(self) -> dict[str, Timing]:
        return {} if self._path is None else _read(self._path)

    def get(self, signature: str) -> Timing | None:
        """Return the measured times of a program; None if it was not measured."""
        return self._known.get(signature)

    def put(self, signature: str, timing: Timing) -> None:
        """Store the times of a program, in the file as well."""
        self._known[signature] = timing
        if self._path is not None:
            self._known = _read(self._path) | self._known
            text = json.dumps({name: asdict(each) for name, each in self._known.items()}, indent=1)
            unique = self._path.with_suffix(f".{os.getpid()}.tmp")
            unique.write_text(text)
            unique.replace(self._path)


class Execution:
    """Chooses how each program is executed.

    The choice determines the order of roundings, so it must not change from run to run. Measured times are stored in
    `timings`, and only a program of another shape, device or version is measured again.

    Args:
        num_products: Number of times that each program will run.
        mode: "measured" compiles if that is expected to pay off and keeps what is faster; the other modes are fixed.
        choices: Whether a program is compiled, by signature; choices of an earlier run are followed, new ones added.
    """

    def __init__(
        self,
        num_products: int = 0,
        *,
        mode: Mode = "measured",
        timings: Timings | None = None,
        choices: dict[str, bool] | None = None,
    ) -> None:
        self._choices = choices if choices is not None else {}
        self._num_products = num_products
        self._mode = mode
        self._timings = timings if timings is not None else Timings()
        self._compiled: dict[str, Callable[..., Tensor]] = {}  # by signature, shared by micro-batches of one shape

    @property
    def description(self) -> Literal["interpreted", "compiled"]:
        """Either "compiled" if any program was compiled, or "interpreted"."""
        return "compiled" if any(self._choices.values()) else "interpreted"

    def settle(self) -> None:
        """Make no more choices: programs without a known choice are interpreted from now on.

        Processes that share a computation thereby make the same choices.
        """
        self._mode = "interpreted"

    def prepare(self, program: Program, argument: Tensor) -> Map:
        """Return the map of `program`, in the chosen form."""
        signature = _signature(program, argument)
        if signature not in self._choices:
            measured = self._mode == "measured" and self._pays(program, argument, signature)
            self._choices[signature] = self._mode == "compiled" or measured
        run: Map = self._compile(program) if self._choices[signature] else program
        return _cuda_graph(run, argument) if argument.device.type == "cuda" else run

    def _pays(self, program: Program, argument: Tensor, signature: str) -> bool:
        known = self._timings.get(signature)
        if known is None:
            if not self._worth_trying(program, argument):
                return False
            known = self._measure(program, argument)
            self._timings.put(signature, known)
        return known.pays(self._num_products)

    def _worth_trying(self, program: Program, argument: Tensor) -> bool:
        saving = EXPECTED_SAVING.get(argument.device.type, 0.0)
        if self._num_products * saving < COMPILE_SECONDS_PER_NODE * program.num_nodes / 10:
            return False  # not even at ten seconds per product
        expected = self._num_products * saving * _seconds(program, argument)
        return expected > COMPILE_SECONDS_PER_NODE * program.num_nodes

    def _measure(self, program: Program, argument: Tensor) -> Timing:
        started = time.perf_counter()
        try:
            run = self._compile(program)
            run(argument)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - compilers raise errors of many classes; products do not need them
            _logger.warning("products are not compiled: %s: %s", type(error).__name__, error)
            return Timing(_seconds(program, argument), float("inf"), float("inf"))
        compilation = time.perf_counter() - started
        return Timing(_seconds(program, argument), _seconds(run, argument), compilation)

    def _compile(self, program: Program) -> Map:
        signature = program.structure()
        if signature not in self._compiled:
            self._compiled[signature] = torch.compile(program.graph, fullgraph=True, dynamic=False)
        function = self._compiled[signature]
        return lambda argument: function(argument, *program.constants)


def _read(path: Path) -> dict[str, Timing]:
    """Return the contents of the file; empty unless they have the expected form."""
    try:
        return {name: Timing(**each) for name, each in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _signature(program: Program, argument: Tensor) -> str:
    device = torch.cuda.get_device_name(argument.device) if argument.device.type == "cuda" else "cpu"
    parts = (program.structure(), device, str(torch.get_num_threads()), torch.__version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _seconds(run: Map, argument: Tensor) -> float:
    """Return the shortest of a few timings, as disturbances only lengthen them."""
    times = []
    for _ in range(NUM_TIMINGS):
        started = time.perf_counter()
        run(argument)
        if argument.device.type == "cuda":
            torch.cuda.synchronize(argument.device)
        times.append(time.perf_counter() - started)
    return min(times)


def _cuda_graph(run: Map, argument: Tensor) -> Map:
    """Return the same map as one launch of captured kernels, which read and write fixed memory."""
    held = argument.clone()
    stream = torch.cuda.Stream(argument.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(argument.device))
    with torch.cuda.stream(stream):  # libraries allocate their workspaces before the capture
        for _ in range(2):
            run(held)
    torch.cuda.current_stream(argument.device).wait_stream(stream)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run(held)

    def replay(vector: Tensor) -> Tensor:
        held.copy_(vector)
        graph.replay()
        return result.clone()

    return replay
