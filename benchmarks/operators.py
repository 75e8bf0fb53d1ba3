"""This project's operators, as the benchmarks use them."""

from typing import Literal

from benchmarks.problems import Problem
from curvature.operators.execution import Execution, Mode
from curvature.operators.ggn import GgnOperator
from curvature.operators.hessian import HessianOperator
from curvature.operators.risk_operator import RiskOperator

Matrix = Literal["hessian", "ggn"]

OPERATORS: dict[Matrix, type[RiskOperator]] = {"hessian": HessianOperator, "ggn": GgnOperator}


def our_operator(problem: Problem, matrix: Matrix, mode: Mode = "interpreted", num_products: int = 0) -> RiskOperator:
    """The operator before its first product; nothing is known from operators before it.

    Args:  num_products, how many are to come, by which the mode "measured" decides.
    """
    return OPERATORS[matrix](problem.risk, problem.parameters, execution=Execution(num_products, mode))
