"""How many parameter-sized vectors an algorithm may hold; imports no torch."""

from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.quadrature.results import Reorthogonalisation

SHORT_VECTORS = 3  # without reorthogonalisation: two vectors and a product


def probe_bytes(dim: int, num_steps: int, itemsize: int, reorthogonalisation: Reorthogonalisation) -> int:
    """Bytes that one Lanczos probe holds: a basis of min(num_steps, P) + 1 vectors and a product, or three vectors.

    Args:
        dim: P.
        itemsize: Bytes of a number in the precision of the products.
    """
    vectors = min(num_steps, dim) + 2 if reorthogonalisation == "full" else SHORT_VECTORS
    return vectors * dim * itemsize


def lockstep(
    dim: int,
    num_steps: int,
    num_probes: int,
    itemsize: int,
    reorthogonalisation: Reorthogonalisation | None,
    memory_bytes: int | None,
) -> tuple[Reorthogonalisation, int]:
    """How Lanczos keeps within `memory_bytes` (None: without limit).

    Args:
        reorthogonalisation: None: full if it fits for one probe, none otherwise.

    Returns:
        Reorthogonalisation, and how many probes go in lockstep.

    Raises:
        InvalidProblemError: If one probe alone does not fit.
    """
    if memory_bytes is None:
        return reorthogonalisation or "full", num_probes
    if reorthogonalisation is None:
        fits = probe_bytes(dim, num_steps, itemsize, "full") <= memory_bytes
        reorthogonalisation = "full" if fits else "none"
    needed = probe_bytes(dim, num_steps, itemsize, reorthogonalisation)
    if needed > memory_bytes:
        raise InvalidProblemError(
            f"a Lanczos probe with reorthogonalisation {reorthogonalisation!r} takes {needed} bytes, "
            f"and {memory_bytes} are allowed"
        )
    return reorthogonalisation, min(num_probes, memory_bytes // needed)
