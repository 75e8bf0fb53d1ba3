"""A check of products before they are trusted: against their transpose, double backward and differences of gradients.

Both ways in which PyTorch computes second derivatives are silently wrong for some operators, and no single comparison
finds all of these. The transpose finds operators whose forward and reverse modes differ, double backward those whose
forward mode is wrong, and differences those for which both are wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.linear_algebra import sphere_probe
from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import ParameterLayout, Parameters
from hessian_spectrum.curvature.operators.products import Fallback, is_memory_error
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.quadrature.exceptions import CurvatureError, InvalidProblemError

Check = Literal["transpose", "double-backward", "differences"]

MAX_BATCHES, MAX_SAMPLES = 4, 16
"""Number of micro-batches of which samples are checked, and number of samples of each, evenly spaced."""

MIN_MIXED_SAMPLES = 3
"""Smallest number of samples of a micro-batch that consists of more than the first and the last."""

TOLERANCE_OF_DIFFERENCES = 1e-4
"""Largest relative error with which a product by central differences is conclusive."""

STEP = 1e-5
"""Length of a step for central differences, divided by the norm of the parameters."""

BYTES_PER_PARAMETER = 80
"""Memory of central differences in bytes for each parameter: vectors in double precision."""


@dataclass(frozen=True)
class SelfCheck:
    """What a check found.

    Attributes:
        passed: Comparisons in which products agree.
        failed: Comparisons in which they differ; empty if products may be trusted as they are computed.
        fallback: How products are to be computed instead; None if they stay as they are.
    """

    passed: tuple[Check, ...]
    failed: tuple[Check, ...] = ()
    fallback: Fallback | None = None


class WrongProductsError(InvalidProblemError):
    """Raised if products are wrong however they are computed."""


class MixedSamplesError(InvalidProblemError):
    """Raised if the loss depends on how samples are split into micro-batches."""


def check_independence(risk: EmpiricalRisk, parameters: Parameters) -> None:
    """Check that the outputs of a sample do not depend on the samples beside it, if there are several micro-batches.

    The outputs of the first and the last sample of a micro-batch are compared with those of the two alone. They differ,
    for example, in a network with a mean over samples, or with a contrastive loss between the samples of a batch.

    Args:
        risk: The risk.
        parameters: Parameters by name.

    Raises:
        MixedSamplesError: If they do.
    """
    first = risk.batches[0].in_memory()
    if len(risk.batches) == 1 or risk.model.fixed_size is not None or len(first) < MIN_MIXED_SAMPLES:
        return
    ends = torch.tensor([0, len(first) - 1])
    with torch.no_grad():
        together = risk.model(parameters, first.inputs)[ends.to(first.targets.device)].double()
        alone = risk.model(parameters, first.take(ends).inputs).double()
    eps = max(torch.finfo(each.dtype).eps for each in parameters.values())
    if not float((together - alone).norm()) <= 100 * eps**0.5 * float(together.norm() + alone.norm()):
        num_samples = sum(map(len, risk.batches))
        raise MixedSamplesError(
            f"the network mixes samples: the outputs of two samples depend on the other samples, and {num_samples} "
            f"samples do not fit in memory together, only {len(first)} do. Send fewer samples, use a worker with more "
            "memory, or export the network for a fixed number of samples, which are then evaluated together"
        )


def checked_samples(risk: EmpiricalRisk, *, share: int = 1) -> EmpiricalRisk | None:
    """Return the risk of a few samples of a few micro-batches.

    Args:
        risk: The risk of all data.
        share: At most 1 / share of the samples of a micro-batch are used, because memory is limited.

    Returns:
        The risk; None if there are too few samples.
    """
    fixed = risk.model.fixed_size
    useful = [batch for batch in risk.batches if risk.loss.weight(batch.targets) > 0]
    chosen = [useful[index] for index in _spaced(len(useful), MAX_BATCHES)]
    batches = [batch if fixed is not None and share == 1 else _sampled(batch, share) for batch in chosen]
    kept = [each for each in batches if each is not None and risk.loss.weight(each.targets) > 0]
    if not kept or (fixed is not None and share > 1):
        return None
    return EmpiricalRisk(risk.model, risk.loss, kept)


def self_check(
    kind: type[RiskOperator],
    risk: EmpiricalRisk,
    parameters: Parameters,
    *,
    block: str | Sequence[str] | None = None,
    fallback: Fallback | None = None,
    generator: torch.Generator,
    has_memory_for_differences: bool = True,
) -> SelfCheck:
    """Compare a product with its transpose, with double backward, and with central differences of gradients.

    Products differ if their distance exceeds 10 sqrt(eps) of the larger one, and 1e-4 for differences, which are always
    taken in double precision. Differences are not used if two step lengths give different results, as at a kink, or if
    their matrix is not symmetric, as when a part of the network is held fixed.

    Args:
        kind: The matrix.
        risk: Risk of the samples that are used.
        parameters: Parameters by name at which the matrix is evaluated.
        block: Glob on parameter names, or several; None for all.
        fallback: How products are computed if they must not be recorded.
        generator: Draws the two vectors, on the CPU.
        has_memory_for_differences: Whether differences are taken; they need 80 bytes for each parameter.

    Returns:
        What was found, with double backward as the fallback if only that is right.

    Raises:
        WrongProductsError: If double backward is wrong, too.
    """
    operator = kind(risk, parameters, block=block, fallback=fallback)
    vectors = [sphere_probe(operator.dim, generator).to(operator.device, operator.dtype) for _ in range(2)]
    products = [operator.matvec(vector) for vector in vectors]
    is_reverse = operator.fallback is not None and operator.fallback.method == "double-backward"
    found = _Comparison(
        vectors=vectors,
        products=products,
        references=_References(kind, risk, parameters, operator.layout, block),
        tolerance=10 * torch.finfo(operator.dtype).eps ** 0.5,
        floor=_rounding_floor(risk, parameters),
        has_reverse=not is_reverse,
        has_differences=has_memory_for_differences,
    )
    agreements = found.agreements()
    passed = tuple(name for name, agrees in agreements.items() if agrees)
    failed = tuple(name for name, agrees in agreements.items() if not agrees)
    if not failed or (failed == ("double-backward",) and "differences" in passed):
        return SelfCheck(passed, failed)
    reason = f"products of this network are wrong: {_described(failed)}"
    if not found.is_double_backward_right():
        raise WrongProductsError(f"{reason}, and double backward is wrong as well")
    return SelfCheck(passed, failed, Fallback("double-backward", reason))


_DESCRIPTIONS: dict[Check, str] = {
    "transpose": "v.Aw differs from w.Av",
    "double-backward": "they differ from double backward",
    "differences": "they differ from differences of gradients",
}


def _described(failed: Sequence[Check]) -> str:
    return " and ".join(_DESCRIPTIONS[each] for each in failed)


def _spaced(length: int, most: int) -> list[int]:
    """Return at most `most` indices below `length`, evenly spaced, the first and the last included."""
    count = min(length, most)
    return [round(index * (length - 1) / max(1, count - 1)) for index in range(count)]


def _sampled(batch: Dataset, share: int) -> Dataset | None:
    count = min(MAX_SAMPLES, len(batch) // share)
    return batch.take(torch.tensor(_spaced(len(batch), count))) if count else None


def _is_symmetric(vectors: Sequence[Tensor], products: Sequence[Tensor], tolerance: float) -> bool:
    """Return whether v.Aw = w.Av; a random unit vector sees only 1/sqrt(P) of an error of Aw."""
    (v, w), (av, aw) = [each.double() for each in vectors], [each.double() for each in products]
    scale = float(av.norm() + aw.norm()) / math.sqrt(len(v))
    return abs(float(v @ aw - w @ av)) <= tolerance * scale


def _rounding_floor(risk: EmpiricalRisk, parameters: Parameters) -> float:
    """Return the norm below which products are rounding errors, relative to ||g|| / ||theta||."""
    _, gradient = risk.value_and_gradient(parameters)
    size = math.hypot(*(float(each.norm()) for each in parameters.values()))
    eps = max(torch.finfo(each.dtype).eps for each in parameters.values())
    return 100 * eps**0.5 * math.hypot(*(float(each.norm()) for each in gradient.values())) / size if size else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Comparison:
    """Products Av and Aw, and the references with which they are compared.

    Attributes:
        vectors: v and w.
        products: Av and Aw, as they are computed.
        references: The same products, computed in other ways.
        tolerance: Largest relative difference.
        floor: Norm below which products are rounding errors.
        has_reverse: Whether they are compared with double backward.
        has_differences: Whether there is memory for differences.
    """

    vectors: Sequence[Tensor]
    products: Sequence[Tensor]
    references: "_References"
    tolerance: float
    floor: float
    has_reverse: bool
    has_differences: bool

    def agreements(self) -> dict[Check, bool]:
        """Return for each comparison whether the products agree; comparisons that decide nothing are omitted."""
        found: dict[Check, bool] = {"transpose": self._is_transpose_equal}
        if self._reverse is not None:
            found["double-backward"] = not self._differ(self.products[0], self._reverse, self.tolerance)
        if self._difference is not None:
            found["differences"] = not self._differ(self.products[0], self._difference, self._wide)
        return found

    def is_double_backward_right(self) -> bool:
        """Return whether double backward has what products lack: the value of the differences, or else symmetry."""
        if self._reverse is None:
            return False
        if self._difference is not None:
            return not self._differ(self._reverse, self._difference, self._wide)
        again = self.references.double_backward(self.vectors[1])
        return again is not None and _is_symmetric(self.vectors, [self._reverse, again], self.tolerance)

    @property
    def _wide(self) -> float:
        return max(self.tolerance, TOLERANCE_OF_DIFFERENCES)

    @cached_property
    def _is_transpose_equal(self) -> bool:
        return _is_symmetric(self.vectors, self.products, self.tolerance)

    @cached_property
    def _reverse(self) -> Tensor | None:
        return self.references.double_backward(self.vectors[0]) if self.has_reverse else None

    @cached_property
    def _difference(self) -> Tensor | None:
        """A v by differences; None if they decide nothing."""
        difference = self.references.differences(self.vectors[0]) if self.has_differences else None
        if difference is None:
            return None
        if self._is_transpose_equal and not self._differ(self.products[0], difference, self._wide):
            return difference
        # what is held fixed, as in a region without gradients, moves here: the gradient is then that of no function
        other = self.references.differences(self.vectors[1])
        is_symmetric = other is not None and _is_symmetric(self.vectors, [difference, other], self._wide)
        return difference if is_symmetric else None

    def _differ(self, one: Tensor, other: Tensor, tolerance: float) -> bool:
        one, other = one.double(), other.double()
        scale = max(float(one.norm()), float(other.norm()), self.floor)
        return not float((one - other).norm()) <= tolerance * scale


@dataclass(frozen=True)
class _References:
    """Products of the same matrix that are computed in other ways."""

    kind: type[RiskOperator]
    risk: EmpiricalRisk
    parameters: Parameters
    layout: ParameterLayout
    block: str | Sequence[str] | None

    def double_backward(self, vector: Tensor) -> Tensor | None:
        """Return A v by two reverse passes; None if the network cannot be differentiated twice in reverse."""
        fallback = Fallback("double-backward", "")
        try:
            return self.kind(self.risk, self.parameters, block=self.block, fallback=fallback).matvec(vector)
        except CurvatureError:
            return None

    def differences(self, vector: Tensor) -> Tensor | None:
        """Return A v by central differences in double precision; None if two step lengths give different results."""
        try:
            batches = [batch.to(torch.float64, vector.device) for batch in self.risk.batches]
            risk = EmpiricalRisk(self.risk.model, self.risk.loss, batches)
            point = {name: values.double() for name, values in self.parameters.items()}
            length = math.hypot(*(float(point[name].norm()) for name in self.layout.names)) or 1.0
            coarse, fine = (
                self._central(risk, point, vector=vector.double(), step=STEP * length / divisor) for divisor in (1, 3)
            )
        except (CurvatureError, RuntimeError, TypeError) as error:
            if is_memory_error(error):
                raise
            return None  # the network's own code may support only one precision
        scale = max(float(coarse.norm()), float(fine.norm()))
        return fine if float((coarse - fine).norm()) <= TOLERANCE_OF_DIFFERENCES / 4 * scale else None

    def _central(self, risk: EmpiricalRisk, point: Parameters, *, vector: Tensor, step: float) -> Tensor:
        """Differences along v: of J^T r for the Hessian, of J^T with r held fixed, or of f for J^T H_l J."""
        direction = self.layout.unflatten(step * vector)
        ahead, behind = (
            {**point, **{name: point[name] + sign * direction[name] for name in direction}} for sign in (1, -1)
        )
        total = torch.zeros_like(vector)
        for index, batch in enumerate(risk.batches):
            if self.kind.matrix == "ggn":
                with torch.no_grad():
                    outputs, one, other = (risk.model(each, batch.inputs) for each in (point, ahead, behind))
                    change = risk.loss.hessian_product(outputs, batch.targets, (one - other) / (2 * step))
                total += self._pulled(risk, index, point, cotangent=change / risk.weight)
                continue
            residual = None
            if self.kind.matrix == "functional":
                with torch.no_grad():
                    residual = risk.residual(index, risk.model(point, batch.inputs))
            one, other = (self._pulled(risk, index, each, cotangent=residual) for each in (ahead, behind))
            total += (one - other) / (2 * step)
        return total

    def _pulled(self, risk: EmpiricalRisk, index: int, point: Parameters, *, cotangent: Tensor | None) -> Tensor:
        """Return J^T u of a micro-batch, with u = r at this point if none is given."""
        leaves = {name: point[name].detach().requires_grad_() for name in self.layout.names}
        with torch.enable_grad():
            outputs = risk.model({**point, **leaves}, risk.batches[index].inputs)
            if cotangent is None:
                cotangent = risk.residual(index, outputs.detach())
            if not outputs.requires_grad:
                return self.layout.flatten({name: torch.zeros_like(leaf) for name, leaf in leaves.items()})
            parts = torch.autograd.grad(outputs, list(leaves.values()), cotangent, materialize_grads=True)
        return self.layout.flatten(dict(zip(self.layout.names, parts, strict=True)))
