"""Number of parameter-sized vectors that an algorithm may keep in memory; imports no torch."""

from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.quadrature.results import Reorthogonalisation

SHORT_VECTORS = 3  # without reorthogonalisation: two vectors and a product


def probe_bytes(dim: int, num_steps: int, itemsize: int, reorthogonalisation: Reorthogonalisation) -> int:
    """Bytes that one Lanczos probe needs: a basis of min(num_steps, P) + 1 vectors and a product, or three vectors.

    Args:
        dim: Number of parameters P.
        num_steps: Number of Lanczos steps.
        itemsize: Bytes per number in the precision of the products.
        reorthogonalisation: Whether the basis is kept.

    Returns:
        Number of bytes.
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
    """How Lanczos stays within `memory_bytes`.

    Args:
        dim: Number of parameters P.
        num_steps: Number of Lanczos steps.
        num_probes: Number of probes.
        itemsize: Bytes per number in the precision of the products.
        reorthogonalisation: Whether the basis is kept; None keeps it if it fits for one probe.
        memory_bytes: Memory limit; None for no limit.

    Returns:
        Reorthogonalisation, and number of probes in lockstep.

    Raises:
        InvalidProblemError: If a single probe does not fit.
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
