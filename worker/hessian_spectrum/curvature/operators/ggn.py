"""Generalised Gauss-Newton matrix of the empirical risk."""

from hessian_spectrum.curvature.operators.risk_operator import RiskOperator


class GgnOperator(RiskOperator):
    """G = J^T H_l J, with J = df/d theta of the outputs f and H_l = d^2 L/df^2; positive semi-definite.

    G is the Hessian without the curvature of the network itself.

    References:
        Schraudolph, Neural Comput. 14 (2002) 1723-1738.
    """

    matrix = "ggn"
