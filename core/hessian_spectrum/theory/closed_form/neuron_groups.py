"""Hessians made of groups of neurons, each of which couples its two layers by one number; exact at any width.

A neuron j has an incoming weight v_j and an outgoing weight w_j. For a group G of neurons let b_G be the vector with w
at the positions of v and v at the positions of w, which is the gradient of the output up to a factor. The Hessians here
are

    H = sum_G e_G [[0, I], [I, 0]]_G + sum_{G, G'} C_{GG'} b_G b_{G'}^T.

With h = (w + s v) / |w + s v|, s = +1 or -1, the vectors (h at v, s h at w) / sqrt(2) span a space that H maps to
itself, two dimensions per group; there H is the matrix s e_G on the diagonal plus C_{GG'} a_{G,s} a_{G',s'} with
a_{G,s} = |w + s v| / sqrt(2). Everywhere else (z, s z), z orthogonal to w + s v, is an eigenvector of s e_G.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.theory.closed_form.precision import (
    ZERO,
    Matrix,
    Number,
    Pair,
    exact_decimal,
    many_digits,
    symmetric_eigenpairs,
)
from hessian_spectrum.theory.closed_form.spectrum import Eigenvalue, zero_tolerance
from hessian_spectrum.theory.exceptions import TheoryError

Array = NDArray[np.float64]
Positions = NDArray[np.intp] | slice

SIGNS = (1, -1)

MAX_DECIMAL_GROUPS = 3
"""Largest number of linked groups that are diagonalised in decimal arithmetic; more are in float64."""


class NeuronMoments(NamedTuple):
    """Inner products of a group's weights."""

    norm_w: Number  # |w|^2
    norm_v: Number  # |v|^2
    inner: Number  # <w, v>

    @property
    def squares(self) -> tuple[Number, Number]:
        """a_{G,s}^2 = |w + s v|^2 / 2 for s = +1, -1."""
        half = (self.norm_w + self.norm_v) / 2
        return max(half + self.inner, 0 * half), max(half - self.inner, 0 * half)


def neuron_products(w: Array, v: Array) -> list[Pair]:
    """Pairs of vectors whose inner products are the NeuronMoments of these weights."""
    return [(w, w), (v, v), (w, v)]


class NeuronGroup(NamedTuple):
    """Neurons with one coupling.

    Attributes:
        w: Outgoing weights of shape (k,).
        v: Incoming weights of shape (k,).
        moments: Inner products of w and v.
        w_positions: Positions of w among all parameters.
        v_positions: Positions of v among all parameters.
        label: Name of the group in the spectrum; None if it has none.
    """

    w: Array
    v: Array
    moments: NeuronMoments
    w_positions: Positions
    v_positions: Positions
    label: str | None = None

    def _direction(self, sign: int) -> Array:
        """Unit vector h; any one if w + s v = 0."""
        total = self.w + sign * self.v
        largest = np.abs(total).max()
        if largest == 0.0:
            first: Array = np.eye(1, total.size)[0]
            return first
        total = total / largest
        unit: Array = total / np.linalg.norm(total)
        return unit

    def _placed(self, rows: Array, sign: int, num_parameters: int) -> Array:
        vectors = np.zeros((len(rows), num_parameters))
        vectors[:, self.v_positions] = rows / np.sqrt(2)
        vectors[:, self.w_positions] = sign * rows / np.sqrt(2)
        return vectors

    def outlier_direction(self, sign: int, num_parameters: int) -> Array:
        """Vector (h, s h) / sqrt(2) among all parameters: (num_parameters,)."""
        vector: Array = self._placed(self._direction(sign)[None], sign, num_parameters)[0]
        return vector

    def bulk(self, coupling: Number, num_parameters: int) -> list[Eigenvalue]:
        """Eigenvalues ±coupling, k - 1 times each, with their eigenvectors."""
        return [
            Eigenvalue(
                float(sign * coupling),
                self.w.size - 1,
                "bulk",
                self.label,
                basis=partial(self._bulk_basis, sign, num_parameters),
            )
            for sign in SIGNS
        ]

    def _bulk_basis(self, sign: int, num_parameters: int) -> Array:
        return self._placed(complement(self._direction(sign)), sign, num_parameters)

    def zeros(self, num_parameters: int) -> Eigenvalue:
        """2k zeros, for neurons that no sample affects."""

        def basis() -> Array:
            every: Array = np.eye(num_parameters)
            return np.vstack((every[self.w_positions], every[self.v_positions]))

        return Eigenvalue(0.0, 2 * self.w.size, "zero", self.label, basis=basis)


def complement(direction: Array) -> Array:
    """Orthonormal rows (k - 1, k) orthogonal to a unit vector (k,): a Householder reflection without its first row."""
    normal = direction.copy()
    normal[0] += np.copysign(1.0, normal[0])
    reflection: Array = np.eye(normal.size) - np.outer(normal, normal) / abs(normal[0])
    return reflection[1:]


def eigenpairs(matrix: Matrix) -> tuple[list[float], Matrix]:
    """Eigenvalues (n,), descending, and orthonormal eigenvectors (n, n), one per row, of a small reduced matrix."""
    values, vectors = symmetric_eigenpairs(matrix)
    order = sorted(range(len(values)), key=values.__getitem__, reverse=True)
    return [float(values[i]) for i in order], [vectors[i] for i in order]


class GroupedHessian(NamedTuple):
    """The Hessian defined in the module's docstring.

    Attributes:
        groups: Groups of neurons G.
        couplings: Couplings e_G.
        diagonal: Diagonal C_GG of the metric.
        off_diagonal: Metric C_{GG'} as a square matrix, whose diagonal is not read: None if all other entries are 0,
            decimal for up to MAX_DECIMAL_GROUPS groups, and float64 beyond.
        num_parameters: Number of all parameters.
    """

    groups: Sequence[NeuronGroup]
    couplings: Sequence[Number]
    diagonal: Sequence[Number]
    off_diagonal: Matrix | Array | None
    num_parameters: int

    @property
    def trace(self) -> Number:
        """sum_G C_GG |b_G|^2."""
        norms = (group.moments.norm_w + group.moments.norm_v for group in self.groups)
        return sum(entry * norm for entry, norm in zip(self.diagonal, norms, strict=True))

    def eigenvalues(self) -> list[Eigenvalue]:
        """The whole spectrum; groups that no metric entry above rounding links are solved separately."""
        eigenvalues: list[Eigenvalue] = []
        for pair, component in enumerate(self.components):
            eigenvalues += self._outliers(component, pair if len(component) == 1 else None)
        for group, coupling in zip(self.groups, self.couplings, strict=True):
            eigenvalues += group.bulk(coupling, self.num_parameters)
        return eigenvalues

    @property
    def is_coupled(self) -> bool:
        """Whether outliers of two groups are coupled."""
        return len(self.components) < len(self.groups)

    @property
    def components(self) -> list[list[int]]:
        """Lists of groups that the metric links, directly or through others; each list is solved separately."""
        if self.off_diagonal is None:
            return [[i] for i in range(len(self.groups))]
        sizes = np.sqrt(np.array([float(entry) for entry in self.diagonal]))
        linked = np.abs(np.array(self.off_diagonal, dtype=np.float64)) > zero_tolerance(1.0) * np.outer(sizes, sizes)
        components, waiting = [], set(range(len(self.groups)))
        while waiting:
            component, border = set(), {min(waiting)}
            while border:
                component |= border
                neighbours = np.flatnonzero(linked[sorted(border)].any(axis=0)).tolist()
                border = set(neighbours) - component
            waiting -= component
            components.append(sorted(component))
        return components

    def _outliers(self, component: list[int], pair: int | None) -> list[Eigenvalue]:
        label = self.groups[component[0]].label if len(component) == 1 else None
        outliers = _Outliers(self, component)
        values = self._pair(component[0]) if len(component) == 1 else outliers.eigenpairs[0]
        return [
            Eigenvalue(value, 1, "outlier", label, pair, basis=partial(outliers.basis, index))
            for index, value in enumerate(values)
        ]

    def _pair(self, i: int) -> tuple[float, float]:
        """Eigenvalues of one group's 2 x 2 matrix, descending, whose product is -e (e + 2 C <w, v>)."""
        coupling, metric, moments = self.couplings[i], self.diagonal[i], self.groups[i].moments
        plus, minus = moments.squares
        turn = coupling + metric * moments.inner
        large = metric * (plus + minus) / 2 + _square_root(turn * turn + metric * metric * plus * minus)
        # The other root of the quadratic formula would cancel.
        small = -coupling * ((turn + metric * moments.inner) / large) if large else large
        return float(large), float(small)

    def decimal_matrix(self, component: list[int]) -> Matrix:
        """The reduced matrix of few groups, with two rows per group."""
        directions = [(i, sign) for i in component for sign in SIGNS]
        squares = [exact_decimal(square) for i in component for square in self.groups[i].moments.squares]
        matrix = [
            [
                self._metric(i, j) * (square if row == column else (square * squares[column]).sqrt())
                for column, (j, _) in enumerate(directions)
            ]
            for row, ((i, _), square) in enumerate(zip(directions, squares, strict=True))
        ]
        for row, (i, sign) in enumerate(directions):
            matrix[row][row] += sign * exact_decimal(self.couplings[i])
        return matrix

    def _metric(self, i: int, j: int) -> Decimal:
        if i == j or self.off_diagonal is None:
            return exact_decimal(self.diagonal[i]) if i == j else ZERO
        return Decimal(self.off_diagonal[i][j])

    def float_matrix(self, component: list[int]) -> Array:
        """The reduced matrix of many groups, with two rows per group."""
        amplitudes = np.array([float(square.sqrt()) for i in component for square in self.groups[i].moments.squares])
        metric = np.array(self.off_diagonal, dtype=np.float64)[np.ix_(component, component)]
        np.fill_diagonal(metric, [float(self.diagonal[i]) for i in component])
        spread: Array = np.asarray(np.kron(metric, np.ones((2, 2))), dtype=np.float64)
        matrix: Array = spread * np.outer(amplitudes, amplitudes)
        matrix += np.diag([sign * float(self.couplings[i]) for i in component for sign in SIGNS])
        if not np.isfinite(matrix).all():
            raise TheoryError("the Hessian overflows float64: rescale the weights or the data")
        return matrix


def _square_root(value: Number) -> Number:
    """Square root in the precision of the number."""
    return value.sqrt() if isinstance(value, Decimal) else np.sqrt(value)


@dataclass(frozen=True)
class _Outliers:
    """The reduced problem of linked groups, solved on first use."""

    hessian: GroupedHessian
    component: list[int]

    @cached_property
    def eigenpairs(self) -> tuple[list[float], Matrix | Array]:
        """Eigenvalues, descending, and eigenvectors of the reduced matrix, one per row."""
        if len(self.component) <= MAX_DECIMAL_GROUPS:
            with localcontext(many_digits):
                return eigenpairs(self.hessian.decimal_matrix(self.component))
        values, columns = np.linalg.eigh(self.hessian.float_matrix(self.component))
        return values[::-1].tolist(), np.asarray(columns.T[::-1])

    def basis(self, index: int) -> Array:
        """The eigenvector among all parameters: (1, num_parameters)."""
        num_parameters = self.hessian.num_parameters
        vector = np.zeros(num_parameters)
        directions = ((i, sign) for i in self.component for sign in SIGNS)
        for (i, sign), coordinate in zip(directions, self.eigenpairs[1][index], strict=True):
            vector += float(coordinate) * self.hessian.groups[i].outlier_direction(sign, num_parameters)
        return vector.reshape(1, -1)
