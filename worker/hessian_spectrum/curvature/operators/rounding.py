"""How much rounding changes products with a matrix, measured at a few samples.

The effect of rounding depends on the point: pre-activations of 100 have an error of 1e-5 in float32, and so has a tanh'
of that size. It is therefore measured by an equally small change of the parameters. This does not show errors that
arise inside operators of PyTorch; but in second derivatives such errors are not symmetric, so the asymmetry shows them.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hessian_spectrum.curvature.losses import EmpiricalRisk
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.operators.programs import Map

SENSITIVITY_MARGIN = 4
"""Factor by which rounding may change a product more than a change of every parameter by one epsilon did."""

ASYMMETRY_MARGIN, ASYMMETRY_VECTORS = 4, 4
"""Factor by which errors of products may be larger than their asymmetry, and number of products that measure it."""

POWER_STEPS = 4
"""Products for a lower bound on the norm of a matrix."""

SAMPLES, SHARE = 16, 8
"""Largest number of samples that are measured, and the reciprocal of the largest share of a crowded micro-batch."""


def few_samples(risk: EmpiricalRisk, *, is_crowded: bool) -> EmpiricalRisk | None:
    """Return the risk of at most 16 samples of the first micro-batch.

    Args:
        risk: The risk of all samples.
        is_crowded: Whether more than an eighth of the micro-batch may not fit in memory beside the recordings.

    Returns:
        The risk; None if there is nothing to measure.
    """
    first = risk.batches[0]
    count = min(SAMPLES, len(first) // SHARE if is_crowded else len(first))
    count = risk.model.fixed_size or count
    if count == 0:
        return None
    sample = first.take(torch.linspace(0, len(first) - 1, count).long())
    is_empty = risk.loss.weight(sample.targets) == 0
    return None if is_empty else EmpiricalRisk(risk.model, risk.loss, [sample])


@torch.no_grad()
def sensitivity(product_at: Callable[[Parameters], Map], point: Parameters, dim: int) -> float:
    """Return ||(B' - B) v|| / ||B v|| / eps for a random v, where in B' every parameter is one eps larger or smaller.

    Args:
        product_at: Returns the map V -> B V of rows (k, P), with B at given parameters.
        point: The parameters of B, by name.
        dim: P.

    Returns:
        The sensitivity, dimensionless; 0 if products are zero or not finite.
    """
    like = next(iter(point.values()))
    eps = torch.finfo(like.dtype).eps
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(1, dim, generator=generator, dtype=like.dtype).to(like.device)
    moved = {name: values * (1 + eps * random_signs(values, generator)) for name, values in point.items()}
    value, other = (product_at(each)(vector) for each in (point, moved))
    ratio = float((other - value).norm() / value.norm()) if value.any() else 0.0
    return ratio / eps if math.isfinite(ratio) else 0.0  # products that are NaN are reported by the algorithms


@torch.no_grad()
def asymmetry(product: Map, dim: int, *, like: Tensor) -> float:
    """Return ||B - B^T||_F / ||B|| / eps, estimated from random vectors.

    Args:
        product: The map V -> B V of rows (k, P).
        dim: P.
        like: Tensor of the precision and on the device of the vectors.

    Returns:
        The asymmetry, dimensionless; 0 if products are zero or not finite.
    """
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(ASYMMETRY_VECTORS, dim, generator=generator, dtype=like.dtype).to(like.device)
    products = product(rows).double()
    norm, vector = 0.0, products[:1]
    for _ in range(POWER_STEPS):
        vector = product((vector / vector.norm()).to(like.dtype)).double()
        norm = max(norm, float(vector.norm()))
    forms = rows.double() @ products.T
    pairs = ASYMMETRY_VECTORS * (ASYMMETRY_VECTORS - 1)
    ratio = float((forms - forms.T).norm()) / math.sqrt(pairs) / norm if norm > 0 else 0.0
    return ratio / torch.finfo(like.dtype).eps if math.isfinite(ratio) else 0.0


def random_signs(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return 1 or -1 for each of the values."""
    return (2 * torch.randint(0, 2, values.shape, generator=generator) - 1).to(values)
