"""The shares of micro-batches in a matrix as linear maps: recorded once, kept while there is memory, and executed."""

from collections.abc import Iterator
from copy import copy

import torch
from torch import Tensor
from torch.fx import GraphModule

from hessian_spectrum.curvature.iteration import Progress, ignore_progress
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import ParameterLayout, Parameters
from hessian_spectrum.curvature.operators.products import Fallback, Matrix, MicroBatchBlock, is_memory_error
from hessian_spectrum.curvature.operators.programs import (
    Execution,
    Map,
    MatmulPrecision,
    Program,
    UnrecordableError,
    is_odd,
    matmuls_in,
    record,
)
from hessian_spectrum.curvature.operators.reduced_precision import compared_vectors, deviation, reduced
from hessian_spectrum.curvature.process_memory import release_freed_memory


class Recordings:
    """Maps V -> A_b V of the micro-batches b of a risk, for rows of vectors (k, P).

    Each recording is compared with forward over reverse. If the model cannot be recorded, every product is computed by
    forward over reverse again, or by double backward if its code has no forward mode.

    Args:
        matrix: Which matrix.
        risk: Risk whose second derivatives are computed.
        point: Parameters by name at which the matrix is evaluated.
        layout: Layout of the vectors.
        scale: Factors of rows and columns, by parameter name; None if there are none.
        memory_bytes: Largest memory of recordings that are kept; None for no limit.
        execution: How kept recordings are executed; None interprets them.
        matmul_precision: Precision of the matrix products inside a product; None for that of the parameters.
        progress: Called with phase "linearisation" after each micro-batch is recorded for the first time.
        fallback: How products are computed if it is already known that they cannot be recorded.

    Attributes:
        held_bytes: Memory of the kept recordings.
        fallback: How products are computed if they are not recorded, and why; None if they are, or before the first.
        precision_deviation: ||(A' - A) V|| / ||A V|| of reduced products A' V from those in float32, for the vectors of
            the first sweep and for random ones; None if products are not reduced, or before the first sweep.
    """

    def __init__(
        self,
        *,
        matrix: Matrix,
        risk: EmpiricalRisk,
        point: Parameters,
        layout: ParameterLayout,
        scale: Parameters | None = None,
        memory_bytes: int | None = None,
        execution: Execution | None = None,
        matmul_precision: MatmulPrecision | None = None,
        progress: Progress = ignore_progress,
        fallback: Fallback | None = None,
    ) -> None:
        self.held_bytes = 0
        self.fallback = fallback
        self.precision_deviation: float | None = None
        self._matrix: Matrix = matrix
        self._risk = risk
        self._point = point
        self._layout = layout
        self._scale = scale
        self._memory_bytes = memory_bytes
        self._execution = execution if execution is not None else Execution(mode="interpreted")
        self._matmul_precision = matmul_precision
        self._progress = progress
        self._compared: list[Tensor] = []  # A V and the deviation from it, for the micro-batches so far
        self._num_compared = 0
        self._programs: dict[tuple[int, int], Map] = {}  # programs by micro-batch and number of columns
        self._graphs: dict[str, GraphModule] = {}  # graphs of these programs, by structure
        self._num_recorded = 0

    def product_of(self, index: int, rows: Tensor) -> Map:
        """Return the map V -> A_b V of micro-batch `index`, for as many rows (k, P) as there are in `rows`.

        A recording that does not fit in memory is not kept: the caller frees it before it asks for the next one.
        """
        run = self._programs.get((index, len(rows)))
        if run is not None:
            return run
        program = self._record(index, columns=self._layout, rows=self._layout, vectors=rows)
        if not isinstance(program, Program):
            return program
        lowered = self._reduced(program)
        self._compare(program, lowered, rows)
        return self._hold(index, lowered, rows)

    def columns_of(self, index: int, *, columns: ParameterLayout, rows: ParameterLayout, vectors: Tensor) -> Map:
        """Return the map of some columns of A_b to some of its rows, which is not kept."""
        run = self._record(index, columns=columns, rows=rows, vectors=vectors)
        return self._reduced(run) if isinstance(run, Program) else run

    def direct(self, index: int) -> Map:
        """Return A_b without a recording, row by row and in the precision of the vectors."""
        return self._unrecorded(index, self._layout, self._layout)

    def elsewhere(self, risk: EmpiricalRisk, point: Parameters) -> "Recordings":
        """Return the maps of the same matrix for another risk at another point; nothing of them is recorded."""
        other = copy(self)
        other._risk, other._point = risk, point
        other._programs, other._graphs, other._compared = {}, {}, []
        other._num_recorded = other._num_compared = other.held_bytes = 0
        return other

    def _reduced(self, program: Program) -> Program:
        return program if self._matmul_precision is None else reduced(program, self._matmul_precision)

    def _compare(self, program: Program, lowered: Program, rows: Tensor) -> None:
        """Measure the deviation of reduced products for the first sweep's first vectors and for random ones."""
        if self._matmul_precision is None or self.precision_deviation is not None:
            return
        vectors = torch.split(compared_vectors(rows), len(rows))
        value = torch.cat([program(each) for each in vectors])
        with matmuls_in(self._matmul_precision):
            difference = torch.cat([lowered(each) for each in vectors]) - value
        if self._num_compared:
            value, difference = value.add_(self._compared[0]), difference.add_(self._compared[1])
        self._compared = [value, difference]
        self._num_compared += 1
        if self._num_compared == len(self._risk.batches):
            self.precision_deviation = deviation(*self._compared)
            self._compared = []

    def _record(self, index: int, *, columns: ParameterLayout, rows: ParameterLayout, vectors: Tensor) -> Map:
        """Return the recording of A_b, or A_b computed row by row if it cannot be recorded."""
        direct = self._block_of(index, columns, rows).forward_over_reverse
        if self.fallback is None:
            try:
                value, program = record(direct, vectors)
                if is_odd(program, vectors, value):
                    return program
                reason = "its recording gives products that differ from those of forward over reverse"
            except (UnrecordableError, RuntimeError, NotImplementedError) as error:
                if is_memory_error(error):
                    raise
                reason = f"it cannot be recorded: {_first_line(error)}"
            self.fallback = Fallback("forward-over-reverse", reason)
        return self._unrecorded(index, columns, rows)

    def _unrecorded(self, index: int, columns: ParameterLayout, rows: ParameterLayout) -> Map:
        """A_b without a recording, row by row; by double backward if the model's code has no forward mode."""
        block = self._block_of(index, columns, rows)
        direct, backward = _row_by_row(block.forward_over_reverse), block.double_backward

        def run(vectors: Tensor) -> Tensor:
            if self.fallback is not None and self.fallback.method == "double-backward":
                return backward(vectors)
            try:
                return direct(vectors)
            except (RuntimeError, NotImplementedError) as error:
                if is_memory_error(error):
                    raise
                reason = f"the model's code has no forward mode: {_first_line(error)}"
                self.fallback = Fallback("double-backward", reason)
            return backward(vectors)

        return run

    def _hold(self, index: int, program: Program, rows: Tensor) -> Map:
        """Return the program in the form in which it is executed, kept for later products if it fits in memory."""
        self._num_recorded += 1
        if self._num_recorded <= len(self._risk.batches):
            self._progress("linearisation", self._num_recorded, len(self._risk.batches))
        release_freed_memory()  # recording takes more memory than what follows, and what is held lies in between
        new_bytes = self._own_bytes(program)
        if self._memory_bytes is not None and self.held_bytes + new_bytes > self._memory_bytes:
            return program
        # micro-batches of one shape share a graph: Python's objects for it may take more than what it keeps
        program = Program(self._graphs.setdefault(program.structure(), program.graph), program.constants)
        with matmuls_in(self._matmul_precision):
            run = self._programs[index, len(rows)] = self._execution.prepare(program, rows)
        self.held_bytes += new_bytes
        return run

    def _own_bytes(self, program: Program) -> int:
        """Return the memory that the recording uses in addition to the parameters and the data."""
        shared = {tensor.untyped_storage().data_ptr() for tensor in self._shared_tensors()}
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in program.constants}
        return sum(storage.nbytes() for address, storage in storages.items() if address not in shared)

    def _shared_tensors(self) -> Iterator[Tensor]:
        yield from self._point.values()
        yield from (self._scale or {}).values()
        for batch in self._risk.batches:
            yield from batch.tensors

    def _block_of(self, index: int, columns: ParameterLayout, rows: ParameterLayout) -> MicroBatchBlock:
        risk = self._risk.with_batch_in_memory(index)
        return MicroBatchBlock(
            matrix=self._matrix,
            risk=risk,
            index=index,
            point=self._point,
            columns=columns,
            rows=rows,
            scale=self._scale,
        )


def _first_line(error: Exception) -> str:
    """Return the first line of an error."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]:.300}"


def _row_by_row(direct: Map) -> Map:
    """Return the same map on several rows (k, n), without vmap."""
    return lambda rows: torch.cat([direct(rows[index : index + 1]) for index in range(len(rows))])
