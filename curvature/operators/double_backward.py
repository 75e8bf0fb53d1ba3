"""Products of the three second-derivative matrices by two passes of reverse mode, for models without a forward mode."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from curvature.errors import InvalidProblemError
from curvature.heap import is_memory_error
from curvature.operators.products import Matrix
from curvature.parameters import Parameters
from curvature.risk import EmpiricalRisk


def double_backward_product(
    matrix: Matrix,
    risk: EmpiricalRisk,
    index: int,
    outputs_at: Callable[[Parameters], Tensor],
    point: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    rows: Collection[str],
) -> Parameters:
    """Rows `rows` of A_b v for micro-batch b = `index`, as `products.product`, without tangents.

    With outputs f, their Jacobian J, and r and H_l the first two derivatives of the loss by the outputs:

        functional  dJ[v]^T r    = d/d theta <J^T r, v>, r held fixed
        ggn         J^T H_l J v, where J v = d/du <J^T u, v>
        hessian     the sum of both

    Args:
        outputs_at: the model's outputs of that micro-batch at given parameters, built by autograd.
        direction: v by parameter name; parameters that are not named are held fixed.
    Raises:  InvalidProblemError if the model's code cannot be differentiated twice.
    """
    try:
        with torch.enable_grad():
            parts = _parts(matrix, risk, index, outputs_at, point, direction, rows)
    except (RuntimeError, NotImplementedError) as error:
        if is_memory_error(error):
            raise
        message = f"the model's code cannot be differentiated twice: {type(error).__name__}: {error!s:.300}"
        raise InvalidProblemError(message) from error
    return {name: torch.stack(each).sum(dim=0) for name, each in zip(rows, zip(*parts, strict=True), strict=True)}


def _parts(
    matrix: Matrix,
    risk: EmpiricalRisk,
    index: int,
    outputs_at: Callable[[Parameters], Tensor],
    point: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    rows: Collection[str],
) -> list[list[Tensor]]:
    """The summands of the product, each by row."""
    leaves = {name: point[name].detach().requires_grad_() for name in {*direction, *rows}}
    outputs, targets = outputs_at({**point, **leaves}), risk.batches[index].targets
    columns, vectors = [leaves[name] for name in direction], list(direction.values())
    wanted = [leaves[name] for name in rows]

    def slope(cotangent: Tensor) -> Tensor:
        """<J^T u, v> for cotangents u; zero where no output depends on the parameters."""
        if not outputs.requires_grad:
            return torch.zeros((), dtype=outputs.dtype, device=outputs.device)
        pulled = torch.autograd.grad(outputs, columns, cotangent, create_graph=True, materialize_grads=True)
        total = torch.stack([(part * vector).sum() for part, vector in zip(pulled, vectors, strict=True)]).sum()
        _check_differentiable(total)
        return total

    values, parts = outputs.detach(), []
    if matrix != "ggn":
        residual = risk.loss.gradient(values, targets) / risk.num_terms
        parts.append(_gradient(slope(residual), wanted))
    if matrix != "functional":
        cotangent = torch.zeros_like(values, requires_grad=True)
        (pushed,) = _gradient(slope(cotangent), [cotangent])
        weighted = risk.loss.hessian_product(values, targets, pushed) / risk.num_terms
        parts.append(_gradient(outputs, wanted, weighted))
    return parts


def _gradient(value: Tensor, leaves: Sequence[Tensor], cotangent: Tensor | None = None) -> list[Tensor]:
    """Zeros where the value does not depend on a leaf, or on none."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(value, leaves, cotangent, retain_graph=True, materialize_grads=True)
    return [part.detach() for part in found]


def _check_differentiable(value: Tensor) -> None:
    """Raises:  RuntimeError if a derivative that the value depends on says that it has none of its own.

    Autograd itself stays silent where zeros are to stand for what is unused, and the product would be wrong.
    """
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "Error" in node.name():
            raise RuntimeError("one of its functions is differentiable only once")
        waiting += [function for function, _ in node.next_functions]
