"""Real images without a download: the 8 x 8 digits that come with scikit-learn."""

import torch

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.transforms import standardised_pixels
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

MAXIMUM_PIXEL = 16


def digits(num_samples: int, generator: torch.Generator) -> Dataset:
    """Return the first `num_samples` of the shuffled digits.

    Args:
        num_samples: Number of digits, from 1 to 1797.
        generator: CPU generator that shuffles; it advances.

    Returns:
        Inputs (num_samples, 64) in float64, pixels divided by 16, from 0 to 1; targets (num_samples,) in int64, 0 to 9.

    Raises:
        InvalidProblemError: If there are not so many digits.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 - 40 MB that no other job needs

    pixels, labels = load_digits(return_X_y=True)
    if not 1 <= num_samples <= len(labels):
        raise InvalidProblemError(f"num_samples must be 1 .. {len(labels)}, the number of digits, not {num_samples}")
    chosen = torch.randperm(len(labels), generator=generator)[:num_samples]
    inputs = torch.as_tensor(pixels, dtype=torch.float64)[chosen] / MAXIMUM_PIXEL
    return Dataset(inputs, torch.as_tensor(labels, dtype=torch.int64)[chosen])


def digits_dataset(*, num_samples: int, transform: str, generator: torch.Generator) -> Dataset:
    """Return the digits, with their pixels standardised if `transform` is "standardised".

    Args:
        num_samples: Number of digits, from 1 to 1797.
        transform: Either "none" or "standardised".
        generator: CPU generator that shuffles; it advances.

    Returns:
        Inputs (num_samples, 64) in float64 and targets (num_samples,) in int64.

    Raises:
        InvalidProblemError: If there are not so many digits.
    """
    drawn = digits(num_samples, generator)
    return drawn if transform == "none" else standardised_pixels(drawn)


DATASETS = {"digits": digits_dataset}
