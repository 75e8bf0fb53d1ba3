"""Hessian of the empirical risk."""

import warnings
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from curvature.cost import BLOCK_BYTES, BLOCK_COLUMNS, TANGENT_COPIES
from curvature.errors import NonFiniteError
from curvature.operators.base import SymmetricOperator
from curvature.operators.linearisation import Map, linearise
from curvature.parameters import ParameterLayout
from curvature.progress import Progress, ignore_progress
from curvature.risk import EmpiricalRisk

# PyTorch 2.13 compiles its own decompositions with a function it deprecates, on the first dual tensor of a process
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


class HessianOperator(SymmetricOperator):
    """H = d^2 L / d theta^2 (P, P) at fixed parameters, in loss per squared parameter.

    The gradient of each micro-batch is linearised once (forward over reverse, primal values kept) and the linear graph
    is reused by every product; one product is compared with forward over reverse. Where PyTorch cannot linearise a
    model, each product runs forward over reverse anew; `fallback_reason` then says why, and is None otherwise. Without
    linearisation that is so from the start: slower, but one micro-batch's activations are held instead of all.

    Args:
        parameters: where the Hessian is taken; the order of names is that of the flat vector.
        linearised: whether to keep what products need of the primal pass of all micro-batches.
        progress: told as "linearisation" after each micro-batch.
    Attributes:  layout, of the flat vector; gradient (P,), of the risk at this point.
    Raises:  NonFiniteError if the gradient holds NaN or infinity.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        parameters: Mapping[str, Tensor],
        linearised: bool = True,
        progress: Progress = ignore_progress,
    ) -> None:
        self.layout = ParameterLayout.of(risk.model.parameter_shapes)
        self.fallback_reason: str | None = None
        self._point = self.layout.flatten({name: tensor.detach() for name, tensor in parameters.items()})
        self.gradient = torch.zeros_like(self._point)
        self._products: list[Map] = []
        for index in range(len(risk.batches)):
            self._products.append(self._differentiate(partial(self._batch_share, risk, index), linearised))
            progress("linearisation", index + 1, len(risk.batches))
        if not bool(self.gradient.isfinite().all()):
            raise NonFiniteError("the gradient holds NaN or infinity at these parameters")
        self._block_columns = self._bounded_columns(risk)

    @property
    def dim(self) -> int:
        """P, the number of parameters."""
        return len(self._point)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return self._point.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self._point.device

    def matvec(self, vector: Tensor) -> Tensor:
        """H v (P,)."""
        result = self._products[0](vector)
        for product in self._products[1:]:
            result = result + product(vector)
        return result

    def matmat(self, matrix: Tensor) -> Tensor:
        """H V (P, k), a bounded number of columns at once."""
        rows = matrix.T.contiguous()
        result = torch.empty_like(rows)
        for start in range(0, len(rows), self._block_columns):
            block = rows[start : start + self._block_columns]
            result[start : start + len(block)] = self.matvec(block[0]) if len(block) == 1 else vmap(self.matvec)(block)
        return result.T

    def _batch_share(self, risk: EmpiricalRisk, index: int, point: Tensor) -> Tensor:
        return risk.batch_share(index, self.layout.unflatten(point))

    def _differentiate(self, function: Map, linearised: bool) -> Map:
        """Map v -> (Hessian of `function`) v; adds the gradient of `function` to `self.gradient`."""
        gradient = grad(function)
        reference = partial(_forward_over_reverse, gradient, self._point)
        if not linearised:
            self.gradient += gradient(self._point)
            return reference
        try:
            value, product = linearise(gradient, self._point)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            self.fallback_reason = f"it cannot be traced: {type(error).__name__}: {error}"
            value, product = gradient(self._point), reference
        self.gradient += value.detach()
        if product is not reference and not self._agree(product, reference):
            self.fallback_reason = "its linearisation gave another product than forward over reverse"
            product = reference
        return product

    def _agree(self, product: Map, reference: Map) -> bool:
        """Whether both products agree on one vector: a trace may be wrong without an error."""
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(self.dim, generator=generator, dtype=torch.float64).to(self._point)
        expected = reference(vector)
        # not <=: products that are NaN are reported by the algorithms, and are no reason to fall back
        return not bool((product(vector) - expected).norm() > torch.finfo(self.dtype).eps ** 0.5 * expected.norm())

    def _bounded_columns(self, risk: EmpiricalRisk) -> int:
        num_activations = max(risk.model.num_activations(batch.inputs) for batch in risk.batches)
        column_bytes = self.dtype.itemsize * (4 * self.dim + TANGENT_COPIES * num_activations)
        return max(1, min(BLOCK_COLUMNS, BLOCK_BYTES // column_bytes))


def _forward_over_reverse(gradient: Map, point: Tensor, vector: Tensor) -> Tensor:
    return jvp(gradient, (point,), (vector,))[1]  # type: ignore[no-any-return]
