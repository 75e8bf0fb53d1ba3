"""This project's operators, as the benchmarks use them."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.problems import Problem
from hessian_spectrum.curvature.operators.matrices import GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.programs import Execution, MatmulPrecision, Mode
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator

Matrix = Literal["hessian", "ggn"]

OPERATORS: dict[Matrix, type[RiskOperator]] = {"hessian": HessianOperator, "ggn": GgnOperator}


@dataclass(frozen=True)
class Setting:
    """How products are taken: of all data at once and in the problem's precision, unless told otherwise."""

    micro_batch_size: int | None = None
    recording_bytes: int | None = None  # that recordings may hold
    matmul_precision: MatmulPrecision | None = None


WHOLE = Setting()


def our_operator(
    problem: Problem, matrix: Matrix, mode: Mode = "interpreted", *, num_products: int = 0, setting: Setting = WHOLE
) -> RiskOperator:
    """The operator before its first product; nothing is known from operators before it.

    Args:
        num_products: How many are to come, by which the mode "measured" decides.
    """
    operator = OPERATORS[matrix](
        problem.risk_of(setting.micro_batch_size),
        problem.parameters,
        memory_bytes=setting.recording_bytes,
        execution=Execution(num_products, mode=mode),
        matmul_precision=setting.matmul_precision,
    )
    operator.checked_gradient_norm()  # as a job does
    return operator
