"""How the probes of a long Lanczos job are split into shards, which several workers may compute at once.

Only the request and its plan decide, never the number of workers: vectors that are multiplied together round
differently from vectors that are multiplied alone, and a result must not depend on who computed it.
"""

MAX_SHARDS = 16
"""Further workers would find no shard to compute."""

MIN_SHARD_SECONDS = 5.0
"""Estimated time of a shard on one core; another worker needs one to two seconds until its first product."""

MIN_BLOCK_OPERATIONS = 2e7
"""Operations of one product with a block of vectors; in smaller blocks, call overhead dominates."""

_OPERATIONS_PER_SECOND = 3e9
"""Parameter-input pairs that one core processes per second in a product with the Hessian."""

_NUMBERS_PER_SECOND = 1e9
"""Numbers that one core reads or writes per second."""


def num_shards(*, num_probes: int, num_steps: int, product_operations: float, moved_numbers: float) -> int:
    """Number of shards of a Lanczos job; 1 if it is not worth splitting.

    Args:
        num_probes: Probes of the job.
        num_steps: Lanczos steps of each probe.
        product_operations: Parameter-input pairs in one matrix-vector product.
        moved_numbers: Numbers that orthogonalisation reads or writes in the whole job.
    """
    operations = num_probes * num_steps * product_operations
    seconds = operations / _OPERATIONS_PER_SECOND + moved_numbers / _NUMBERS_PER_SECOND
    probes_at_once = max(1, -(-int(MIN_BLOCK_OPERATIONS) // max(1, int(product_operations))))
    return max(1, min(MAX_SHARDS, num_probes // probes_at_once, int(seconds / MIN_SHARD_SECONDS)))
