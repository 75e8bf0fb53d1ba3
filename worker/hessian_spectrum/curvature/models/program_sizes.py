"""Sizes that a program computes as it runs: bounded by a run on tensors without memory, before one that takes memory.

A program of small inputs may expand, repeat, pad or multiply them to any size, whatever its file says of its values.
Here it runs once on tensors of PyTorch's `meta` device, which have shapes and no numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hessian_spectrum.curvature.data.base import SampleInputs
from hessian_spectrum.curvature.models.exported import Exported
from hessian_spectrum.curvature.models.program_inputs import named_inputs
from hessian_spectrum.curvature.models.program_run import ProgramRun, RunPrecision, Values
from hessian_spectrum.programs.operators import base_name
from hessian_spectrum.programs.program import Call, Program
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

MAX_OPERATIONS = 200_000
"""Largest number of operations of one forward pass, those inside operators that are written out here included: an LSTM
counts each of its steps."""

MAX_PIECES = 100_000
"""Largest number of pieces into which one call may split a tensor."""

_META = torch.device("meta")
_OVERFLOW = ("overflow", "too large", "invalid size", "out of range")
_PIECES: Mapping[str, tuple[str, ...]] = {
    "aten.unbind": ("dim",),
    "aten.split": ("split_size", "dim"),
    "aten.unsafe_split": ("split_size", "dim"),
    "aten.chunk": ("chunks", "dim"),
    "aten.tensor_split": ("indices_or_sections", "dim"),
}
"""Operators that split a tensor, with the names of their arguments after it."""


class _BoundError(Exception):
    """A bound that a call exceeds; no error of PyTorch, which may only mean that it needs numbers."""


def check_sizes(model: Exported, inputs: SampleInputs, *, dtype: torch.dtype, limit_bytes: int) -> None:
    """Check that no value of a program, nor all that it holds at once, takes more memory than a job has.

    Calls whose results have sizes that depend on numbers, and those that PyTorch cannot run without numbers, count
    with the sizes that the file states for them; what these hide, the memory limit of the job's process ends.

    Args:
        model: The program.
        inputs: One micro-batch, of which only shapes and types count.
        dtype: Precision of the run.
        limit_bytes: Memory of the job in bytes.

    Raises:
        InvalidProblemError: If a bound is exceeded; the message names the call and its module.
    """
    program = model.program
    values: Values = {name: _on_meta(each, dtype) for name, each in named_inputs(program, inputs).items()}
    for parameter in program.parameters:
        values |= dict.fromkeys(parameter.aliases, torch.empty(parameter.value.shape, dtype=dtype, device=_META))
    for name in program.constants:
        known = model.arrays[program.constants[name]]
        values[name] = _on_meta(known.to(_META, getattr(torch, program.values[name].dtype)), dtype)
    with torch.no_grad(), _Bounds(limit_bytes) as bounds:
        run = ProgramRun(RunPrecision(dtype, _META), program, has_changes=False)
        _Check(run, bounds, limit_bytes).calls(program.body, values, model.last_reads)


def _on_meta(values: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(values.shape, dtype=dtype if values.is_floating_point() else values.dtype, device=_META)


class _Bounds(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bounds the number of operations and the size of each result while a program runs."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._limit, self._num_operations = limit_bytes, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._num_operations += 1
        if self._num_operations > MAX_OPERATIONS:
            raise _BoundError(f"one forward pass has more than {MAX_OPERATIONS:,} operations")
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.numel() * each.element_size() > self._limit:
                raise _BoundError(
                    f"its result of shape {_shape(each)} takes {_gib(each.numel() * each.element_size())}"
                )
        return result


def _shape(values: Tensor) -> str:
    return "x".join(map(str, values.shape))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.3g} GiB"


class _Check:
    """Runs calls one after the other, and counts the memory of what is alive."""

    def __init__(self, run: ProgramRun, bounds: _Bounds, limit_bytes: int) -> None:
        self._run, self._bounds, self._limit = run, bounds, limit_bytes
        self._program: Program = run.program
        self._num_bytes: dict[str, int] = {}
        self._alive = 0

    def calls(self, calls: Sequence[Call], values: Values, freed: Mapping[int, list[str]]) -> None:
        for index, call in enumerate(calls):
            try:
                self._call(call, values)
            except _BoundError as error:
                where = call.op + (f" of the module {call.module}" if call.module else "")
                raise InvalidProblemError(
                    f"the program is too large for this worker: {where}: {error}, a job has {_gib(self._limit)}"
                ) from None
            for name in freed.get(index, ()):
                values.pop(name, None)
                self._alive -= self._num_bytes.pop(name, 0)

    def _call(self, call: Call, values: Values) -> None:
        self._check_pieces(call, values)
        try:
            results = self._run.results(call, values)
        except _BoundError:
            raise
        except Exception as error:  # noqa: BLE001 - an operator may need numbers, or have no rule for meta tensors
            if any(word in str(error).lower() for word in _OVERFLOW):
                raise _BoundError(f"its size cannot be represented ({str(error).splitlines()[0]:.100})") from None
            results = [self._stated(name) for name in call.outputs]
        inputs = {_storage(values[name]) for name in call.names_read() if isinstance(values.get(name), Tensor)}
        for name, result in zip(call.outputs, results, strict=False):
            if name is None:
                continue
            values[name] = result
            if isinstance(result, Tensor) and _storage(result) not in inputs:
                self._num_bytes[name] = result.untyped_storage().nbytes()
                self._alive += self._num_bytes[name]
        if self._alive > self._limit:
            raise _BoundError(f"the values that are held at once take {_gib(self._alive)}")

    def _check_pieces(self, call: Call, values: Values) -> None:
        """Check that a call splits its argument into a bounded number of pieces, each of which is an object."""
        if (name := base_name(call.op)) not in _PIECES:
            return
        whole, *others = (self._run.argument(each, values) for each in call.args)
        options = {key: self._run.argument(each, values) for key, each in call.kwargs.items()}
        given = dict(zip(_PIECES[name], others, strict=False)) | options
        number = given.get("chunks", given.get("indices_or_sections", 0))
        if name not in ("aten.chunk", "aten.tensor_split"):
            axis, size = given.get("dim", 0), given.get("split_size", 1)
            if isinstance(axis, int) and isinstance(size, int) and -whole.ndim <= axis < whole.ndim and size > 0:
                number = -(-whole.shape[axis] // size)
        if isinstance(number, int) and number > MAX_PIECES:
            raise _BoundError(f"it makes {number:,} pieces; at most {MAX_PIECES:,} are supported")

    def _stated(self, name: str | None) -> Any:
        """Return a value of the type and shape that the file states for a result."""
        stated = None if name is None else self._program.values.get(name)
        if stated is None:
            return None
        result = torch.empty(stated.shape, dtype=getattr(torch, stated.dtype), device=_META)
        return _on_meta(result, self._run.precision.dtype)


def _storage(values: Tensor) -> int:
    return int(values.untyped_storage()._cdata)
