"""How long a computation takes, from what was measured on the machine."""

from dataclasses import dataclass

from hessian_spectrum.planning.work import Work

TRIANGLE_SHARE = 0.7  # of the products of all columns, where rows beyond the diagonal are not computed
LAYERED_SHARE = 0.15  # of the same, where they are assembled by way of pre-activations
EIGENVALUE_ORDER = 320
EIGENVALUE_EXPONENT = 2.6  # of the order, in time: larger blocks make better use of a processor
EIGENVECTORS_FACTOR = 3.0  # in time


@dataclass(frozen=True)
class Rates:
    """What was measured on a machine."""

    recording_seconds: float  # of the first product, beyond what later ones take
    seconds_per_product: float  # one vector of a block
    bytes_per_second: float  # of a basis in memory
    eigenvalue_seconds: float  # of a dense matrix of order EIGENVALUE_ORDER


def predicted_seconds(work: Work, rates: Rates, itemsize: int, all_held: bool = True) -> float:
    """Recording, products, orthogonality and the dense eigenvalue problem; `rates` are measured."""
    share = 1.0 if work.holds_recordings else LAYERED_SHARE if work.layered else TRIANGLE_SHARE
    sweeps = 1 if all_held else -(-work.num_products // work.num_columns)
    recording = 0.0 if work.layered else rates.recording_seconds * sweeps
    products = work.num_products * rates.seconds_per_product * share
    return recording + products + moving_seconds(work, rates, itemsize) + dense_seconds(work, rates)


def moving_seconds(work: Work, rates: Rates, itemsize: int) -> float:
    """Of orthogonality."""
    return work.moved_numbers * itemsize / rates.bytes_per_second


def dense_seconds(work: Work, rates: Rates) -> float:
    """Of the dense eigenvalue problem."""
    factor = EIGENVECTORS_FACTOR if work.eigenvectors else 1.0
    orders: float = (work.dense_order / EIGENVALUE_ORDER) ** EIGENVALUE_EXPONENT
    return factor * rates.eigenvalue_seconds * orders
