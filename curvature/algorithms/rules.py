"""Quadrature rules that agree with all that Lanczos knows of a probe; numpy alone."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from curvature.results import FloatArray, Quadrature

NEIGHBOUR_SHIFTS = (-1.0, 0.0, 1.0)


class Rule(NamedTuple):
    """sum(weights * f(nodes)) for v^T f(A) v."""

    nodes: FloatArray  # (m,) ascending
    weights: FloatArray  # (m,) >= 0, sum 1


@lru_cache(maxsize=64)  # several curves are made of the same quadratures
def compatible_rules(quadrature: Quadrature) -> tuple[Rule, ...]:
    """The Gauss rule of a probe, and three others of the same moments.

    A further step would border T by the remainder beta and an unknown coefficient a. Every a gives a rule that is
    exact to degree 2m like that of the probe's own measure (Gauss and Radau rules), and as a runs through all numbers
    its nodes sweep the gaps between those of the Gauss rule (a = infinity). Converged nodes stay. With
    a = alpha + (-1, 0, 1) beta, alpha the last coefficient, the four sets of nodes are equally spaced in the middle of
    a spectrum without gaps. What they disagree on, the steps have not resolved.

    Without residuals, and for an invariant subspace, the Gauss rule alone.

    Source:  Golub & Meurant, Matrices, Moments and Quadrature, 2010, chapter 6, for the rules.
    """
    rules = [Rule(quadrature.nodes, quadrature.weights)]
    residuals = quadrature.residuals
    largest = 0.0 if residuals is None else float(np.abs(residuals).max())
    if residuals is None or largest == 0:
        return tuple(rules)
    scaled = residuals / largest  # squares of the residuals themselves may underflow
    beta = largest * float(np.linalg.norm(scaled))
    alpha = float(quadrature.nodes @ scaled**2) / float(scaled @ scaled)
    bordered = np.zeros((len(residuals) + 1, len(residuals) + 1))
    np.fill_diagonal(bordered[:-1, :-1], quadrature.nodes)
    bordered[-1, :-1] = bordered[:-1, -1] = residuals
    start = np.append(np.sqrt(quadrature.weights), 0.0)  # the probe, in the basis of the nodes
    for shift in NEIGHBOUR_SHIFTS:
        bordered[-1, -1] = alpha + shift * beta
        nodes, vectors = np.linalg.eigh(bordered)
        rules.append(Rule(nodes, (start @ vectors) ** 2))
    return tuple(rules)
