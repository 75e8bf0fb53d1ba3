"""How much an operator takes on at once, so that what it holds beside the result is bounded."""

from curvature.cost.size import Size

# How many vectors go through a recording at once: as many as fit, up to a number that keeps the processor busy.
BLOCK_BYTES = 64 * 2**20
BLOCK_COLUMNS = 128
TANGENT_COPIES = 4  # of the activations, for each of them
LAYERED_COPIES = 8  # of all units of the samples, for each unit that is moved: tangents, cotangents, theirs


def columns_at_once(size: Size, itemsize: int) -> int:
    """How many vectors go through a recording of these samples together."""
    column_bytes = itemsize * (4 * size.num_parameters + TANGENT_COPIES * size.num_activations)
    return max(1, min(BLOCK_COLUMNS, BLOCK_BYTES // column_bytes))


def layered_samples(num_parameters: int, itemsize: int) -> int:
    """How many samples of a fully connected network are assembled together."""
    return max(1, BLOCK_BYTES // (itemsize * num_parameters))


def layered_units(num_units: int, num_samples: int, itemsize: int) -> int:
    """How many units of a layer are moved together, of `num_units` in the whole network."""
    return max(1, BLOCK_BYTES // (itemsize * LAYERED_COPIES * num_units * num_samples))
