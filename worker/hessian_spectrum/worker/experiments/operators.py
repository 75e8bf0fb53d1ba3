"""The matrix that a request means, as an operator of the engine."""

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import Progress
from hessian_spectrum.curvature.linear_algebra import sphere_probe
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.operators.execution import Execution, MatmulPrecision
from hessian_spectrum.curvature.operators.hessian import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.worker.generators import generator_of

_OPERATORS: dict[str, type[RiskOperator]] = {
    "hessian": HessianOperator,
    "ggn": GgnOperator,
    "functional": FunctionalOperator,
}
_REDUCED: dict[str, MatmulPrecision] = {"tf32": "tf32", "bfloat16": "bfloat16"}


def build_operator(
    request: SpectrumRequest,
    risk: EmpiricalRisk,
    parameters: Parameters,
    *,
    execution: Execution,
    recording_bytes: int | None,
    progress: Progress,
    num_columns: int | None = None,
    fallback: Fallback | None = None,
) -> RiskOperator:
    """Return the matrix of the request's block, or of all its blocks together, at these parameters.

    Args:
        request: Names the matrix, its blocks and the precision of products.
        risk: The function whose second derivatives are taken.
        parameters: Where they are taken.
        execution: How recorded products run.
        recording_bytes: Memory of recordings; None: all are held.
        progress: Called after each micro-batch that is recorded.
        num_columns: Number of vectors that are multiplied at once.
        fallback: How products are computed if not from a recording.

    Raises:
        NonFiniteError: If the gradient holds NaN or infinity.
    """
    kind = _OPERATORS[request.matrix]
    reduced = _REDUCED.get(request.product_precision)
    block = request.block if request.blocks is None else request.blocks
    operator = kind(
        risk,
        parameters,
        block=block,
        memory_bytes=recording_bytes,
        execution=execution,
        matmul_precision=reduced,
        progress=progress,
        num_columns=num_columns,
        fallback=fallback,
    )
    operator.checked_gradient_norm()  # an error before hours of products, and before recordings take the memory
    return operator


def measured_deviation(request: SpectrumRequest, operator: RiskOperator) -> float | None:
    """||(A' - A) v|| / ||A v|| of reduced products A' from those in float32; None where nothing is reduced."""
    if request.product_precision in _REDUCED and operator.precision_deviation is None:
        # the columns of an exact spectrum are not compared: one product more is
        probe = sphere_probe(operator.dim, generator_of(request.seed))
        operator.matvec(probe.to(dtype=operator.dtype, device=operator.device))
    return operator.precision_deviation
