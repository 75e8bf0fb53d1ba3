"""Linear algebra of matrices that are known by their products: norms, orthogonalisation, and tridiagonal matrices."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp, all_reduce

from hessian_spectrum.curvature import lapack
from hessian_spectrum.curvature.iteration import Progress, ignore_progress
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.planning.work import BLOCK_COLUMNS
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from hessian_spectrum.quadrature.results import Quadrature, Reorthogonalisation

PRODUCT_ROUNDINGS = 10
"""Machine epsilons by which products of norm 1 may be off where the numbers that make up the matrix are exact."""

TILE = 512  # edge of the square tiles that are copied at once

# Vectors are converted to float64 this many numbers at a time: within a cache, and next to nothing beside a vector.
CHUNK = 2**16
DEVICE_CHUNK = 2**24  # chunk on an accelerator, where starting a kernel costs more than memory

_GROUP: ContextVar[ProcessGroup | None] = ContextVar("group", default=None)
"""The processes over which the entries of all vectors are spread; None: vectors are whole."""

# Squares of norms outside lose digits or overflow in float64.
SAFE_NORMS = (1e-140, 1e140)


@serializable()
@dataclass
class Triangle:
    """A triangle of a dense symmetric matrix, filled up to some step, with all that is needed to fill the rest."""

    rows: Tensor  # (P, P) float64; one side of the diagonal counts, the other is undefined
    _: KW_ONLY
    is_upper: bool  # which
    num_steps: int = 0  # done, in the operator's own order
    num_columns: int = 0  # about as many are done

    @property
    def lower(self) -> Tensor:
        """The matrix (P, P), right on and below the diagonal."""
        return self.rows.T if self.is_upper else self.rows


class GramForm(ABC):
    """A symmetric matrix A = B^T B + c I (P, P) with m rows of B, whose eigenvalues are those of B B^T plus c, and c.

    Attributes:
        offset: c.
    """

    offset: float

    @property
    @abstractmethod
    def order(self) -> int:
        """Number m of rows of B."""

    @abstractmethod
    def start(self) -> Triangle:
        """Return the matrix B B^T (m, m) before its first entry."""

    @abstractmethod
    def fill(self, triangle: Triangle) -> Iterator[None]:
        """Compute the rest of the lower triangle, in place, yielding after each step."""

    @abstractmethod
    def centre(self, matrix: Tensor) -> float:
        """Apply to B B^T what A lacks, in place, and return a bound on the norm of what was taken away."""


class SymmetricOperator(ABC):
    """A symmetric matrix A (P, P), defined by its products; vectors are on `device` in `dtype`."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number P of rows."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Precision of vectors and products."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the vectors."""

    @property
    def product_error(self) -> float:
        """Bound on ||A' v - A v|| / ||A|| of products A' v for unit vectors v, from rounding and reduced precision."""
        return PRODUCT_ROUNDINGS * torch.finfo(self.dtype).eps

    def loss_at(self, displacement: Tensor) -> float:
        """Return the loss at a displacement (P,) from the point, if the matrix is one of a loss."""
        raise InvalidProblemError("the matrix is not that of a loss")

    def loss_and_slopes(self, directions: Tensor) -> tuple[float, list[float]]:
        """Return the loss at the point, and its derivatives along the rows (d, P) there."""
        raise InvalidProblemError("the matrix is not that of a loss")

    @property
    def gram_form(self) -> GramForm | None:
        """This matrix as B^T B + c I, where it is known to be one; otherwise None."""
        return None

    @property
    def term_error(self) -> float:
        """Bound on the error of B^T B / ||B^T B|| where the matrix is B^T B + c I or such a matrix less another."""
        return PRODUCT_ROUNDINGS * torch.finfo(self.dtype).eps

    @property
    def unreduced(self) -> "SymmetricOperator":
        """This matrix with products entirely in the precision of the vectors, which may be much slower."""
        return self

    @abstractmethod
    def matvec(self, vector: Tensor) -> Tensor:
        """Return A v (P,) for v (P,)."""

    @abstractmethod
    def matmat(self, matrix: Tensor) -> Tensor:
        """Return A V (P, k) for V (P, k), in memory that, apart from the result, is bounded independently of k."""

    def start_triangle(self) -> Triangle:
        """Return the dense matrix before its first product."""
        return Triangle(torch.zeros(self.dim, self.dim, dtype=torch.float64, device=self.device), is_upper=False)

    def fill_triangle(self, triangle: Triangle) -> Iterator[None]:
        """Compute the rest of the triangle, in place, yielding after each step."""
        for start in range(triangle.num_steps * BLOCK_COLUMNS, self.dim, BLOCK_COLUMNS):
            stop = min(start + BLOCK_COLUMNS, self.dim)
            block = torch.zeros(self.dim, stop - start, dtype=self.dtype, device=self.device)
            block[start:stop].fill_diagonal_(1)
            # columns go to rows, which are contiguous: the matrix is symmetric
            triangle.rows[start:stop] = self.matmat(block).T
            triangle.num_steps, triangle.num_columns = triangle.num_steps + 1, stop
            yield


class DenseOperator(SymmetricOperator):
    """A given symmetric matrix (P, P) as an operator.

    Raises:
        InvalidProblemError: If the matrix is not square and exactly symmetric.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not torch.equal(matrix, matrix.T):
            raise InvalidProblemError(f"the matrix of shape {tuple(matrix.shape)} is not symmetric")
        self._matrix = matrix

    @property
    def dim(self) -> int:
        """Number P of rows."""
        return len(self._matrix)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix."""
        return self._matrix.dtype

    @property
    def device(self) -> torch.device:
        """Device of the matrix."""
        return self._matrix.device

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A v (P,)."""
        return self._matrix @ vector

    def matmat(self, matrix: Tensor) -> Tensor:
        """Return A V (P, k)."""
        return self._matrix @ matrix


def assemble(operator: SymmetricOperator, progress: Progress = ignore_progress) -> Tensor:
    """Dense A (P, P), float64, exactly symmetric, on the operator's device, from products with the identity.

    Besides the result, memory holds what the operator needs for a block of columns.

    Args:
        operator: The matrix A.
        progress: Called with phase "products" after each block of columns.

    Returns:
        The dense matrix.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
    """
    triangle = operator.start_triangle()
    for _ in operator.fill_triangle(triangle):
        progress("products", triangle.num_columns, operator.dim)
    return mirrored(triangle)


def mirrored(triangle: Triangle) -> Tensor:
    """Return the whole matrix (P, P), in the memory of its half.

    Args:
        triangle: A completely filled half; it is overwritten.

    Returns:
        The dense matrix.

    Raises:
        NonFiniteError: If an entry of the half is NaN or infinite.
    """
    matrix = triangle.lower
    _mirror(matrix)
    return matrix


def eigenvalues(matrix: Tensor) -> Tensor:
    """Return all eigenvalues (P,), ascending, of a symmetric matrix.

    On a CPU they are computed in the memory of the matrix, where torch would first copy it.

    Args:
        matrix: The matrix (P, P); it is overwritten.
    """
    if matrix.device.type != "cpu":
        try:
            found: Tensor = torch.linalg.eigvalsh(matrix)
            return found
        except torch.OutOfMemoryError:
            return eigenvalues(matrix.cpu()).to(matrix.device)
    return lapack.eigenvalues(matrix if matrix.is_contiguous() else matrix.T)


def _mirror(matrix: Tensor) -> None:
    """Copy the lower triangle to the upper one, tile by tile, without a second matrix."""
    for row in range(0, len(matrix), TILE):
        rows = slice(row, row + TILE)
        for column in range(0, row, TILE):
            columns = slice(column, column + TILE)
            matrix[columns, rows] = _finite(matrix[rows, columns]).T
        corner = _finite(matrix[rows, rows].tril())
        matrix[rows, rows] = corner + corner.tril(-1).T


def _finite(tile: Tensor) -> Tensor:
    if not bool(tile.isfinite().all()):
        raise NonFiniteError("a matrix-vector product holds NaN or infinity")
    return tile


def norm(vector: Tensor) -> float:
    """||v|| for v (P,), accumulated in float64, without overflow or underflow of the squares.

    NaN or infinity in the vector leads to NaN or infinity.

    Args:
        vector: v, of shape (P,).

    Returns:
        The norm.
    """
    length = _plain_norm(vector, 1.0)
    if length == 0 or not SAFE_NORMS[0] < length < SAFE_NORMS[1]:
        largest = float(_over_group(torch.linalg.vector_norm(vector, math.inf), ReduceOp.MAX))
        if 0 < largest < math.inf:
            return largest * _plain_norm(vector, largest)
    return length


@contextmanager
def sharded_vectors(group: ProcessGroup) -> Iterator[None]:
    """Let inner products and norms in the block be those of vectors whose entries are spread over a group of processes.

    Every process calls the same functions in the same order, each with its own part of all vectors.
    """
    token = _GROUP.set(group)
    try:
        yield
    finally:
        _GROUP.reset(token)


def _over_group(part: Tensor, operation: ReduceOp.RedOpType = ReduceOp.SUM) -> Tensor:
    """Return the sum, or another combination, of what each process of the group has; the part itself without one."""
    if (group := _GROUP.get()) is not None:
        all_reduce(part, operation, group)
    return part


def dot(left: Tensor, right: Tensor) -> float:
    """l^T r for vectors (P,), accumulated in float64."""
    return _over_group(_own_dot(left, right)).item()


def _own_dot(left: Tensor, right: Tensor) -> Tensor:
    if len(left) <= _chunk_size(left):
        return torch.dot(left.double(), right.double())
    total = torch.zeros((), dtype=torch.float64, device=left.device)
    for one, other in zip(_chunks(left), _chunks(right), strict=True):
        total += torch.dot(one.double(), other.double())
    return total


def gram(left: Tensor, right: Tensor) -> Tensor:
    """L R^T (a, b), float64, on the CPU, for rows L (a, P) and R (b, P), accumulated in float64."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    width = max(1, _chunk_size(left) // max(len(left), len(right), 1))
    for start in range(0, left.shape[1], width):
        total += left[:, start : start + width].double() @ right[:, start : start + width].double().T
    return _over_group(total).cpu()


def rotate(rows: Tensor, rotation: Tensor) -> None:
    """Replace the first c rows of V (r, P) by R^T V, R (r, c), c <= r, in place and without a second V."""
    width = max(1, _chunk_size(rows) // len(rows))
    turned = rotation.T.to(rows.device)
    for start in range(0, rows.shape[1], width):
        chunk = rows[:, start : start + width]
        chunk[: len(turned)] = (turned @ chunk.double()).to(rows.dtype)


def subtract(rows: Tensor, coefficients: Tensor, basis: Tensor) -> None:
    """Replace V (r, P) by V - C B, C (r, s) and B (s, P), in place, in float64 and without a second V."""
    factors = coefficients.to(rows.device)
    width = max(1, _chunk_size(rows) // max(len(rows), len(basis)))
    for start in range(0, rows.shape[1], width):
        part = slice(start, start + width)
        rows[:, part] = (rows[:, part].double() - factors @ basis[:, part].double()).to(rows.dtype)


def orthogonalise(vector: Tensor, basis: Tensor) -> Tensor:
    """Remove from v (P,), in place, its part in the span of the orthonormal rows of `basis` (s, P).

    Two passes leave the rest orthogonal up to rounding (twice is enough), unless only rounding is left.

    Args:
        vector: v, of shape (P,), which is changed.
        basis: Orthonormal rows of shape (s, P).

    Returns:
        B v (s,), of the original vector, in its precision.

    References:
        Giraud, Langou & Rozloznik, Comput. Math. Appl. 50 (2005) 1069-1075.
    """
    coefficients = _over_group(basis @ vector)
    vector.addmv_(basis.T, coefficients, alpha=-1)
    rest = _over_group(basis @ vector)
    vector.addmv_(basis.T, rest, alpha=-1)
    return coefficients.add_(rest)


def gaussian_vector(dim: int, generator: torch.Generator) -> Tensor:
    """Return a standard normal vector (dim,), float64, on the CPU; the same for every device and precision.

    Args:
        dim: Number of entries.
        generator: CPU generator, which advances.

    Returns:
        The vector.
    """
    return torch.randn(dim, generator=generator, dtype=torch.float64)


def sphere_probe(dim: int, generator: torch.Generator) -> Tensor:
    """Return a unit vector (dim,), float64, uniform on the sphere; the same for every device and precision.

    Args:
        dim: Number of entries.
        generator: CPU generator, which advances.

    Returns:
        The vector.
    """
    probe = gaussian_vector(dim, generator)
    return probe.div_(norm(probe))  # in place: a probe is as large as the parameters


@serializable()
@dataclass(frozen=True, eq=False, kw_only=True)
class Tridiagonal:
    """T (m, m) of A Q = Q T + remainder q e_m^T; T = Q^T A Q with full reorthogonalisation."""

    diagonal: Tensor  # (m,) float64, on the CPU, in units of A
    off_diagonal: Tensor  # (m - 1,) float64, on the CPU, >= 0, in units of A
    remainder: float  # ||A Q - Q T||, all of it in the last column; 0 for an invariant subspace
    scale: float  # largest ||A q_j||, a lower bound of ||A||

    def first(self, num_steps: int) -> "Tridiagonal":
        """Return the matrix after the first num_steps steps, or after all if there are no more."""
        if num_steps >= len(self.diagonal):
            return self
        return replace(
            self,
            diagonal=self.diagonal[:num_steps],
            off_diagonal=self.off_diagonal[: num_steps - 1],
            remainder=float(self.off_diagonal[num_steps - 1]),
        )


def node_error(matrix: Tridiagonal, product_error: float, reorthogonalisation: Reorthogonalisation) -> float:
    """Return the largest error of a node due to products, in units of A: product_error times the known norm of A.

    Eigenvalues that are closer than this to each other, or to zero, are not resolved, even if Lanczos stopped because
    only rounding was left. Without reorthogonalisation the displacement grows like the root of the number of steps.

    Args:
        matrix: Tridiagonal matrix of a probe.
        product_error: ||A' v - A v|| / ||A|| of unit vectors v.
        reorthogonalisation: Whether the Lanczos vectors were reorthogonalised.

    Returns:
        The displacement, in units of A.

    References:
        Paige, Linear Algebra Appl. 34 (1980) 235-258.
    """
    growth = 1.0 if reorthogonalisation == "full" else math.sqrt(len(matrix.diagonal))
    return product_error * growth * max(matrix.scale, float(matrix.diagonal.abs().max()))


def gauss_quadrature(matrix: Tridiagonal, node_error: float = 0.0) -> Quadrature:
    """Return the nodes and weights of the spectral measure that Lanczos saw.

    For T = S diag(nodes) S^T and weights S[0]**2:  v^T p(H) v = sum(weights * p(nodes)) for every polynomial p of
    degree < 2m. Residuals are remainder * S[-1], signed so that S[0] >= 0.

    Args:
        matrix: Tridiagonal matrix T of a probe.
        node_error: Largest displacement of a node by errors of the products, in units of A.

    Returns:
        Nodes (m,) ascending and residuals (m,), in units of A; weights (m,), dimensionless, of sum 1.

    Raises:
        NonFiniteError: If the tridiagonal matrix contains NaN or infinity.

    References:
        Golub & Welsch, Math. Comp. 23 (1969) 221-230.
    """
    nodes, vectors = eigenpairs(matrix)
    signs = torch.where(vectors[0] < 0, -1.0, 1.0)
    residuals = matrix.remainder * vectors[-1] * signs
    return Quadrature(nodes.numpy(), vectors[0].square().numpy(), residuals.numpy(), node_error)


def eigenpairs(matrix: Tridiagonal) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues (m,) ascending and eigenvectors (m, m), in columns, of T.

    Args:
        matrix: The tridiagonal matrix.

    Raises:
        NonFiniteError: If it contains NaN or infinity.
    """
    diagonal, off = matrix.diagonal, matrix.off_diagonal
    dense = torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)
    if not bool(dense.isfinite().all()):
        raise NonFiniteError("the tridiagonal matrix holds NaN or infinity")
    values, vectors = torch.linalg.eigh(dense)
    return values, vectors


def _plain_norm(vector: Tensor, unit: float) -> float:
    """Return the norm ||v / unit|| by the sum of squares."""
    if unit == 1.0:
        return math.sqrt(dot(vector, vector))
    squares = [_own_dot(scaled, scaled) for scaled in (chunk.double() / unit for chunk in _chunks(vector))]
    return math.sqrt(_over_group(torch.stack(squares).sum()).item())


def _chunks(vector: Tensor) -> tuple[Tensor, ...]:
    return torch.split(vector, _chunk_size(vector))


def _chunk_size(tensor: Tensor) -> int:
    return CHUNK if tensor.device.type == "cpu" else DEVICE_CHUNK
