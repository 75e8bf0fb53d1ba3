"""Products of matrices of second derivatives and of gradients: forward over reverse, or by two reverse passes."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jvp, vjp, vmap

from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import ParameterLayout, Parameters
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Matrix = Literal["hessian", "ggn", "functional", "fisher", "empirical-fisher", "gradient-covariance"]

GAUSS_NEWTON: frozenset[Matrix] = frozenset({"ggn", "fisher", "empirical-fisher", "gradient-covariance"})
"""Matrices J^T B J with the Jacobian J of the outputs and a matrix B that couples only the outputs of each target."""

OF_GRADIENTS: frozenset[Matrix] = frozenset({"empirical-fisher", "gradient-covariance"})
"""Those of them whose B is the outer product of a gradient, which has rank 1."""


@dataclass(frozen=True)
class Fallback:
    """How products are computed if they cannot be recorded, and why they cannot be."""

    method: Literal["forward-over-reverse", "double-backward"]
    reason: str


def is_memory_error(error: BaseException) -> bool:
    """Return whether an allocation failed; on a CPU torch reports that by a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatchBlock:
    """Some rows and columns of A_b, the share of one micro-batch in a matrix, as a map of vectors.

    Attributes:
        matrix: Which matrix.
        risk: Risk whose second derivatives are computed.
        index: Index of the micro-batch.
        point: Parameters by name at which the matrix is evaluated.
        columns: Parameters of the columns.
        rows: Parameters of the rows.
        scale: Factors by which rows and columns are multiplied, by parameter name; None if there are none.
    """

    matrix: Matrix
    risk: EmpiricalRisk
    index: int
    point: Parameters
    columns: ParameterLayout
    rows: ParameterLayout
    scale: Parameters | None = None

    def forward_over_reverse(self, vectors: Tensor) -> Tensor:
        """Return the products with vectors (k, number of columns), of shape (k, number of rows)."""

        def single(vector: Tensor) -> Tensor:
            result = product(
                self.matrix,
                self.risk,
                self.index,
                features_at=partial(self.risk.features, self.index),
                point=self.point,
                direction=self._scaled(self.columns.unflatten(vector)),
                rows=self.rows.names,
            )
            return self.rows.flatten(self._scaled(result))

        return single(vectors[0]).unsqueeze(0) if len(vectors) == 1 else vmap(single)(vectors)

    def double_backward(self, vectors: Tensor) -> Tensor:
        """Return the same products as `forward_over_reverse`, for models whose code has no forward mode."""

        def outputs_at(point: Parameters) -> Tensor:
            return self.risk.model(point, self.risk.batches[self.index].inputs)

        def single(vector: Tensor) -> Tensor:
            result = double_backward_product(
                self.matrix,
                self.risk,
                self.index,
                outputs_at=outputs_at,
                point=self.point,
                direction=self._scaled(self.columns.unflatten(vector)),
                rows=self.rows.names,
            )
            return self.rows.flatten(self._scaled(result))

        return torch.stack([single(vector) for vector in vectors])

    def _scaled(self, parts: Parameters) -> Parameters:
        scale = self.scale
        return parts if scale is None else {name: scale[name] * part for name, part in parts.items()}


def product(
    matrix: Matrix,
    risk: EmpiricalRisk,
    index: int,
    *,
    features_at: Callable[[Parameters], Tensor],
    point: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    rows: Collection[str],
) -> Parameters:
    """Return rows `rows` of A_b v, for the share of micro-batch b = `index` in the risk, at `point`.

    With outputs f, their Jacobian J, and the loss l of the outputs, r = dl/df and H_l = d^2 l/df^2:

        hessian     d(J^T r)[v]          = J^T H_l J v + dJ[v]^T r
        ggn         J^T H_l J v
        functional  dJ[v]^T r
        fisher      J^T F_l J v, with the Fisher information F_l of the outputs

    and of the gradients J_i^T r_i of the terms i, one for each valid target:

        empirical-fisher, gradient-covariance  (N / W) sum_i J_i^T r_i r_i^T J_i v

    The covariance lacks the mean gradient, which no single micro-batch knows.

    The computation is one forward pass with tangents and one backward pass; r and H_l are the closed forms of the loss.
    If the model ends in an output layer f = h W^T, outputs and their tangents exist for one piece of the samples at a
    time. The function can be used inside vmap and `record`.

    Args:
        matrix: Which matrix.
        risk: Risk whose second derivatives are computed.
        index: Index of the micro-batch.
        features_at: Returns h, or f itself without such a layer, of that micro-batch, at given values of everything
            that `point` names.
        point: Parameters by name at which the matrix is evaluated.
        direction: v by parameter name; parameters that are not named have no tangent and no cost.
        rows: Names of the parameters whose rows are computed; the others have no cost.

    Returns:
        The rows by parameter name.
    """
    head = risk.model.head_name

    def pulled_back(moving: Parameters) -> tuple[Parameters, list[Tensor]]:
        current = {**point, **moving}

        def features_of(leaves: Parameters) -> Tensor:
            return features_at({**current, **leaves})

        features, pull = vjp(features_of, {name: current[name] for name in rows})  # type: ignore[misc]
        head_rows: list[Tensor] = []
        weight, rows_of_head = (None, None) if head is None else (current[head], head_rows if head in rows else None)
        cotangent = _feature_cotangent(matrix, risk, index, features=features, weight=weight, head_rows=rows_of_head)
        with _backwards(matrix):
            # otherwise it follows the mode outside, and without gradients some first derivatives are computed in ways
            # that forward mode does not follow, without an error (PyTorch 2.13: slogdet, solve)
            return pull(cotangent / risk.weight, create_graph=True)[0], head_rows

    moving = {name: point[name] for name in direction}
    values, changes, head_rows = jvp(pulled_back, (moving,), (dict(direction),), has_aux=True)  # type: ignore[misc]
    result: Parameters = values if matrix in GAUSS_NEWTON else changes
    for part in head_rows:
        assert head is not None
        result[head] = part.add_(result[head])
    return result


def _feature_cotangent(
    matrix: Matrix,
    risk: EmpiricalRisk,
    index: int,
    *,
    features: Tensor,
    weight: Tensor | None,
    head_rows: list[Tensor] | None,
) -> Tensor:
    """Return the cotangent of the features, of their shape; without `weight` they are the outputs themselves."""
    if weight is None:
        return _output_cotangent(matrix, risk, outputs=features, targets=risk.batches[index].targets)
    parts = list(_through_head(matrix, risk, index, features=features, weight=weight, head_rows=head_rows))
    return torch.cat(parts).reshape(features.shape) if len(parts) > 1 else parts[0].reshape(features.shape)


def _output_cotangent(matrix: Matrix, risk: EmpiricalRisk, *, outputs: Tensor, targets: Tensor) -> Tensor:
    """Compute the cotangent of outputs: r with its tangent, r without it, or H_l times the outputs' tangent.

    The tangent of r is the closed form H_l u rather than autograd's, which stores the probabilities of a softmax twice.

    Args:
        matrix: Which matrix.
        risk: Risk whose second derivatives are computed.
        outputs: Outputs with their tangents.
        targets: Targets of the outputs.

    Returns:
        The cotangent, of the shape of the outputs.
    """
    primal, tangent = forward_ad.unpack_dual(outputs)  # type: ignore[no-untyped-call]
    with forward_ad._set_fwd_grad_enabled(False):
        if matrix in GAUSS_NEWTON:
            return output_product(matrix, risk, outputs=primal, targets=targets, direction=tangent)
        residual = risk.loss.gradient(primal, targets)
        if matrix == "functional" or tangent is None:
            return residual
        change = risk.loss.hessian_product(primal, targets, tangent)
    return forward_ad.make_dual(residual, change)  # type: ignore[no-any-return, no-untyped-call]


def output_product(
    matrix: Matrix, risk: EmpiricalRisk, *, outputs: Tensor, targets: Tensor, direction: Tensor
) -> Tensor:
    """Return B u for u = `direction`, each of the shape of the outputs, for a matrix J^T B J / W."""
    if matrix == "ggn":
        return risk.loss.hessian_product(outputs, targets, direction)
    if matrix == "fisher":
        return risk.loss.fisher_product(outputs, targets, direction)
    product = risk.loss.gradient_outer_product(outputs, targets, direction)
    # the terms whose mean over all N targets is the risk are N / W times those of the loss
    return product if risk.weight == risk.num_terms else product * (risk.num_terms / risk.weight)


def _backwards(matrix: Matrix) -> AbstractContextManager[object]:
    """Reverse pass; for Gauss-Newton matrices only the forward pass has tangents."""
    return forward_ad._set_fwd_grad_enabled(False) if matrix in GAUSS_NEWTON else nullcontext()


def _through_head(
    matrix: Matrix, risk: EmpiricalRisk, index: int, *, features: Tensor, weight: Tensor, head_rows: list[Tensor] | None
) -> Iterator[Tensor]:
    """Cotangents of the features (n, d), chunk by chunk.

    Args:
        matrix: Which matrix.
        risk: Risk whose second derivatives are computed.
        index: Index of the micro-batch.
        features: Features (n, d) with their tangents.
        weight: W (K, d), the output layer.
        head_rows: List to which the product's rows of W through the output layer are added; None if not needed.

    Yields:
        Cotangents of the features of one chunk after the other.
    """
    for chunk, targets in risk.output_chunks(index, features):
        cotangent = _output_cotangent(matrix, risk, outputs=chunk @ weight.T, targets=targets)
        with _backwards(matrix):
            yield cotangent @ weight
            if head_rows is not None:
                # the tangent of this product alone: its primal value would be as large as W
                rows = _change_of_product(matrix, cotangent, chunk / risk.weight)
                head_rows[:] = [head_rows[0] + rows if head_rows else rows]


def _change_of_product(matrix: Matrix, cotangent: Tensor, chunk: Tensor) -> Tensor:
    """s^T h for Gauss-Newton, where s is a tangent; otherwise the tangent of s^T h."""
    if matrix in GAUSS_NEWTON:
        return cotangent.T @ chunk
    (left, left_change), (right, right_change) = (forward_ad.unpack_dual(each) for each in (cotangent, chunk))  # type: ignore[no-untyped-call]
    change = left.T @ right_change if right_change is not None else None
    if left_change is None:
        return change if change is not None else torch.zeros_like(left.T @ right)
    part: Tensor = left_change.T @ right
    return part if change is None else part + change


def double_backward_product(
    matrix: Matrix,
    risk: EmpiricalRisk,
    index: int,
    *,
    outputs_at: Callable[[Parameters], Tensor],
    point: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    rows: Collection[str],
) -> Parameters:
    """Return rows `rows` of A_b v for micro-batch b = `index`, as `product`, without tangents.

    With outputs f, their Jacobian J, and r and H_l the first two derivatives of the loss with respect to the outputs:

        functional  dJ[v]^T r    = d/d theta <J^T r, v>, r held fixed
        ggn         J^T H_l J v, where J v = d/du <J^T u, v>
        hessian     the sum of both

    The other matrices are J^T B J v with another matrix B than H_l, as in `product`.

    Args:
        matrix: Which matrix.
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
            parts = _parts(matrix, risk, index, outputs_at=outputs_at, point=point, direction=direction, rows=rows)
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
    *,
    outputs_at: Callable[[Parameters], Tensor],
    point: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    rows: Collection[str],
) -> list[list[Tensor]]:
    """Return the summands of the product, each by row."""
    leaves = {name: point[name].detach().requires_grad_() for name in {*direction, *rows}}
    outputs, targets = outputs_at({**point, **leaves}), risk.batches[index].targets
    columns, vectors = [leaves[name] for name in direction], list(direction.values())
    row_leaves = [leaves[name] for name in rows]

    def slope(cotangent: Tensor) -> Tensor:
        """<J^T u, v> for cotangents u; zero if no output depends on the parameters."""
        if not outputs.requires_grad:
            return torch.zeros((), dtype=outputs.dtype, device=outputs.device)
        pulled = torch.autograd.grad(outputs, columns, cotangent, create_graph=True, materialize_grads=True)
        total = torch.stack([(part * vector).sum() for part, vector in zip(pulled, vectors, strict=True)]).sum()
        _check_differentiable(total)
        return total

    values, parts = outputs.detach(), []
    if matrix not in GAUSS_NEWTON:
        residual = risk.loss.gradient(values, targets) / risk.weight
        parts.append(_gradient(slope(residual), row_leaves))
    if matrix != "functional":
        cotangent = torch.zeros_like(values, requires_grad=True)
        (pushed,) = _gradient(slope(cotangent), [cotangent])
        kind: Matrix = matrix if matrix in GAUSS_NEWTON else "ggn"
        weighted = output_product(kind, risk, outputs=values, targets=targets, direction=pushed) / risk.weight
        parts.append(_gradient(outputs, row_leaves, weighted))
    return parts


def _gradient(value: Tensor, leaves: Sequence[Tensor], cotangent: Tensor | None = None) -> list[Tensor]:
    """Return the gradient, with zeros for leaves on which the value does not depend."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    gradients = torch.autograd.grad(value, leaves, cotangent, retain_graph=True, materialize_grads=True)
    return [part.detach() for part in gradients]


def _check_differentiable(value: Tensor) -> None:
    """Check that every function that the value depends on can be differentiated.

    Autograd reports no error if it is allowed to return zeros for unused leaves, and the product would be wrong.

    Args:
        value: Scalar with its graph.

    Raises:
        RuntimeError: If a derivative that the value depends on declares that it has no derivative itself.
    """
    visited, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if "Error" in node.name():
            raise RuntimeError("one of its functions is differentiable only once")
        waiting += [function for function, _ in node.next_functions]
