"""What a program changes in place: its inputs at most, never the numbers that it came with."""

from collections.abc import Iterable, Mapping, Sequence

from hessian_spectrum.programs.operators import INLINE, NO_GRAD, base_name
from hessian_spectrum.programs.program import Call, Program, ProgramError, Region

_VIEW_NAMES = """
_reshape_alias _unsafe_view alias alpha_dropout as_strided atleast_1d atleast_2d atleast_3d block_diag
broadcast_tensors broadcast_to cartesian_prod chain_matmul channel_shuffle chunk contiguous detach diagonal dropout
dsplit einsum expand expand_as feature_alpha_dropout feature_dropout flatten hsplit linalg_diagonal linalg_multi_dot
mT meshgrid moveaxis movedim narrow native_channel_shuffle numpy_T permute pixel_shuffle pixel_unshuffle positive
ravel reshape reshape_as resolve_conj resolve_neg select slice split split_with_sizes squeeze sum_to_size swapaxes
swapdims t tensor_split to transpose type_as unbind unflatten unsafe_chunk unsafe_split unsafe_split_with_sizes
unsqueeze view view_as vsplit
"""

_MAY_BE_VIEWS = frozenset(f"aten.{name}" for name in _VIEW_NAMES.split())
"""Operators whose results may share the memory of their arguments."""

_COPIED_NAMES = "adjoint conj imag mH real unfold view_as_complex view_as_real"

_COPIED_VIEWS = frozenset(f"aten.{name}" for name in _COPIED_NAMES.split())
"""Operators whose results share the memory of their arguments in PyTorch, but are copies here."""

_IN_PLACE_BITS = frozenset({"aten.__iand__", "aten.__ior__"})

_Memory = Mapping[str, frozenset[str]]
"""Names of what a value may share memory with."""


def changes_in_place(op: str) -> bool:
    """Return whether an operator changes its first argument."""
    name = base_name(op)
    return name in _IN_PLACE_BITS or (name.startswith("aten.") and name.endswith("_") and not name.endswith("__"))


def changed_inputs(program: Program) -> frozenset[str]:
    """Return the names of the inputs that a program changes in place, and which must be copied before it runs.

    Args:
        program: The graph.

    Returns:
        Names of inputs, more than there are in doubt.

    Raises:
        ProgramError: If it changes parameters or constants, or a view that is a copy here.
    """
    stored = {alias: f"its parameter {each.name}" for each in program.parameters for alias in each.aliases}
    stored |= {name: f"its buffer or constant {array}" for name, array in program.constants.items()}
    memory = {name: frozenset({name}) for name in (*program.inputs, *stored)}
    changed = _changed(program.body, memory, stored)
    return frozenset(changed & program.inputs.keys())


def _changed(calls: Sequence[Call], memory: dict[str, frozenset[str]], stored: Mapping[str, str]) -> set[str]:
    """Names of what the calls change; `memory` is extended by their results."""
    changed: set[str] = set()
    for call in calls:
        name = base_name(call.op)
        if call.op in (NO_GRAD, INLINE):
            (region,) = call.regions
            changed |= _changed_in_region(call, region, memory, stored)
            continue
        shared: frozenset[str] = frozenset()
        if changes_in_place(call.op):
            shared = memory.get(_target(call), frozenset())
            _check(call, shared, stored)
            changed |= shared
        elif name in _MAY_BE_VIEWS:
            shared = _union(call.names_read(), memory)
        elif name in _COPIED_VIEWS:
            shared = frozenset({name})
        memory.update((output, shared) for output in call.outputs if output is not None and shared)
    return changed


def _target(call: Call) -> str:
    """Return the name of the value that a call changes."""
    name = next(call.names_read(), None)
    if name is None:
        raise ProgramError(f"{call.op:.64} has no argument that it could change in place")
    return name


def _changed_in_region(
    call: Call, region: Region, memory: dict[str, frozenset[str]], stored: Mapping[str, str]
) -> set[str]:
    operands = [each["$"] for each in call.args[1:] if isinstance(each, dict) and "$" in each]
    inner = {name: memory.get(operand, frozenset()) for name, operand in zip(region.inputs, operands, strict=False)}
    changed = _changed(region.calls, inner, stored)
    for output, result in zip(call.outputs, region.outputs, strict=False):
        if output is not None:
            memory[output] = inner.get(result, frozenset())
    return changed


def _union(names: Iterable[str], memory: _Memory) -> frozenset[str]:
    return frozenset().union(*(memory.get(name, frozenset()) for name in names))


def _check(call: Call, shared: Iterable[str], stored: Mapping[str, str]) -> None:
    where = f"{call.op:.64} in {call.module:.128}" if call.module else f"{call.op:.64}"
    for name in shared:
        if name in _COPIED_VIEWS:
            raise ProgramError(f"{where} changes in place what {name} returned: copy that first, with clone()")
        if name in stored:
            raise ProgramError(
                f"{where} changes {stored[name]:.96} in place: call eval() on the module before it is exported, or let "
                "its forward pass change a copy, made with clone()"
            )
