"""Inputs of a program: by name, with the types and shapes of the example inputs that it was exported with."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import SampleInputs
from hessian_spectrum.programs.program import FLOATING_DTYPES, Program, Value
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


def named_inputs(program: Program, inputs: SampleInputs) -> Mapping[str, Tensor]:
    """Return the inputs by the names that the program has for them.

    Args:
        program: The program.
        inputs: Inputs by name, or one tensor for a program that takes one.

    Returns:
        The inputs by name.

    Raises:
        InvalidProblemError: If the names are not those of the program's inputs.
    """
    if isinstance(inputs, Tensor) and len(program.inputs) == 1:
        return dict.fromkeys(program.inputs, inputs)
    names = list(inputs) if isinstance(inputs, Mapping) else []
    if set(names) != set(program.inputs):
        have = ", ".join(sorted(names)) or "one without a name"
        raise InvalidProblemError(f"the program takes the inputs {', '.join(program.inputs)}, not {have}")
    return inputs  # type: ignore[no-any-return]


def check_program_inputs(program: Program, inputs: SampleInputs, index_ranges: Mapping[str, int]) -> None:
    """Check names, types and shapes of inputs, and that they are finite and within the tables that they index.

    Args:
        program: The program.
        inputs: Inputs by name, or one tensor for a program that takes one.
        index_ranges: Number of rows of the table that an input indexes, by name.

    Raises:
        InvalidProblemError: If they do not fit; the message says why.
    """
    named = named_inputs(program, inputs)
    for name, expected in program.inputs.items():
        _check_type(name, named[name], expected)
        _check_shape(name, named[name], expected)
        _check_range(name, named[name], index_ranges.get(name))
    num_samples = len(next(iter(named.values())))
    fixed = program.fixed_size
    if fixed is not None and num_samples != fixed:
        raise InvalidProblemError(
            f"the program was exported for exactly {fixed} samples, not {num_samples}: give a multiple of {fixed} "
            "samples, or export it with a number of samples that may vary"
        )


def _check_type(name: str, values: Tensor, expected: Value) -> None:
    is_real = expected.dtype in FLOATING_DTYPES
    if values.is_floating_point() != is_real or values.is_complex():
        kind = "real numbers" if is_real else "whole numbers"
        raise InvalidProblemError(f"the program takes {kind} for its input {name}, not {values.dtype}")


def _check_shape(name: str, values: Tensor, expected: Value) -> None:
    lengths = zip(values.shape[1:], expected.shape[1:], strict=False)
    fits = values.ndim == len(expected.shape) and all(
        have == need or axis in expected.dynamic for axis, (have, need) in enumerate(lengths, start=1)
    )
    if not fits:
        wanted = ", ".join(["n", *map(str, expected.shape[1:])])
        raise InvalidProblemError(f"the program's input {name} has shape ({wanted}), not {tuple(values.shape)}")


def _check_range(name: str, values: Tensor, num_rows: int | None) -> None:
    if values.is_floating_point() and not bool(values.isfinite().all()):
        raise InvalidProblemError(f"the input {name} holds NaN or infinity")
    if num_rows is None or values.is_floating_point() or values.dtype == torch.bool or not values.numel():
        return
    smallest, largest = int(values.min()), int(values.max())
    if smallest < 0 or largest >= num_rows:
        outside = smallest if smallest < 0 else largest
        raise InvalidProblemError(
            f"the input {name} holds {outside}; the program has a table of {num_rows} rows for it"
        )
