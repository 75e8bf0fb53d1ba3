"""Hessian of the empirical risk."""

from hessian_spectrum.curvature.operators.risk_operator import RiskOperator


class HessianOperator(RiskOperator):
    """H = d^2 L / d theta^2 = sum over micro-batches of J^T H_l J + sum_k r_k d^2 f_k / d theta^2.

    J = df/d theta of the outputs f, r = dL/df, H_l = d^2 L/df^2.
    """

    matrix = "hessian"
