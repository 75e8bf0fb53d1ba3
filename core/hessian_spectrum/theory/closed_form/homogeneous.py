"""Two-layer networks with scalar input and output and a positively homogeneous activation: ReLU and leaky ReLU."""

from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.closed_form.linear import (
    STATISTIC_NAMES,
    LinearMoments,
    SampleMoments,
    linear_spectrum,
    network_parameters,
)
from hessian_spectrum.theory.closed_form.neuron_groups import (
    GroupedHessian,
    NeuronGroup,
    NeuronMoments,
    neuron_products,
)
from hessian_spectrum.theory.closed_form.precision import ZERO, inner_products, many_digits
from hessian_spectrum.theory.closed_form.spectrum import Eigenvalue, Spectrum, Statistic, finite_array, matching_arrays

Vector = NDArray[np.float64]

_SUFFIXES = {"+": "_plus", "-": "_minus"}


def _groups_and_cells(
    w: Vector, v: Vector, *, x: Vector, y: Vector
) -> tuple[dict[str, NeuronGroup], dict[str, SampleMoments]]:
    """Neurons by sign of v_j, without empty groups; samples by sign of x_i, where those at 0 belong to no cell."""
    neurons = {"+": np.flatnonzero(v > 0), "-": np.flatnonzero(v < 0), "0": np.flatnonzero(v == 0)}
    neurons = {label: places for label, places in neurons.items() if places.size}
    samples = {"+": np.flatnonzero(x > 0), "-": np.flatnonzero(x < 0)}
    pairs = [pair for places in neurons.values() for pair in neuron_products(w[places], v[places])]
    for places in samples.values():
        if places.size:
            pairs += [(x[places], x[places]), (y[places], x[places])]
    products = iter(inner_products(*pairs))
    groups = {
        label: NeuronGroup(w[places], v[places], NeuronMoments(*islice(products, 3)), places, w.size + places, label)
        for label, places in neurons.items()
    }
    zeros = (ZERO, ZERO)
    cells = {
        sign: SampleMoments(places.size, *(islice(products, 2) if places.size else zeros))
        for sign, places in samples.items()
    }
    return groups, cells


@dataclass(frozen=True, kw_only=True)
class HomogeneousNetwork:
    """f(x) = sum_j w_j phi(v_j x), phi(a) = a for a > 0 and negative_slope a for a < 0, with its data.

    Neurons form groups by the sign of v_j, samples form cells by the sign of x_i. On a cell the network is linear in x,
    with slope theta = sum_G k_G <w_G, v_G>, where k_G = 1 if the signs agree and negative_slope otherwise.

    Attributes:
        groups: Groups of neurons, by sign.
        cells: Sums over the samples, by sign.
        num_neurons: Number of neurons m.
        num_samples: Number of samples n.
        negative_slope: Slope of the activation for negative arguments.
    """

    groups: dict[str, NeuronGroup]
    cells: dict[str, SampleMoments]
    num_neurons: int
    num_samples: int
    negative_slope: Decimal

    def factor(self, group: str, cell: str) -> Decimal:
        """phi'(v_j x_i); at v_j = 0 the negative slope, as in automatic differentiation."""
        return Decimal(1) if group == cell else self.negative_slope

    @cached_property
    def slopes(self) -> dict[str, Decimal]:
        """Slope theta on each cell."""
        return {
            cell: sum((self.factor(label, cell) * group.moments.inner for label, group in self.groups.items()), ZERO)
            for cell in self.cells
        }

    @cached_property
    def residual_sums(self) -> dict[str, Decimal]:
        """sum(delta x) over each cell."""
        return {cell: samples.residual_sum(self.slopes[cell]) for cell, samples in self.cells.items()}

    def coupling(self, group: str) -> Decimal:
        """e_G = mean over all samples of delta phi'(v_j x) x."""
        return (
            sum((self.factor(group, cell) * self.residual_sums[cell] for cell in self.cells), ZERO) / self.num_samples
        )

    def metric(self, group: str, other: str) -> Decimal:
        """C_{GG'} = mean over all samples of phi'_G phi'_{G'} x^2."""
        terms = (
            self.factor(group, cell) * self.factor(other, cell) * samples.sum_xx for cell, samples in self.cells.items()
        )
        return sum(terms, ZERO) / self.num_samples

    def reaches(self, group: str) -> bool:
        """Return whether any sample affects the neurons of a group."""
        return any(self.factor(group, cell) and samples.num_samples for cell, samples in self.cells.items())

    @cached_property
    def hessian(self) -> GroupedHessian:
        """Hessian of the groups that some sample affects."""
        labels = [label for label in self.groups if self.reaches(label)]
        return GroupedHessian(
            groups=[self.groups[label] for label in labels],
            couplings=[self.coupling(label) for label in labels],
            diagonal=[self.metric(label, label) for label in labels],
            off_diagonal=[[self.metric(label, other) for other in labels] for label in labels],
            num_parameters=2 * self.num_neurons,
        )

    def eigenvalues(self) -> list[Eigenvalue]:
        """The whole spectrum."""
        unreached = [
            group.zeros(2 * self.num_neurons) for label, group in self.groups.items() if not self.reaches(label)
        ]
        return [*self.hessian.eigenvalues(), *unreached]

    @property
    def num_dead(self) -> int:
        """Number of neurons with v_j = 0."""
        return self.groups["0"].w.size if "0" in self.groups else 0

    def notes(self) -> tuple[str, ...]:
        """Notes on cells without neurons or samples, and on dead neurons."""
        notes = [f"cell {cell} has no neurons" for cell in self.cells if cell not in self.groups]
        for label, group in self.groups.items():
            if label in self.cells and not self.reaches(label):
                notes.append(f"cell {label} has no samples: its {2 * group.w.size} eigenvalues are 0")
        if self.num_dead and not self.reaches("0"):
            notes.append(f"{self.num_dead} neuron(s) with v = 0 belong to no cell: two zeros each")
        elif self.num_dead:
            reason = "phi is not differentiable there, phi'(0) = negative_slope is taken"
            notes.append(f"{self.num_dead} neuron(s) with v = 0: {reason}")
        return tuple(notes)

    def counts(self) -> dict[str, Statistic]:
        """Numbers of neurons and samples by cell."""
        counts: dict[str, Statistic] = {"num_dead_neurons": self.num_dead}
        for cell, samples in self.cells.items():
            named = {
                "num_neurons": self.groups[cell].w.size if cell in self.groups else 0,
                "num_samples": samples.num_samples,
                "fraction": samples.num_samples / self.num_samples,
            }
            counts |= {name + _SUFFIXES[cell]: value for name, value in named.items()}
        return counts


def _network(w: Vector, v: Vector, *, x: Vector, y: Vector, negative_slope: Decimal) -> HomogeneousNetwork:
    groups, cells = _groups_and_cells(w, v, x=x, y=y)
    return HomogeneousNetwork(
        groups=groups, cells=cells, num_neurons=w.size, num_samples=x.size, negative_slope=negative_slope
    )


def _mean_loss(network: HomogeneousNetwork, x: Vector, y: Vector) -> float:
    slopes = {sign: float(slope) for sign, slope in network.slopes.items()}
    delta = np.where(x > 0, slopes["+"], slopes["-"]) * x - y
    return float(delta @ delta) / (2 * x.size)


@np.errstate(over="ignore", invalid="ignore")
def relu_spectrum(*, w: ArrayLike, v: ArrayLike, x: ArrayLike, y: ArrayLike) -> Spectrum:
    """Hessian spectrum of L = 1/(2n) sum_i (f(x_i) - y_i)^2 for f(x) = sum_j w_j max(v_j x, 0).

    Cell "+" consists of the neurons v_j > 0 and the samples x_i > 0, cell "-" of those below 0. Each cell has the
    spectrum of `linear_spectrum` on its own neurons and samples, times num_samples / n. Beyond the theorem: a cell
    without neurons contributes nothing, one without samples contributes zeros, a neuron with v_j = 0 contributes two
    zeros (relu'(0) = 0), and a sample x_i = 0 counts in n only.

    Args:
        w: Outgoing weights of shape (m,).
        v: Incoming weights of shape (m,).
        x: Inputs of shape (n,).
        y: Targets of shape (n,).

    Returns:
        2m eigenvalues in loss per squared parameter, with group = cell ("0" for neurons v_j = 0), pairs numbered from
        0, cell "+" first, and parameters in the order w, v. Statistics: num_dead_neurons, mean_loss, and for each cell
        with suffix _plus or _minus: num_neurons, num_samples, fraction = num_samples / n and every statistic of
        `linear_spectrum` except mean_loss, within the cell (before multiplication by fraction); these last are None if
        the cell has no neurons or no samples.

    Raises:
        TheoryError: For empty, unequal, non-finite or overflowing input.

    References:
        Cracking the Hessian, Theorem 3.4.
    """
    w, v = matching_arrays(("w", "v"), (w, v), 1)
    x, y = matching_arrays(("x", "y"), (x, y), 1)
    with localcontext(many_digits):
        network = _network(w, v, x=x, y=y, negative_slope=ZERO)
        statistics, notes = network.counts() | {"mean_loss": _mean_loss(network, x, y)}, list(network.notes())
        for cell, samples in network.cells.items():
            suffix, group = _SUFFIXES[cell], network.groups.get(cell)
            named: dict[str, Statistic] = dict.fromkeys(STATISTIC_NAMES)
            if group is not None and samples.num_samples:
                moments = LinearMoments.of(group.moments, samples)
                named = moments.statistics
                notes += moments.notes(suffix)
            statistics |= {name + suffix: value for name, value in named.items()}
        return Spectrum.of(
            kind="relu",
            parameters=network_parameters(w.size),
            method="closed-form",
            source="Cracking the Hessian, Theorem 3.4",
            eigenvalues=tuple(network.eigenvalues()),
            trace=float(network.hessian.trace),
            statistics=statistics,
            notes=tuple(notes),
        )


def _leaky_statistics(network: HomogeneousNetwork) -> dict[str, Statistic]:
    statistics = network.counts()
    for cell, samples in network.cells.items():
        named: dict[str, Statistic] = {
            "theta": float(network.slopes[cell]),
            "s2": float(samples.sum_xx / samples.num_samples) if samples.num_samples else None,
            "d": float(network.residual_sums[cell] / samples.num_samples) if samples.num_samples else None,
            "bulk": float(network.coupling(cell)) if cell in network.groups else None,
        }
        statistics |= {name + _SUFFIXES[cell]: value for name, value in named.items()}
    return statistics


@np.errstate(over="ignore", invalid="ignore")
def leaky_relu_spectrum(*, w: ArrayLike, v: ArrayLike, x: ArrayLike, y: ArrayLike, negative_slope: float) -> Spectrum:
    """Hessian spectrum of L = 1/(2n) sum_i (f(x_i) - y_i)^2 for f(x) = sum_j w_j phi(v_j x).

    phi(a) = a for a > 0 and negative_slope a for a < 0: the ReLU at slope 0, the linear network at 1, the absolute
    value at -1. Neurons are grouped by the sign of v_j. Group G has the bulk ±e_G, |G| - 1 times each, where e_G is the
    mean of delta phi'(v_j x) x, and the other eigenvalues solve a symmetric problem of two rows per group
    (`neuron_groups`).

    Args:
        w: Outgoing weights of shape (m,).
        v: Incoming weights of shape (m,).
        x: Inputs of shape (n,).
        y: Targets of shape (n,).
        negative_slope: Slope of phi for negative arguments, any finite number.

    Returns:
        2m eigenvalues in loss per squared parameter, with group = sign of v_j if an eigenvalue belongs to one, and
        parameters in the order w, v. Statistics: num_dead_neurons, mean_loss, and with suffix _plus or _minus
        num_neurons, num_samples, fraction, theta (f(x) = theta x on the cell), s2 and d within the cell, bulk = e_G.

    Raises:
        TheoryError: For empty, unequal, non-finite or overflowing input.

    References:
        Exact reduction beyond the sources; Cracking the Hessian, Theorems 3.1 and 3.4 are slopes 1 and 0.
    """
    slope = float(finite_array("negative_slope", negative_slope, 0))
    w, v = matching_arrays(("w", "v"), (w, v), 1)
    x, y = matching_arrays(("x", "y"), (x, y), 1)
    with localcontext(many_digits):
        network = _network(w, v, x=x, y=y, negative_slope=Decimal(slope))
        statistics = _leaky_statistics(network) | {"mean_loss": _mean_loss(network, x, y)}
        if slope == 1.0:
            note = "negative_slope 1 is the linear network: Theorem 3.1 answered, without groups"
            return replace(linear_spectrum(w=w, v=v, x=x, y=y), kind="leaky-relu", statistics=statistics, notes=(note,))
        return Spectrum.of(
            kind="leaky-relu",
            parameters=network_parameters(w.size),
            method="exact-reduction" if network.hessian.is_coupled else "closed-form",
            source="Cracking the Hessian, Theorems 3.1 and 3.4, extended to any slope",
            eigenvalues=tuple(network.eigenvalues()),
            trace=float(network.hessian.trace),
            statistics=statistics,
            notes=network.notes(),
        )


SPECTRA = {"relu": relu_spectrum, "leaky-relu": leaky_relu_spectrum}
