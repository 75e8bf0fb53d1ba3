"""Execution of recorded programs: in which precision, and interpreted, compiled if that pays off, or as CUDA graphs."""

import hashlib
import json
import logging
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

from hessian_spectrum.curvature.operators.graph_passes import graph_module, remove_dead_code
from hessian_spectrum.curvature.operators.recording import Map, Program

MatmulPrecision = Literal["tf32", "bfloat16"]

aten = torch.ops.aten
_PLAIN: dict[Any, Any] = {aten.addmm_.default: aten.mm.default, aten.baddbmm_.default: aten.bmm.default}

Mode = Literal["interpreted", "compiled", "measured"]

# Before anything was measured: what compiling takes for each operation, and what part of the time it may save.
COMPILE_SECONDS_PER_NODE = 0.03

EXPECTED_SAVING = {"cpu": 0.15, "cuda": 0.5}

NUM_TIMINGS = 3

COMPARED_VECTORS, COMPARED_NUMBERS = 16, 2**12
"""Numbers of vectors, and of entries that suffice, for comparing reduced products; one short vector may not be
typical."""

_logger = logging.getLogger(__name__)


def reduced(program: Program, precision: MatmulPrecision | None) -> Program:
    """Return the float32 program with its matrix products in `precision`, to be run under `matmuls_in` it.

    tf32 rounds factors to 10 bits in tensor cores and sums in float32; without tensor cores it changes nothing.
    bfloat16 rounds factors and products to 8 bits; constants that the program uses only in matrix products are stored
    rounded.

    Args:
        program: Recorded map in float32.
        precision: Precision of the matrix products; None leaves the program unchanged.

    Returns:
        The program.
    """
    return _in_bfloat16(program) if precision == "bfloat16" else program


@contextmanager
def matmuls_in(precision: MatmulPrecision | None) -> Iterator[None]:
    """Context in which tensor cores may use float32 factors as tf32, if `precision` says so."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def compared_vectors(rows: Tensor) -> Tensor:
    """Return the rows (k, P), unless they are columns of the identity, and random ones; some multiple of k in all."""
    dim, width = rows.shape[1], len(rows)
    count = -(-min(COMPARED_VECTORS, -(-COMPARED_NUMBERS // dim)) // width) * width
    generator = torch.Generator().manual_seed(0)
    if int(rows[0].count_nonzero()) < 2:  # columns may be zero, and say nothing of the others
        return torch.randn(count, dim, generator=generator).to(rows)
    return torch.cat([rows, torch.randn(count - width, dim, generator=generator).to(rows)])


def deviation(products: Tensor, difference: Tensor) -> float:
    """Return the relative deviation ||(A' - A) V|| / ||A V||, for arrays of any shape."""
    return float(difference.norm() / products.norm()) if products.any() else 0.0


def _in_bfloat16(program: Program) -> Program:
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph.graph, {}))
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    values = dict(zip(placeholders[1:], program.constants, strict=True))
    for node in list(graph.nodes):
        if node.target in (*_PLAIN, *_PLAIN.values()):
            _round_product(graph, node, values)
    remove_dead_code(graph)
    for node in list(values):
        if not node.users:
            graph.erase_node(node)
            del values[node]
    module = graph_module(graph)
    order = [node for node in module.graph.nodes if node.op == "placeholder"][1:]
    by_name = {node.name: value for node, value in values.items()}
    return Program(module, tuple(by_name[node.name] for node in order))


def _round_product(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, Tensor]) -> None:
    """Product a b, or c + a b in place, with a and b as bfloat16; the result, and the sum, are float32."""
    arguments: Any = node.args
    factors = [_rounded(graph, node, factor, values) for factor in arguments[-2:]]
    with graph.inserting_before(node):
        product = graph.call_function(_PLAIN.get(node.target, node.target), tuple(factors))
        result = graph.call_function(aten._to_copy.default, (product,), {"dtype": torch.float32})
        if node.target in _PLAIN:
            result = graph.call_function(aten.add_.Tensor, (arguments[0], result))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _rounded(graph: fx.Graph, node: fx.Node, factor: fx.Node, values: dict[fx.Node, Tensor]) -> fx.Node:
    if factor not in values:
        with graph.inserting_before(node):
            return graph.call_function(aten._to_copy.default, (factor,), {"dtype": torch.bfloat16})
    rounded = next((user for user in values if user.meta.get("rounds") is factor), None)
    if rounded is None:
        with graph.inserting_after(factor):
            rounded = graph.placeholder(f"{factor.name}_rounded")
        rounded.meta["rounds"] = factor
        values[rounded] = values[factor].to(torch.bfloat16)
    return rounded


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
    """Measured times by program, stored in a file so that every later job makes the same choice."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    @cached_property
    def _known(self) -> dict[str, Timing]:
        return {} if self._path is None else _read(self._path)

    def get(self, signature: str) -> Timing | None:
        """Return the measured times of a program; None if it was not measured."""
        return self._known.get(signature)

    def put(self, signature: str, timing: Timing) -> None:
        """Store the times of a program, also in the file."""
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
        """Stop choosing: programs without a known choice are interpreted from now on.

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
            return False  # not even at ten seconds a product
        expected = self._num_products * saving * _seconds(program, argument)
        return expected > COMPILE_SECONDS_PER_NODE * program.num_nodes

    def _measure(self, program: Program, argument: Tensor) -> Timing:
        started = time.perf_counter()
        try:
            run = self._compile(program)
            run(argument)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - compilers fail in ways of their own; products do not need them
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
