"""Cost of a program, counted from the shapes of its values."""

from hessian_spectrum.programs.operators import base_name
from hessian_spectrum.programs.program import Program

_NAMES = """
alias as_strided chunk detach diagonal expand expand_as flatten movedim narrow permute reshape select slice split
split_with_sizes squeeze t transpose unbind unflatten unsqueeze view view_as
"""

_VIEWS = frozenset(f"aten.{name}" for name in _NAMES.split())
"""Operators whose results mostly share the memory of their arguments."""


def numbers_per_sample(program: Program) -> int:
    """Numbers that a forward pass produces for each sample, inputs included, rounded up.

    Values that do not depend on the number of samples are counted once for each batch of the example's size.

    Args:
        program: The graph.

    Returns:
        The number.
    """
    total = sum(value.size for value in program.inputs.values())
    for call in program.calls():
        if base_name(call.op) in _VIEWS:
            continue
        values = (program.values.get(name) for name in call.outputs if name is not None)
        total += sum(value.size for value in values if value is not None)
    return -(-total // program.example_size)
