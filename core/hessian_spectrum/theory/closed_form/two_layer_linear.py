"""Two-layer linear networks of any input and output dimension: exact at any width."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.closed_form.spectrum import (
    FLOAT64_RESOLUTION,
    Eigenvalue,
    Parameter,
    Role,
    Spectrum,
    Statistic,
    finite_array,
    zero_tolerance,
)
from hessian_spectrum.theory.exceptions import TheoryError

Array = NDArray[np.float64]
Flatten = Callable[[Array, Array], Array]

BLOCK_ROWS = 2**14
"""Number of neurons that are orthogonalised at once; few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class KnownEigenvalue:
    """An eigenvalue that is known in advance.

    Attributes:
        value: The eigenvalue.
        role: Role in the spectrum.
        inside: Its multiplicity in the reduced problem.
        directions: Pairs of unit vectors (first, second) such that W1 = z first^T, W2 = second z^T is an eigenvector
            for every z orthogonal to R.
        group: Index of the singular value; None if it belongs to none.
        pair: Number of the pair; None if it belongs to none.
    """

    value: float
    role: Role
    inside: int
    directions: Sequence[tuple[Array, Array]] = ()
    group: str | None = None
    pair: int | None = None


@dataclass(frozen=True)
class TwoLayerHessian:
    """The Hessian of L = 1/(2n) sum_i |W2 W1 x_i - y_i|^2 and its reduction.

    R = range[W1, W2^T] in R^m has at most r = min(m, D + K) dimensions. With S = mean(x x^T) and Omega = mean(delta
    x^T) the Hessian maps two kinds of spaces to themselves:

    - W1 = Q A, W2 = B Q^T, where Q (m, r) is an orthonormal basis of R: a symmetric problem of r (D + K) rows.
    - W1 = z a^T, W2 = b z^T with z orthogonal to R: there the Hessian couples a and b through Omega and does not depend
      on z.
    """

    W1: Array  # (m, D)
    W2: Array  # (K, m)
    S: Array  # (D, D)
    Omega: Array  # (K, D)
    flatten: Flatten  # from (m, D) and (K, m) to all parameters in their order

    @property
    def width(self) -> int:
        """Width m."""
        return len(self.W1)

    @property
    def num_inputs(self) -> int:
        """Input dimension D."""
        return len(self.W1.T)

    @property
    def num_outputs(self) -> int:
        """Output dimension K."""
        return len(self.W2)

    @property
    def rank(self) -> int:
        """Dimension r = min(m, D + K) of the reduction."""
        return min(self.width, self.num_inputs + self.num_outputs)

    @property
    def trace(self) -> float:
        """Trace tr(S) |W2|^2 + K tr(W1 S W1^T)."""
        metric = self.W1.T @ self.W1
        return float(np.trace(self.S) * np.vdot(self.W2, self.W2) + self.num_outputs * np.vdot(metric, self.S))

    @cached_property
    def singular(self) -> tuple[Array, Array, Array]:
        """Singular value decomposition Omega = U diag(sigma) V^T: U (K, K), sigma (min(D, K),), V^T (D, D)."""
        left, sigma, right = np.linalg.svd(self.Omega)
        return left, sigma, right

    def matrix(self, factor: Array) -> Array:
        """The Hessian on R, A before B, each row by row, where [W1, W2^T] = Q factor: (r (D + K), r (D + K))."""
        A, B = factor[:, : self.num_inputs], factor[:, self.num_inputs :].T
        upper = np.kron(B.T @ B, self.S)
        lower = np.kron(np.eye(self.num_outputs), A @ self.S @ A.T)
        cross = np.einsum("ka,db->adkb", B, self.S @ A.T) + np.einsum("kd,ab->adkb", self.Omega, np.eye(self.rank))
        cross = cross.reshape(self.rank * self.num_inputs, self.num_outputs * self.rank)
        return np.block([[upper, cross], [cross.T, lower]])

    @cached_property
    def reduced_eigenvalues(self) -> Array:
        """Eigenvalues on R, ascending: (r (D + K),)."""
        matrix = self.matrix(self._factor())
        if not np.isfinite(matrix).all():
            raise TheoryError("the Hessian overflows float64: rescale the weights or the data")
        return np.linalg.eigvalsh(matrix)  # type: ignore[return-value]

    def _factor(self) -> Array:
        """Triangular factor of a QR factorisation of [W1, W2^T], block by block: (r, D + K)."""
        starts = range(0, self.width, BLOCK_ROWS)
        blocks = [self._neurons(slice(start, start + BLOCK_ROWS)) for start in starts]
        if self.rank == self.width:
            return blocks[0]
        factors = [_triangular_factor(block) for block in blocks]
        return factors[0] if len(factors) == 1 else _triangular_factor(np.vstack(factors))

    def _neurons(self, rows: slice) -> Array:
        return np.hstack((self.W1[rows], self.W2[:, rows].T))

    @cached_property
    def _reduced_eigenvectors(self) -> tuple[Array, Array]:
        """Q (m, r), and the eigenvectors on R, one per row, in the order of `reduced_eigenvalues`."""
        weights = self._neurons(slice(None))
        basis, factor = (np.eye(self.width), weights) if self.rank == self.width else np.linalg.qr(weights)
        return basis, np.linalg.eigh(self.matrix(factor))[1].T

    @cached_property
    def _complement(self) -> Array:
        """Orthonormal vectors that are orthogonal to R: (m - r, m)."""
        if self.rank == self.width:
            return np.empty((0, self.width))
        return np.linalg.qr(self._neurons(slice(None)), mode="complete")[0][:, self.rank :].T

    def _basis(self, inside: Sequence[int], directions: Sequence[tuple[Array, Array]]) -> Array:
        basis, vectors = self._reduced_eigenvectors
        size = self.rank * self.num_inputs
        rows = [
            self.flatten(
                basis @ vectors[index, :size].reshape(self.rank, self.num_inputs),
                vectors[index, size:].reshape(self.num_outputs, self.rank) @ basis.T,
            )
            for index in inside
        ]
        rows += [
            self.flatten(np.outer(z, first), np.outer(second, z))
            for first, second in directions
            for z in self._complement
        ]
        return np.vstack(rows)

    def bulk(self) -> list[KnownEigenvalue]:
        """Bulk ±sigma_i with first = v_i / sqrt(2), second = ±u_i / sqrt(2).

        Within R such a z has W2 z parallel to u_i, W1^T z parallel to v_i and u_i^T W2 z = -+ v_i^T W1^T z. These are D
        + K - 1 conditions, so that each ±sigma_i has multiplicity m - (D + K - 1) in all.

        Returns:
            The known eigenvalues, two for each singular value.
        """
        left, sigma, right = self.singular
        inside = max(0, self.rank - (self.num_inputs + self.num_outputs - 1))
        return [
            KnownEigenvalue(
                float(sign * value),
                "bulk",
                inside,
                [(right[i] / np.sqrt(2), sign * left[:, i] / np.sqrt(2))],
                group=str(i),
            )
            for i, value in enumerate(sigma)
            for sign in (1, -1)
        ]

    def zeros(self) -> KnownEigenvalue:
        """Zero for every singular vector of Omega without a partner: |D - K| (m - min(D, K)) times."""
        left, sigma, right = self.singular
        first_only = [(vector, np.zeros(self.num_outputs)) for vector in right[sigma.size :]]
        second_only = [(np.zeros(self.num_inputs), vector) for vector in left[:, sigma.size :].T]
        inside = abs(self.num_inputs - self.num_outputs) * max(0, self.rank - sigma.size)
        return KnownEigenvalue(0.0, "zero", inside, first_only + second_only)

    def eigenvalues(self, known: Sequence[KnownEigenvalue]) -> list[Eigenvalue]:
        """The whole spectrum: the known eigenvalues, and those of the reduced problem that match no known one.

        Each known eigenvalue is matched with the nearest values of the reduced problem, which contains it up to
        rounding.

        Args:
            known: Eigenvalues that are known in advance.

        Returns:
            All eigenvalues with their multiplicities.
        """
        values = self.reduced_eigenvalues
        free = np.ones(values.size, dtype=bool)
        eigenvalues = []
        for entry in known:
            nearest = np.argsort(np.where(free, np.abs(values - entry.value), np.inf), kind="stable")[: entry.inside]
            free[nearest] = False
            outside = (self.width - self.rank) * len(entry.directions)
            basis = partial(self._basis, nearest.tolist(), entry.directions)
            eigenvalues.append(
                Eigenvalue(entry.value, outside + nearest.size, entry.role, entry.group, entry.pair, basis=basis)
            )
        tolerance = zero_tolerance(float(np.abs(values).max()))
        for index in np.flatnonzero(free).tolist():
            value, basis = float(values[index]), partial(self._basis, [index], ())
            is_zero = abs(value) <= tolerance
            eigenvalues.append(Eigenvalue(0.0 if is_zero else value, 1, "zero" if is_zero else "outlier", basis=basis))
        return eigenvalues


def _triangular_factor(rows: Array) -> Array:
    factor: Array = np.linalg.qr(rows, mode="r")  # type: ignore[assignment]
    return factor


def _concatenate(first: Array, second: Array) -> Array:
    return np.concatenate((first.ravel(), second.ravel()))


def two_layer_hessian(W1: Array, W2: Array, *, x: Array, y: Array, flatten: Flatten = _concatenate) -> TwoLayerHessian:
    """The Hessian from checked arrays: W1 (m, D), W2 (K, m), x (n, D), y (n, K)."""
    delta = x @ (W2 @ W1).T - y
    return TwoLayerHessian(W1, W2, x.T @ x / len(x), delta.T @ x / len(x), flatten)


def mean_loss(W1: Array, W2: Array, *, x: Array, y: Array) -> float:
    """Mean loss 1/(2n) sum_i |W2 W1 x_i - y_i|^2."""
    delta = x @ (W2 @ W1).T - y
    return float(np.vdot(delta, delta)) / (2 * len(x))


def _check_shapes(W1: Array, W2: Array, *, x: Array, y: Array) -> None:
    agreements = (
        (W1.shape[0], W2.shape[1], "W1 has {} rows, W2 has {} columns"),
        (x.shape[1], W1.shape[1], "x has {} coordinates, W1 has {} columns"),
        (y.shape[1], W2.shape[0], "y has {} coordinates, W2 has {} rows"),
        (len(x), len(y), "x has {} samples, y has {}"),
    )
    for first, second, message in agreements:
        if first != second:
            raise TheoryError(message.format(first, second))


@np.errstate(over="ignore", invalid="ignore")
def two_layer_linear_spectrum(*, W1: ArrayLike, W2: ArrayLike, x: ArrayLike, y: ArrayLike) -> Spectrum:
    """Hessian spectrum of L = 1/(2n) sum_i |W2 W1 x_i - y_i|^2, in O(m (D + K)^2) and one dense problem of r (D + K).

    With Omega = mean(delta x^T), delta = W2 W1 x - y, and r = min(m, D + K): each singular value of Omega gives the
    bulk ±sigma_i, m - (D + K - 1) times each for m >= D + K; 0 occurs at least |D - K| (m - min(D, K)) times; all other
    eigenvalues are those of a symmetric matrix of r (D + K) rows, whatever the width m.

    Args:
        W1: First layer, of shape (m, D).
        W2: Second layer, of shape (K, m).
        x: Inputs of shape (n, D).
        y: Targets of shape (n, K).

    Returns:
        m (D + K) eigenvalues in loss per squared parameter, with group = index of the singular value, and parameters in
        the order W1, W2. Role "zero" includes what is zero up to rounding in the reduced problem, reported as 0.
        Statistics: singular_values of Omega, reduced_size = r (D + K), mean_loss.

    Raises:
        TheoryError: For empty, unequal, non-finite or overflowing input.

    References:
        Exact reduction beyond the sources; Cracking the Hessian, Theorem 3.1, is D = K = 1.
    """
    W1, W2 = finite_array("W1", W1, 2), finite_array("W2", W2, 2)
    x, y = finite_array("x", x, 2), finite_array("y", y, 2)
    _check_shapes(W1, W2, x=x, y=y)
    hessian = two_layer_hessian(W1, W2, x=x, y=y)
    finite_array("the residual covariance (overflow: rescale the weights or the data)", hessian.Omega, 2)
    statistics: dict[str, Statistic] = {
        "singular_values": hessian.singular[1].tolist(),
        "reduced_size": hessian.rank * (hessian.num_inputs + hessian.num_outputs),
        "mean_loss": mean_loss(W1, W2, x=x, y=y),
    }
    return Spectrum.of(
        kind="two-layer-linear",
        parameters=(Parameter("W1", W1.shape), Parameter("W2", W2.shape)),
        method="exact-reduction",
        source="exact reduction to range[W1, W2^T]",
        eigenvalues=tuple(hessian.eigenvalues([*hessian.bulk(), hessian.zeros()])),
        trace=hessian.trace,
        statistics=statistics,
        resolution=FLOAT64_RESOLUTION,
    )


SPECTRA = {"two-layer-linear": two_layer_linear_spectrum}
