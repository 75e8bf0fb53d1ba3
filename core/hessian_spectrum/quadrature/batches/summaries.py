"""What Lanczos results say of many matrices."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hessian_spectrum.quadrature.batches.curves import CurveBatch
from hessian_spectrum.quadrature.batches.estimates import extremes, traces_and_frobenius
from hessian_spectrum.quadrature.batches.rules import QuadratureBatch
from hessian_spectrum.quadrature.curves import (
    Smoothing,
    SpectralCurves,
)
from hessian_spectrum.quadrature.deflation import completed_curves, completed_moments, deflated
from hessian_spectrum.quadrature.results import (
    Deflation,
    Estimate,
    FloatArray,
    Reorthogonalisation,
    RitzValue,
)


@dataclass(frozen=True, eq=False)
class Summary:
    """What a Lanczos result says of one matrix."""

    curves: SpectralCurves
    smallest: RitzValue
    largest: RitzValue
    trace: Estimate
    frobenius: Estimate


def summaries(
    batch: QuadratureBatch,
    smoothing: Smoothing,
    *,
    dim: int,
    num_steps: int,
    rounding: float,
    product_errors: FloatArray,
    reorthogonalisation: Reorthogonalisation,
    deflations: Sequence[Deflation] | None = None,
) -> list[Summary]:
    """Return curves, extremes and moments of each matrix.

    Args:
        batch: Gauss quadratures of all probes.
        smoothing: Grids and widths of the curves.
        dim: Number P of rows of each matrix.
        num_steps: Requested number of Lanczos steps, at most P.
        rounding: Machine epsilon of the products.
        product_errors: Relative errors of the products of each matrix (B,).
        reorthogonalisation: Whether the Lanczos vectors were reorthogonalised.
        deflations: What is known of each matrix, l eigenvalues of each; None: nothing.

    Raises:
        InvalidProblemError: If the smoothing is not valid.
    """
    smoothing.check()
    rest, rest_dim = batch, dim
    if deflations is not None:
        rest, rest_dim = _deflated(batch, deflations, dim), dim - len(deflations[0].eigenvalues)
    curves = CurveBatch(rest, smoothing, dim=rest_dim, num_steps=num_steps, rounding=rounding).curves()
    moments = traces_and_frobenius(rest, rest_dim, product_errors)
    if deflations is not None:
        curves = [
            completed_curves(own, known, smoothing, dim=dim, num_steps=num_steps)
            for own, known in zip(curves, deflations, strict=True)
        ]
        columns = zip(moments, deflations, product_errors.tolist(), strict=True)
        moments = [completed_moments(*each) for each in columns]
    ends = extremes(batch, product_errors, dim=dim, reorthogonalisation=reorthogonalisation)
    return [
        Summary(own, smallest, largest, trace, frobenius)
        for own, (trace, frobenius), (smallest, largest) in zip(curves, moments, ends, strict=True)
    ]


def _deflated(batch: QuadratureBatch, deflations: Sequence[Deflation], dim: int) -> QuadratureBatch:
    rest = [deflated(batch.quadratures(index), known, dim) for index, known in enumerate(deflations)]
    weights = np.array([[each.weights for each in probes] for probes in rest])
    residuals = np.array([[each.residuals for each in probes] for probes in rest])
    return replace(batch, weights=weights, residuals=residuals)
