"""Functional Hessian of the empirical risk."""

from hessian_spectrum.curvature.operators.risk_operator import RiskOperator


class FunctionalOperator(RiskOperator):
    """F = H - G = sum_k r_k d^2 f_k / d theta^2, with r = dL/df: the Hessian minus the Gauss-Newton matrix.

    It is computed directly, not as a difference of two products, so that nothing cancels.

    References:
        Singh, Bachmann & Hofmann, Analytic Insights into Structure and Rank of Neural Network Hessian Maps, 2021.
    """

    matrix = "functional"
