"""Complex numbers from pairs of real ones and back.

The operators themselves are views, whose derivatives fail on conjugates and, for several vectors at once, on strides.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def view_as_complex(x: Tensor) -> Tensor:
    """Return a + i b for the pairs (a, b) along the last axis."""
    return torch.complex(x[..., 0], x[..., 1])


def view_as_real(x: Tensor) -> Tensor:
    """Return the pairs of real and imaginary parts along a new last axis."""
    x = _resolved(x)
    return torch.stack((x.real, x.imag), -1)


def real(x: Tensor) -> Tensor:
    """Return the real part."""
    return _resolved(x).real if x.is_complex() else x


def imag(x: Tensor) -> Tensor:
    """Return the imaginary part."""
    return _resolved(x).imag


def conj(x: Tensor) -> Tensor:
    """Return the conjugate."""
    return torch.complex(real(x), -imag(x)) if x.is_complex() else x


def adjoint(x: Tensor) -> Tensor:
    """Return the conjugate of the transposed matrices."""
    return conj(x).mT


def hfft(x: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """Return the real Fourier transform of numbers of which half is stored, the others being their conjugates."""
    inverse = {None: "forward", "backward": "forward", "forward": "backward", "ortho": "ortho"}
    transformed: Tensor = torch.fft.irfft(conj(x), n, dim, inverse[norm])
    return transformed


def _resolved(x: Tensor) -> Tensor:
    """Return the same numbers, with tangents that are not lazy conjugates."""
    return x * 1.0


OPERATORS: dict[str, Callable[..., Any]] = {
    "view_as_complex": view_as_complex,
    "view_as_real": view_as_real,
    "real": real,
    "imag": imag,
    "conj": conj,
    "adjoint": adjoint,
    "mH": adjoint,
    "fft_hfft": hfft,
}
