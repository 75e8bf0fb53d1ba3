"""The matrices of the empirical risk: of second derivatives, and of the gradients of its terms."""

from functools import cached_property

import torch
from torch import Tensor

from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator


class HessianOperator(RiskOperator):
    """H = d^2 L / d theta^2 = sum over micro-batches of J^T H_l J + sum_k r_k d^2 f_k / d theta^2.

    J = df/d theta of the outputs f, r = dL/df, H_l = d^2 L/df^2.
    """

    matrix = "hessian"


class GgnOperator(RiskOperator):
    """G = J^T H_l J, with J = df/d theta of the outputs f and H_l = d^2 L/df^2.

    G is the Hessian without the curvature of the network itself. It is positive semi-definite if the loss is convex in
    the outputs; otherwise it may have negative eigenvalues, as for `GaussianNll` at targets that differ from the mean.

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


class FisherOperator(RiskOperator):
    """J^T F_l J, with the Fisher information F_l of the model's distribution of the targets given the outputs.

    It equals the Gauss-Newton matrix where the second derivative of the loss does not depend on the target.

    References:
        Martens, New insights and perspectives on the natural gradient method, JMLR 21 (2020).
    """

    matrix = "fisher"


class EmpiricalFisherOperator(RiskOperator):
    """(1/N) sum_i g_i g_i^T of the gradients g_i of the N terms whose mean is the risk without weight decay.

    There is a term for each valid target: for each token of a language model, for example.

    References:
        Kunstner, Balles & Hennig, Limitations of the empirical Fisher approximation, NeurIPS 2019.
    """

    matrix = "empirical-fisher"


class GradientCovarianceOperator(RiskOperator):
    """(1/N) sum_i (g_i - g)(g_i - g)^T, with the gradients g_i of the N terms of the risk and their mean g.

    It is computed as the empirical Fisher matrix minus g g^T; `product_error` includes the cancellation.
    """

    matrix = "gradient-covariance"

    @cached_property
    def _removed(self) -> Tensor | None:
        """The mean gradient g (P,)."""
        risk = EmpiricalRisk(self._risk.model, self._risk.loss, self._risk.batches)
        with torch.enable_grad():
            _, gradient = risk.value_and_gradient(self._point)
        return self.layout.flatten({name: self._rescaled(name, gradient[name]) for name in self.layout.names})


OPERATORS: dict[str, type[RiskOperator]] = {
    "hessian": HessianOperator,
    "ggn": GgnOperator,
    "functional": FunctionalOperator,
    "fisher": FisherOperator,
    "empirical-fisher": EmpiricalFisherOperator,
    "gradient-covariance": GradientCovarianceOperator,
}
"""Operators by the names of their matrices."""
