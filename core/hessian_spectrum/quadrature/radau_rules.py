"""Quadrature rules that agree with everything that Lanczos determines about a probe; requires only numpy."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from hessian_spectrum.quadrature.results import FloatArray, Quadrature

NEIGHBOUR_SHIFTS = (-1.0, 0.0, 1.0)

# Nodes whose residual is smaller than this share of the largest are converged: no rule moves them.
CONVERGED_SHARE = 1e-9

# A rule is left out when the node that it was made for holds less than this number of eigenvalues.
NEGLIGIBLE_COUNT = 0.02


class Rule(NamedTuple):
    """A quadrature rule sum(weights * f(nodes)) for v^T f(A) v."""

    nodes: FloatArray  # (m,) ascending
    weights: FloatArray  # (m,) >= 0, sum 1


# Several curves, each in parts, are made of the same quadratures.
_known_rules: WeakKeyDictionary[Quadrature, tuple[Rule, ...]] = WeakKeyDictionary()


def compatible_rules(quadrature: Quadrature) -> tuple[Rule, ...]:
    """The Gauss rule of a probe, and three others with the same moments.

    A further step would border T by the remainder beta and an unknown coefficient a. Every a gives a rule that is exact
    to degree 2m like that of the probe's own measure (Gauss and Radau rules), and as a varies over all numbers its
    nodes sweep the gaps between those of the Gauss rule (a = infinity). Converged nodes stay in place. With a = alpha +
    (-1, 0, 1) beta, where alpha is the last coefficient, the four sets of nodes are equally spaced in the middle of a
    spectrum without gaps. Where the rules disagree, the steps have not resolved the measure.

    Args:
        quadrature: Gauss quadrature of the probe.

    Returns:
        The four rules; the Gauss rule alone if residuals are unknown or the subspace is invariant.

    References:
        Golub & Meurant, Matrices, Moments and Quadrature, 2010, chapter 6, for the rules.
    """
    found = _known_rules.get(quadrature)
    if found is None:
        found = _known_rules[quadrature] = _compatible_rules(quadrature)
    return found


def _compatible_rules(quadrature: Quadrature) -> tuple[Rule, ...]:
    gauss = Rule(quadrature.nodes, quadrature.weights)
    largest = _largest_residual(quadrature)
    if quadrature.residuals is None or largest == 0:
        return (gauss,)
    scaled = quadrature.residuals / largest  # squares of the residuals themselves may underflow
    beta = largest * float(np.linalg.norm(scaled))
    alpha = float(quadrature.nodes @ scaled**2) / float(scaled @ scaled)
    return (gauss, *_bordered_rules(quadrature, alpha + np.array(NEIGHBOUR_SHIFTS) * beta))


def rules_through(quadrature: Quadrature, places: FloatArray, dim: int) -> tuple[Rule, ...]:
    """Compatible rules that have a node at each of the given places.

    Such a rule puts as much weight on its place as any measure with the probe's moments can. The coefficient that
    borders T for it is a = x + sum_j residual_j^2 / (node_j - x), and the weight on x is the squared overlap of
    (residual_j / (x - node_j), 1), normalised, with the probe.

    Args:
        quadrature: Gauss quadrature of the probe.
        places: Positions x of shape (n,), in units of A.
        dim: Number of parameters P.

    Returns:
        At most n rules; those that would give their place a weight of less than 0.02 eigenvalues are omitted.

    References:
        Golub & Meurant, Matrices, Moments and Quadrature, 2010, chapter 6; Krein & Nudelman, The Markov Moment Problem
        and Extremal Problems, 1977, for canonical representations.
    """
    residuals = quadrature.residuals
    if residuals is None or _largest_residual(quadrature) == 0:
        return ()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        components = residuals / (places[:, None] - quadrature.nodes)
        coefficients = places - components @ residuals
        weights = (components @ np.sqrt(quadrature.weights)) ** 2 / (1 + (components**2).sum(axis=1))
        useful = np.isfinite(coefficients) & (weights * dim > NEGLIGIBLE_COUNT)
    return _bordered_rules(quadrature, coefficients[useful])


def _largest_residual(quadrature: Quadrature) -> float:
    return 0.0 if quadrature.residuals is None else float(np.abs(quadrature.residuals).max())


def _bordered_rules(quadrature: Quadrature, coefficients: FloatArray) -> tuple[Rule, ...]:
    """Rules of T with one more row and column, for each last coefficient (n,)."""
    residuals = quadrature.residuals
    assert residuals is not None
    moving = np.abs(residuals) > CONVERGED_SHARE * _largest_residual(quadrature)
    count = int(moving.sum())
    bordered = np.zeros((count + 1, count + 1))
    np.fill_diagonal(bordered[:-1, :-1], quadrature.nodes[moving])
    bordered[-1, :-1] = bordered[:-1, -1] = residuals[moving]
    start = np.append(np.sqrt(quadrature.weights[moving]), 0.0)  # the probe, in the basis of the nodes
    still = (quadrature.nodes[~moving], quadrature.weights[~moving])
    rules = []
    for coefficient in coefficients:  # one at a time: each takes as much memory as the dense T
        bordered[-1, -1] = coefficient
        nodes, vectors = np.linalg.eigh(bordered)
        weights = (start @ vectors) ** 2
        rules.append(_sorted(np.append(still[0], nodes), np.append(still[1], weights)))
    return tuple(rules)


def _sorted(nodes: FloatArray, weights: FloatArray) -> Rule:
    order = nodes.argsort(kind="stable")
    return Rule(nodes[order], weights[order])
