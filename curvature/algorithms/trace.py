"""Trace from the probes that Lanczos starts with."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from curvature.errors import InvalidProblemError
from curvature.results import Estimate


def trace_estimate(first_coefficients: Sequence[float], dim: int) -> Estimate:
    """tr A = P E[v^T A v] for v uniform on the unit sphere, where E[v v^T] = I / P.

    The first Lanczos coefficient is v^T A v, so no further product is needed. The standard error is that of the mean
    over probes.

    Args:  first_coefficients, v^T A v of each probe; dim, P.
    Returns:  in the unit of A; standard error None for a single probe.
    Raises:  InvalidProblemError if there is no probe.
    Source:  Hutchinson, Commun. Stat. Simul. Comput. 19 (1990) 433-450, with normalised Gaussian probes.
    """
    if not first_coefficients:
        raise InvalidProblemError("a trace estimate needs at least one probe")
    samples = dim * np.array(first_coefficients, dtype=np.float64)
    error = float(samples.std(ddof=1)) / sqrt(len(samples)) if len(samples) > 1 else None
    return Estimate(float(samples.mean()), error)
