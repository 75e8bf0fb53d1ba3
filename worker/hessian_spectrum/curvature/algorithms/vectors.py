"""Parameter-sized vectors: norms and products in float64 whatever their precision, and orthogonalisation."""

import math

import torch
from torch import Tensor

# Vectors are converted to float64 this many numbers at a time: within a cache, and next to nothing beside a vector.
CHUNK = 2**16
DEVICE_CHUNK = 2**24  # of an accelerator, where starting a kernel costs more than memory

# Squares of norms outside lose digits or overflow in float64.
SAFE_NORMS = (1e-140, 1e140)


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
        largest = float(torch.linalg.vector_norm(vector, math.inf))
        if 0 < largest < math.inf:
            return largest * _plain_norm(vector, largest)
    return length


def dot(left: Tensor, right: Tensor) -> float:
    """l^T r for vectors (P,), accumulated in float64."""
    if len(left) <= _chunk_size(left):
        return torch.dot(left.double(), right.double()).item()
    total = torch.zeros((), dtype=torch.float64, device=left.device)
    for one, other in zip(_chunks(left), _chunks(right), strict=True):
        total += torch.dot(one.double(), other.double())
    return total.item()


def gram(left: Tensor, right: Tensor) -> Tensor:
    """L R^T (a, b), float64, on the CPU, for rows L (a, P) and R (b, P), accumulated in float64."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    width = max(1, _chunk_size(left) // max(len(left), len(right), 1))
    for start in range(0, left.shape[1], width):
        total += left[:, start : start + width].double() @ right[:, start : start + width].double().T
    return total.cpu()


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
    coefficients = basis @ vector
    vector.addmv_(basis.T, coefficients, alpha=-1)
    rest = basis @ vector
    vector.addmv_(basis.T, rest, alpha=-1)
    return coefficients.add_(rest)


def gaussian_vector(dim: int, generator: torch.Generator) -> Tensor:
    """Standard normal vector (dim,), float64, on the CPU; the same for every device and precision.

    Args:
        dim: Number of entries.
        generator: CPU generator, which advances.

    Returns:
        The vector.
    """
    return torch.randn(dim, generator=generator, dtype=torch.float64)


def sphere_probe(dim: int, generator: torch.Generator) -> Tensor:
    """Unit vector (dim,), float64, uniform on the sphere; the same for every device and precision.

    Args:
        dim: Number of entries.
        generator: CPU generator, which advances.

    Returns:
        The vector.
    """
    probe = gaussian_vector(dim, generator)
    return probe.div_(norm(probe))  # in place: a probe is as large as the parameters


def _plain_norm(vector: Tensor, unit: float) -> float:
    """Norm ||v / unit|| by the sum of squares."""
    if unit == 1.0:
        return math.sqrt(dot(vector, vector))
    return math.sqrt(sum(dot(scaled, scaled) for scaled in (chunk.double() / unit for chunk in _chunks(vector))))


def _chunks(vector: Tensor) -> tuple[Tensor, ...]:
    return torch.split(vector, _chunk_size(vector))


def _chunk_size(tensor: Tensor) -> int:
    return CHUNK if tensor.device.type == "cpu" else DEVICE_CHUNK
