"""Real images without a download: the 8 x 8 digits that come with scikit-learn."""

import torch

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.transforms import standardised_pixels
from hessian_spectrum.quadrature.errors import InvalidProblemError

MAXIMUM_PIXEL = 16


def digits(num_samples: int, generator: torch.Generator) -> Dataset:
    """The first `num_samples` of the shuffled digits.

    Returns:
        Inputs (num_samples, 64) float64, pixels / 16 in 0 .. 1; targets (num_samples,) int64 in 0 .. 9.

    Raises:
        InvalidProblemError: If num_samples is not in 1 .. 1797.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 - 40 MB that no other job needs

    pixels, labels = load_digits(return_X_y=True)
    if not 1 <= num_samples <= len(labels):
        raise InvalidProblemError(f"there are {len(labels)} digits, so num_samples cannot be {num_samples}")
    chosen = torch.randperm(len(labels), generator=generator)[:num_samples]
    inputs = torch.as_tensor(pixels, dtype=torch.float64)[chosen] / MAXIMUM_PIXEL
    return Dataset(inputs, torch.as_tensor(labels, dtype=torch.int64)[chosen])


def digits_dataset(*, num_samples: int, transform: str, generator: torch.Generator) -> Dataset:
    """The digits, with their pixels standardised if `transform` is "standardised".

    Args:
        num_samples: How many of them, 1 to 1797.
        transform: "none" or "standardised".
        generator: A CPU generator, which moves on.

    Returns:
        Inputs (num_samples, 64) float64, targets (num_samples,) int64.

    Raises:
        InvalidProblemError: If num_samples is not in 1 .. 1797.
    """
    drawn = digits(num_samples, generator)
    return drawn if transform == "none" else standardised_pixels(drawn)


DATASETS = {"digits": digits_dataset}
