"""The check of products of networks that are not built in, before a job relies on them."""

import logging

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.models.class_axis import ClassesLast
from hessian_spectrum.curvature.models.exported import Exported
from hessian_spectrum.curvature.operators.matrices import FunctionalOperator, GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.curvature.operators.self_check import (
    BYTES_PER_PARAMETER,
    WrongProductsError,
    checked_samples,
    self_check,
)
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.programs.operators import base_name
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.hardware import Hardware

SHARE_OF_MEMORY = 4
"""Divisor of the memory of a job that gives the largest memory of central differences."""

SHARE_OF_SAMPLES = 4
"""Divisor of a micro-batch whose samples are checked where the job fills more than half of the memory: double backward
holds more of each sample than a recording does."""

SUSPECTS = frozenset(
    f"aten.{name}"
    for name in (
        *("_weight_norm", "_weight_norm_interface", "embedding", "embedding_bag", "scatter_reduce", "scatter_reduce_"),
        *("linalg_solve", "linalg_solve_ex", "linalg_slogdet", "slogdet", "logdet", "linalg_det", "det", "linalg_eigh"),
        *("linalg_svdvals", "linalg_inv", "linalg_pinv", "linalg_qr", "lstm", "gru", "cdist", "norm"),
        *("grid_sampler", "grid_sampler_2d", "cumprod", "prod", "renorm"),
    )
)
"""Operators whose derivatives were seen to differ between the modes of PyTorch, in some version or use."""

_MATRICES: dict[str, type[RiskOperator]] = {
    each.matrix: each for each in (HessianOperator, GgnOperator, FunctionalOperator)
}

_logger = logging.getLogger(__name__)


def checked_fallback(
    request: SpectrumRequest,
    risk: EmpiricalRisk,
    parameters: Parameters,
    *,
    plan: ComputationPlan,
    hardware: Hardware,
    fallback: Fallback | None,
) -> Fallback | None:
    """Return how products are computed, after a check on a few samples of networks that are not built in.

    Args:
        request: Names the matrix and its blocks.
        risk: Risk of all data.
        parameters: Where the matrix is evaluated.
        plan: Memory of the job.
        hardware: Memory of the worker.
        fallback: How products are computed if it is already known that they must not be recorded.

    Returns:
        `fallback`, or double backward where products are wrong otherwise.

    Raises:
        WrongProductsError: If products are wrong in every way.
    """
    if risk.model.is_built_in:
        return fallback
    is_crowded = 2 * plan.peak_bytes > hardware.memory_bytes
    samples = checked_samples(risk, share=SHARE_OF_SAMPLES if is_crowded else 1)
    if samples is None:
        _logger.warning("products are not checked: there is no memory for it")
        return fallback
    num_parameters = sum(values.numel() for values in parameters.values())
    try:
        verdict = self_check(
            _MATRICES.get(request.matrix_kind, GgnOperator),
            samples,
            parameters,
            block=request.block if request.blocks is None else request.blocks,
            fallback=fallback,
            generator=generator_of(request.seed),
            has_memory_for_differences=SHARE_OF_MEMORY * BYTES_PER_PARAMETER * num_parameters < hardware.memory_bytes,
        )
    except WrongProductsError as error:
        raise WrongProductsError(f"{error}{_suspects(risk.model)}") from None
    fields = {"event": "checked", "passed": verdict.passed, "failed": verdict.failed}
    _logger.info("products are checked", extra=fields)
    if verdict.fallback is None:
        return fallback
    return Fallback(verdict.fallback.method, f"{verdict.fallback.reason}{_suspects(risk.model)}")


def _suspects(model: Model) -> str:
    """Say which operators of a program may be the cause."""
    model = model.model if isinstance(model, ClassesLast) else model
    if not isinstance(model, Exported):
        return ""
    found = {
        f"{name} in {call.module}" if call.module else name
        for call in model.program.calls()
        if (name := base_name(call.op)) in SUSPECTS
    }
    return f"; of its operators these may be the cause: {', '.join(sorted(found)[:8])}" if found else ""
