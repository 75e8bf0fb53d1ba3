"""The three curves of a Lanczos result; workers make them first, the service makes them again for another smoothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from hessian_spectrum.quadrature.cumulative import cumulative_spectrum
from hessian_spectrum.quadrature.density import (
    LOG_EPSILON,
    LOG_KAPPA,
    MARGIN,
    check_epsilon,
    check_smoothing,
    log_spectral_density,
    spectral_density,
)
from hessian_spectrum.quadrature.results import Cumulative, Density, Quadrature


@dataclass(frozen=True)
class Smoothing:
    """How quadratures become curves; see `spectral_density` and `log_spectral_density`."""

    num_points: int
    kappa: float
    margin: float = MARGIN
    log_kappa: float = LOG_KAPPA
    log_epsilon: float = LOG_EPSILON  # in units of A

    def check(self) -> None:
        """Raises:  InvalidProblemError if a curve cannot be made."""
        check_smoothing(self.num_points, self.kappa, self.margin)
        check_smoothing(self.num_points, self.log_kappa, self.margin)
        check_epsilon(self.log_epsilon)


@dataclass(frozen=True, eq=False)
class SpectralCurves:
    """What smoothing makes of the quadratures of all probes."""

    density: Density
    log_density: Density  # of |lambda| + epsilon, on a geometric grid
    cumulative: Cumulative


def spectral_curves(
    quadratures: Sequence[Quadrature], smoothing: Smoothing, *, dim: int, num_steps: int, rounding: float
) -> SpectralCurves:
    """Density, log density and cumulative spectrum on grids of `smoothing.num_points` points.

    Args:
        quadratures: One for each probe.
        smoothing: Grids and widths.
        dim: P, the number of rows of the matrix.
        num_steps: Lanczos steps that were asked for, at most P.
        rounding: Machine epsilon of the products.

    Returns:
        The curves with their standard errors and bands.

    Raises:
        InvalidProblemError: If there is no quadrature, or the smoothing is not valid.
    """
    num_points, margin = smoothing.num_points, smoothing.margin
    return SpectralCurves(
        density=spectral_density(quadratures, dim, num_steps, num_points, smoothing.kappa, margin, rounding),
        log_density=log_spectral_density(
            quadratures, dim, num_steps, num_points, smoothing.log_kappa, margin, smoothing.log_epsilon, rounding
        ),
        cumulative=cumulative_spectrum(quadratures, dim, num_points, margin, rounding),
    )
