"""How much an operator takes on at once, so that what it holds beside the result is bounded."""

from hessian_spectrum.planning.size import Size

# How many vectors go through a recording at once: as many as fit, up to a number that keeps the processor busy.
BLOCK_BYTES = 64 * 2**20
BLOCK_COLUMNS = 128
TANGENT_COPIES = 4  # of the activations, for each of them
OUTPUTS_BYTES = 2**27
"""Of the outputs that exist at once where the model ends in an output layer: a vocabulary makes them large."""

# Of the outputs of all layers, where a dense matrix is assembled layer by layer: once, and for each unit that is moved
LAYERED_COPIES = 10
LAYERED_UNIT_COPIES = 11


def columns_at_once(size: Size, itemsize: int) -> int:
    """How many vectors go through a recording of these samples together."""
    column_bytes = itemsize * (4 * size.num_parameters + TANGENT_COPIES * size.num_activations)
    return max(1, min(BLOCK_COLUMNS, BLOCK_BYTES // column_bytes))


def layered_samples(num_parameters: int, num_units: int, itemsize: int) -> int:
    """How many samples of a fully connected network with so many units in all are assembled together."""
    return max(1, BLOCK_BYTES // (itemsize * max(num_parameters, (LAYERED_COPIES + LAYERED_UNIT_COPIES) * num_units)))


def layered_units(num_units: int, num_samples: int, itemsize: int) -> int:
    """How many units of a layer are moved together."""
    return max(1, BLOCK_BYTES // (itemsize * LAYERED_UNIT_COPIES * num_units * num_samples))
