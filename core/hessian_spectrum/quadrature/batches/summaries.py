"""What Lanczos results say of many matrices."""

from dataclasses import dataclass

from hessian_spectrum.quadrature.batches.curves import CurveBatch
from hessian_spectrum.quadrature.batches.estimates import extremes, traces_and_frobenius
from hessian_spectrum.quadrature.batches.rules import QuadratureBatch
from hessian_spectrum.quadrature.curves import (
    Smoothing,
    SpectralCurves,
)
from hessian_spectrum.quadrature.results import (
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

    Raises:
        InvalidProblemError: If the smoothing is not valid.
    """
    smoothing.check()
    task = CurveBatch(batch, smoothing, dim=dim, num_steps=num_steps, rounding=rounding)
    moments = traces_and_frobenius(batch, dim, product_errors)
    ends = extremes(batch, product_errors, dim=dim, reorthogonalisation=reorthogonalisation)
    return [
        Summary(curves, smallest, largest, trace, frobenius)
        for curves, (trace, frobenius), (smallest, largest) in zip(task.curves(), moments, ends, strict=True)
    ]
