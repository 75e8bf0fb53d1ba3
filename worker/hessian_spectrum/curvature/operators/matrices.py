"""The three second-derivative matrices of the empirical risk."""

from hessian_spectrum.curvature.operators.risk_operator import RiskOperator


class HessianOperator(RiskOperator):
    """H = d^2 L / d theta^2 = sum over micro-batches of J^T H_l J + sum_k r_k d^2 f_k / d theta^2.

    J = df/d theta of the outputs f, r = dL/df, H_l = d^2 L/df^2.
    """

    matrix = "hessian"


class GgnOperator(RiskOperator):
    """G = J^T H_l J, with J = df/d theta of the outputs f and H_l = d^2 L/df^2; positive semi-definite.

    G is the Hessian without the curvature of the network itself.

    References:
        Schraudolph, Neural Comput. 14 (2002) 1723-1738.
    """

    matrix = "ggn"


class FunctionalOperator(RiskOperator):
    """F = H - G = sum_k r_k d^2 f_k / d theta^2, with r = dL/df: the Hessian minus the Gauss-Newton matrix.

    It is computed directly, not as a difference of two products, so that nothing cancels.

    References:
        Singh, Bachmann & Hofmann, Analytic Insights into Structure and Rank of Neural Network Hessian Maps, 2021.
    """

    matrix = "functional"
