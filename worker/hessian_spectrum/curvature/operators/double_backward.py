"""Products of the three second-derivative matrices by two reverse passes, for models without a forward mode."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from hessian_spectrum.curvature.malloc_trim import is_memory_error
from hessian_spectrum.curvature.operators.products import Matrix
from hessian_spectrum.curvature.parameters import Parameters
from hessian_spectrum.curvature.risk import EmpiricalRisk
from hessian_spectrum.quadrature.errors import InvalidProblemError


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

    With outputs f, their Jacobian J, and r and H_l the first two derivatives of the loss with respect to the outputs:

        functional  dJ[v]^T r    = d/d theta <J^T r, v>, r held fixed
        ggn         J^T H_l J v, where J v = d/du <J^T u, v>
        hessian     the sum of both

    Args:
        matrix: Which of the three matrices.
        risk: Risk whose second derivatives are computed.
        index: Index of the micro-batch.
        outputs_at: Returns the model's outputs of that micro-batch at given parameters, built by autograd.
        point: Parameters by name at which the matrix is evaluated.
        direction: v by parameter name; parameters that are not named are held fixed.
        rows: Names of the parameters whose rows are computed.

    Returns:
        The rows by parameter name.

    Raises:
        InvalidProblemError: If the model's code cannot be differentiated twice.
        RuntimeError: If autograd fails for another reason.
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
    """Summands of the product, each by row."""
    leaves = {name: point[name].detach().requires_grad_() for name in {*direction, *rows}}
    outputs, targets = outputs_at({**point, **leaves}), risk.batches[index].targets
    columns, vectors = [leaves[name] for name in direction], list(direction.values())
    row_leaves = [leaves[name] for name in rows]

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
        parts.append(_gradient(slope(residual), row_leaves))
    if matrix != "functional":
        cotangent = torch.zeros_like(values, requires_grad=True)
        (pushed,) = _gradient(slope(cotangent), [cotangent])
        weighted = risk.loss.hessian_product(values, targets, pushed) / risk.num_terms
        parts.append(_gradient(outputs, row_leaves, weighted))
    return parts


def _gradient(value: Tensor, leaves: Sequence[Tensor], cotangent: Tensor | None = None) -> list[Tensor]:
    """Gradient, with zeros for leaves on which the value does not depend."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    gradients = torch.autograd.grad(value, leaves, cotangent, retain_graph=True, materialize_grads=True)
    return [part.detach() for part in gradients]


def _check_differentiable(value: Tensor) -> None:
    """Check that every function that the value depends on can be differentiated.

    Autograd itself reports nothing when zeros stand for unused leaves, and the product would be wrong.

    Args:
        value: Scalar with its graph.

    Raises:
        RuntimeError: If a derivative that the value depends on declares that it has no derivative itself.
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
