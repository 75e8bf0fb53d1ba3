"""Networks of users as programs: graphs of allowed operators, run on tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import SampleInputs, input_tensors
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.models.program_check import check_calls
from hessian_spectrum.curvature.models.program_inputs import check_program_inputs, named_inputs
from hessian_spectrum.curvature.models.program_run import ProgramRun, RunPrecision, Values
from hessian_spectrum.planning.size import Size, counted_size
from hessian_spectrum.programs.batch_norms import with_folded_norms
from hessian_spectrum.programs.cost import program_cost
from hessian_spectrum.programs.index_ranges import index_ranges
from hessian_spectrum.programs.mutations import changed_inputs, changes_in_place
from hessian_spectrum.programs.operators import OPERATORS, base_name
from hessian_spectrum.programs.program import Program, ProgramError
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


@dataclass(frozen=True, eq=False)
class Exported(Model):
    """A network as a program, whose parameters are those that are trainable; the others are constants.

    Args:
        program: The graph.
        arrays: Arrays of parameters and constants by the names that the program has for them.
        trainable: Glob on names of parameters to differentiate; None: those that required gradients when exported.

    Raises:
        InvalidProblemError: If an array is missing, no parameter matches, or the program changes stored numbers.
    """

    program: Program
    arrays: Mapping[str, Tensor]
    trainable: str | None = None
    _constants: dict[RunPrecision, Values] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        missing = {each.name for each in self.program.parameters} | set(self.program.constants.values())
        missing -= self.arrays.keys()
        if missing:
            raise InvalidProblemError(f"the program has no numbers for {', '.join(sorted(missing)[:8])}")
        unknown = sorted({base_name(call.op) for call in self.program.calls()} - OPERATORS)
        if unknown:
            raise InvalidProblemError(f"the program calls operators that are not supported: {', '.join(unknown[:20])}")
        if not self.parameter_shapes:
            raise InvalidProblemError(f"no parameter matches {self.trainable!r}")
        try:
            changed_inputs(self.program)
        except ProgramError as error:
            raise InvalidProblemError(f"the program cannot be used: {error}") from None
        check_calls(self.program)

    @property
    def is_built_in(self) -> bool:
        """False: a network of a user may call any operator of PyTorch."""
        return False

    @property
    def num_outputs(self) -> int:
        """Length of the last axis of the output; 1 where the output is one number for each sample."""
        shape = self.program.output_value.shape
        return shape[-1] if len(shape) > 1 else 1

    @cached_property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter that is differentiated, by its name in the module."""
        return {each.name: each.value.shape for each in self.program.parameters if self._is_differentiated(each)}

    def _is_differentiated(self, parameter: Any) -> bool:
        if self.trainable is None:
            return bool(parameter.is_trainable)
        return fnmatchcase(parameter.name, self.trainable)

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Return the parameters that the program came with."""
        return {name: self.arrays[name].to(device, dtype) for name in self.parameter_shapes}

    def size_on(self, inputs: SampleInputs) -> Size:
        """Return the number of parameters, and the numbers that a forward pass produces as the graph counts them."""
        num_parameters = sum(math.prod(shape) for shape in self.parameter_shapes.values())
        return counted_size(num_parameters, len(input_tensors(inputs)[0]), **vars(program_cost(self.program)))

    def sample_shape(self, inputs: SampleInputs) -> tuple[int, ...]:
        """Return the axes of the outputs, without the last one."""
        return (len(input_tensors(inputs)[0]), *self.program.output_value.shape[1:-1])

    @property
    def fixed_size(self) -> int | None:
        """The number of samples that the program was exported for; None if it may vary."""
        return self.program.fixed_size

    @cached_property
    def _index_ranges(self) -> dict[str, int]:
        return index_ranges(self.program)

    def check_inputs(self, inputs: SampleInputs) -> None:
        """Check that the inputs have the types and shapes of the example inputs, apart from the number of samples."""
        check_program_inputs(self.program, inputs, self._index_ranges)

    def __call__(self, parameters: Mapping[str, Tensor], inputs: SampleInputs) -> Tensor:
        """Return the output for the samples; numbers of shape (n,) become (n, 1)."""
        one = next(iter(parameters.values()))
        precision = RunPrecision(one.dtype, one.device)
        values = dict(self._constants_in(precision))
        for name, numbers in named_inputs(self.program, inputs).items():
            values[name] = numbers.clone() if name in self._changed_inputs else numbers
        for parameter in self.program.parameters:
            if parameter.name in parameters:
                values |= dict.fromkeys(parameter.aliases, parameters[parameter.name])
        ProgramRun(precision, self.program, self._has_changes).calls(self._run_program.body, values, self.last_reads)
        output: Tensor = values[self.program.output]
        return output.unsqueeze(-1) if output.ndim == 1 else output

    @cached_property
    def _changed_inputs(self) -> frozenset[str]:
        return changed_inputs(self.program)

    @cached_property
    def _has_changes(self) -> bool:
        return any(changes_in_place(call.op) for call in self.program.calls())

    @cached_property
    def last_reads(self) -> dict[int, list[str]]:
        """Names of the intermediate values that no call reads after that of each index of what is run."""
        return _last_reads(self._run_program)

    @cached_property
    def _run_program(self) -> Program:
        return with_folded_norms(self.program, self.parameter_shapes)

    def _constants_in(self, precision: RunPrecision) -> Values:
        """Constants, and parameters that are not differentiated, in the precision of a run."""
        if precision not in self._constants:
            # inside vmap or jvp they would belong to that one call
            with torch._C._DisableFuncTorch(), torch.no_grad():
                self._constants[precision] = {
                    name: precision.cast(value) for name, value in self._stored_values().items()
                }
        return self._constants[precision]

    def _stored_values(self) -> Values:
        """Constants, and parameters that are not differentiated, by their names in the graph."""
        values: Values = {
            name: self.arrays[array].to(getattr(torch, self.program.values[name].dtype))
            for name, array in self.program.constants.items()
        }
        for parameter in self.program.parameters:
            if parameter.name not in self.parameter_shapes:
                values |= dict.fromkeys(parameter.aliases, self.arrays[parameter.name])
        return values


def _last_reads(program: Program) -> dict[int, list[str]]:
    """Names of the intermediate values that no call reads after that of each index."""
    last: dict[str, int] = {}
    for index, call in enumerate(program.body):
        for name in (*call.names_read(), *(each for each in call.outputs if each is not None)):
            last[name] = index
    freed: dict[int, list[str]] = {}
    for name, index in last.items():
        if name != program.output:
            freed.setdefault(index, []).append(name)
    return freed
