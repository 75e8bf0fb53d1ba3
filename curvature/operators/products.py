"""Products of the three second-derivative matrices with one direction, by forward over reverse."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jvp, vjp

from curvature.parameters import Parameters
from curvature.risk import EmpiricalRisk

Matrix = Literal["hessian", "ggn", "functional"]


def product(
    matrix: Matrix,
    risk: EmpiricalRisk,
    index: int,
    outputs_at: Callable[[Parameters], Tensor],
    point: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    rows: Collection[str],
) -> Parameters:
    """Rows `rows` of A_b v, for the share of micro-batch b = `index` in the risk, at `point`.

    With outputs f, their Jacobian J, and the loss l of the outputs, r = dl/df and H_l = d^2 l/df^2:

        hessian     d(J^T r)[v]          = J^T H_l J v + dJ[v]^T r
        ggn         J^T H_l J v
        functional  dJ[v]^T r

    One forward pass with tangents, one backward pass; r and H_l are the closed forms of the loss. For use inside vmap
    and `record` as well.

    Args:
        outputs_at: f of that micro-batch at given parameters, or whatever else `point` names.
        direction: v by parameter name; parameters that are not named have no tangent, and cost none.
        rows: names of the parameters whose rows are wanted; the others cost none.
    """

    def pulled_back(moving: Parameters) -> Parameters:
        current = {**point, **moving}

        def outputs_of(leaves: Parameters) -> Tensor:
            return outputs_at({**current, **leaves})

        outputs, pull = vjp(outputs_of, {name: current[name] for name in rows})  # type: ignore[misc]
        primal, tangent = forward_ad.unpack_dual(outputs)  # type: ignore[no-untyped-call]
        if matrix == "ggn":
            with forward_ad._set_fwd_grad_enabled(False):
                return pull(risk.loss_hessian_product(index, primal, tangent))[0]  # type: ignore[no-any-return]
        return pull(risk.residual(index, outputs if matrix == "hessian" else primal))[0]  # type: ignore[no-any-return]

    moving = {name: point[name] for name in direction}
    values, changes = jvp(pulled_back, (moving,), (dict(direction),))  # type: ignore[misc]
    return values if matrix == "ggn" else changes  # type: ignore[no-any-return]
