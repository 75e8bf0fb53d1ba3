"""How the probes of a long Lanczos job are cut into shards, which several workers may compute at once.

The request and its estimate alone decide, never the workers that happen to be there: vectors that pass together round
otherwise than alone, and the numbers are to be the same whoever computed them.
"""

MOST_SHARDS = 16
"""More workers than that find nothing to do."""

LEAST_SHARD_SECONDS = 5.0
"""Of one core, roughly: another worker needs one or two to get to its first product."""

LEAST_BLOCK_OPERATIONS = 2e7
"""Of a block of vectors that pass together: with fewer, time goes into calls and not into numbers."""

_OPERATIONS_PER_SECOND = 3e9
"""Pairs of a parameter and an input that one core does in a second, of a product of the Hessian."""

_NUMBERS_PER_SECOND = 1e9
"""That one core reads or writes in a second."""


def num_shards(num_probes: int, num_steps: int, product_operations: float, moved_numbers: float) -> int:
    """Into how many shards a Lanczos job is cut; 1: into none.

    Args:
        product_operations: Pairs of a parameter and an input in one product.
        moved_numbers: Of the whole job, for orthogonality.
    """
    operations = num_probes * num_steps * product_operations
    seconds = operations / _OPERATIONS_PER_SECOND + moved_numbers / _NUMBERS_PER_SECOND
    probes_at_once = max(1, -(-int(LEAST_BLOCK_OPERATIONS) // max(1, int(product_operations))))
    return max(1, min(MOST_SHARDS, num_probes // probes_at_once, int(seconds / LEAST_SHARD_SECONDS)))


def probes_of_shard(num_probes: int, count: int, index: int) -> range:
    """The probes of shard `index` of `count`: consecutive ones; the first shards have one more if need be."""
    size, rest = divmod(num_probes, count)
    start = index * size + min(index, rest)
    return range(start, start + size + (index < rest))
