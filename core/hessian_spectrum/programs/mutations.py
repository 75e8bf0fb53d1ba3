"""What a program changes in place: its inputs at most, never the numbers that it came with."""

from collections.abc import Mapping, Sequence

from hessian_spectrum.programs.operators import INLINE, NO_GRAD, base_name
from hessian_spectrum.programs.program import Call, Program, ProgramError

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


def changes_in_place(op: str) -> bool:
    """Return whether an operator changes its first argument."""
    name = base_name(op)
    return name in _IN_PLACE_BITS or (name.startswith("aten.") and name.endswith("_") and not name.endswith("__"))


def changed_inputs(program: Program) -> frozenset[str]:
    """Return the names of the inputs that a program changes in place, and which must be copied before it runs.

    Args:
        program: The graph.

    Returns:
        Names of inputs, including those that might be changed.

    Raises:
        ProgramError: If it changes parameters or constants, or a view that is a copy here.
    """
    stored = {alias: f"its parameter {each.name}" for each in program.parameters for alias in each.aliases}
    stored |= {name: f"its buffer or constant {array}" for name, array in program.constants.items()}
    memory = _Memory()
    memory.follow(program.body)
    reached: set[_Place] = set()
    for call, target in memory.changes:
        waiting: list[_Place] = [target]
        while waiting:
            place = waiting.pop()
            if place not in reached:
                reached.add(place)
                _check(call, place, stored)
                waiting += memory.sources.get(place, ())
    return frozenset(name for name in program.inputs if name in reached)


_Place = str | int
"""A value by its name, the operator that returned a copy, or the number of a call, for what its results share."""


class _Memory:
    """What values may share memory with, as a graph with one edge for each argument: sets of names would be quadratic.

    Attributes:
        sources: The next places on the way to what a value may share memory with.
        changes: The calls that change a value, with its name.
    """

    def __init__(self) -> None:
        self.sources: dict[_Place, Sequence[_Place]] = {}
        self.changes: list[tuple[Call, str]] = []
        self._num_calls = 0

    def follow(self, calls: Sequence[Call]) -> None:
        """Add calls, in order."""
        for call in calls:
            name = base_name(call.op)
            self._num_calls += 1
            if call.op in (NO_GRAD, INLINE):
                self._follow_region(call)
            elif changes_in_place(call.op):
                self.changes.append((call, _target(call)))
                self._share(call, [_target(call)])
            elif name in _MAY_BE_VIEWS:
                self._share(call, list(call.names_read()))
            elif name in _COPIED_VIEWS:
                self._share(call, [name])

    def _share(self, call: Call, sources: Sequence[_Place]) -> None:
        self.sources[self._num_calls] = sources
        self.sources.update((output, [self._num_calls]) for output in call.outputs if output is not None)

    def _follow_region(self, call: Call) -> None:
        (region,) = call.regions
        for name, operand in zip(region.inputs, call.args[1:], strict=False):
            if isinstance(operand, dict) and "$" in operand:
                self.sources[name] = [operand["$"]]
        self.follow(region.calls)
        for output, result in zip(call.outputs, region.outputs, strict=False):
            if output is not None:
                self.sources[output] = [result]


def _target(call: Call) -> str:
    """Return the name of the value that a call changes."""
    name = next(call.names_read(), None)
    if name is None:
        raise ProgramError(f"{call.op:.64} has no argument that it could change in place")
    return name


def _check(call: Call, place: _Place, stored: Mapping[str, str]) -> None:
    where = f"{call.op:.64} in {call.module:.128}" if call.module else f"{call.op:.64}"
    if place in _COPIED_VIEWS:
        raise ProgramError(f"{where} changes the result of {place} in place: copy it first with clone()")
    if isinstance(place, str) and place in stored:
        raise ProgramError(
            f"{where} changes {stored[place]:.96} in place: call eval() on the module before it is exported, or let "
            "its forward pass change a copy made with clone()"
        )
