"""The random-matrix model of the Hessian of a two-layer network: Wishart plus a part that grows with the energy."""

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from hessian_spectrum.theory.exceptions import TheoryError
from hessian_spectrum.theory.random_matrix.boundary import Array, Boundary
from hessian_spectrum.theory.random_matrix.ensembles import RATIOS, SCALES, in_range
from hessian_spectrum.theory.random_matrix.law import FreeLaw, indices

Activation = Literal["linear", "relu"]


def hessian_law(activation: Activation, energy: float, ratio: float) -> FreeLaw:
    """Law of H = H0 + H1, freely independent, where H0 is Wishart with variance 1 and ratio phi = parameters / data.

    For linear activation H1 has R = 2 eps z, a semicircle. For relu it has R = eps phi z / (2 - eps phi^2 z^2), the
    difference of two free Poisson parts of rate 1 / (2 phi) and jump phi sqrt(eps / 2): H1 = sqrt(eps / 2) (W1 - W2)
    with W = J J^T, where J is n x p/2 with entry variance 1/p and p = n / phi. At energy 0 only H0 remains.

    Args:
        activation: Activation function of the hidden layer.
        energy: eps, the loss per output, 0 or within SCALES.
        ratio: phi, within RATIOS.

    Returns:
        The law, in the unit of the Hessian's eigenvalues.

    Raises:
        TheoryError: If the energy is neither 0 nor within SCALES, or the ratio is not within RATIOS.

    References:
        Pennington & Bahri, ICML 2017; Lecture. The representation as a difference is derived here.
    """
    wishart_rate = 1 / in_range("ratio", ratio, RATIOS)
    check_energy(energy)
    if activation == "linear":
        return FreeLaw.of(2 * energy, (wishart_rate,), (ratio,))
    jump = ratio * math.sqrt(energy / 2)
    return FreeLaw.of(0.0, (wishart_rate, wishart_rate / 2, wishart_rate / 2), (ratio, jump, -jump))


def check_energy(energy: float) -> None:
    """Check the range of an energy.

    Args:
        energy: eps, the loss per output.

    Raises:
        TheoryError: Unless the energy is 0 or within SCALES.
    """
    low, high = SCALES
    if energy != 0 and not low <= energy <= high:
        raise TheoryError(f"energy must be 0 or lie between {low:g} and {high:g}", field="energy")


def critical_energy(activation: Activation, ratio: float) -> float | None:
    """Energy up to which no eigenvalue is negative; None for phi >= 1, where every positive energy has negative ones.

    linear: (1 - 20 phi - 8 phi^2 + (1 + 8 phi)^{3/2}) / 16; relu: (27 - 18 xi - xi^2 + 8 xi^{3/2}) / (32 phi (1 -
    phi)^3), xi = 1 + 16 phi - 8 phi^2.

    Deviation: these lose all digits near phi = 1. With q = sqrt(1 + 8 phi), sqrt(xi) they are (3 - q)^3 (q + 1) / 128
    and (3 - q)^3 (q + 1) / (32 phi (1 - phi)^3), and 3 - q is 8 (1 - phi) / (3 + q), 8 (1 - phi)^2 / (3 + q), which
    leaves products of positive numbers.

    Args:
        activation: Activation function of the hidden layer.
        ratio: phi, within RATIOS.

    Returns:
        The critical energy, or None for phi >= 1.

    Raises:
        TheoryError: If the ratio is not within RATIOS.

    References:
        Pennington & Bahri, ICML 2017; Lecture.
    """
    in_range("ratio", ratio, RATIOS)
    if ratio >= 1:
        return None
    q, missing = _root(activation, ratio), 1 - ratio
    energy = 4 * missing**3 * (q + 1) / (q + 3) ** 3
    return energy if activation == "linear" else 4 * energy / ratio


def alpha_0(activation: Activation, ratio: float) -> float | None:
    """Factor of the law alpha ~ alpha_0 |eps / eps_c - 1|^{3/2} just above the critical energy.

    At eps_c the lowest edge z(u*) of the support is 0, with u* = -(1 - phi) (q + 1) / (q + 3) and q as in
    `critical_energy`. Near an edge e the density is sqrt(2 (l - e) / |z''(u*)|) / (pi u*^2), and e moves with the
    energy at the speed dz/deps at fixed u*, as dz/du = 0 there. The mass that passes 0 is the integral of that root.

    Args:
        activation: Activation function of the hidden layer.
        ratio: phi, within RATIOS.

    Returns:
        The factor, or None for phi >= 1, where there is no critical energy.

    Raises:
        TheoryError: If the ratio is not within RATIOS.

    References:
        Pennington & Bahri, ICML 2017, for the exponent; the factor is derived here.
    """
    energy = critical_energy(activation, ratio)
    if energy is None:
        return None
    q = _root(activation, ratio)
    u = -(1 - ratio) * (q + 1) / (q + 3)
    # H0 adds 2 phi / (u - phi)^3 to z''. H1 adds to z: 2 eps / u; (eps phi / 2) u / (u^2 - b^2), b^2 = eps phi^2 / 2.
    curvature = 2 * ratio / (u - ratio) ** 3
    if activation == "linear":
        curvature += 4 * energy / u**3
        travel = 2 * energy / abs(u)
    else:
        weight, square = energy * ratio / 2, energy * ratio**2 / 2
        curvature += 2 * weight * u * (u * u + 3 * square) / (u * u - square) ** 3
        travel = weight * abs(u) ** 3 / (u * u - square) ** 2
    slope = math.sqrt(2 / abs(curvature)) / (math.pi * u * u)
    return float(2 / 3 * slope * travel**1.5)


def index_at_small_energy(activation: Activation, ratio: float) -> float:
    """Limit of alpha as the energy falls to 0, given by the signs of H1 on the kernel of H0.

    The kernel has the share 1 - 1/phi and is empty for phi <= 1. On it a semicircle is half negative. So is the ReLU
    part up to phi = 2, from where on its rank 1/phi is smaller than the kernel: (1 - 1/phi) / 2, for relu at most 1 /
    (2 phi).

    Args:
        activation: Activation function of the hidden layer.
        ratio: phi, within RATIOS.

    Returns:
        The limit, 0 for phi <= 1.

    Raises:
        TheoryError: If the ratio is not within RATIOS.
    """
    in_range("ratio", ratio, RATIOS)
    half_kernel = max(0.0, (1 - 1 / ratio) / 2)
    return half_kernel if activation == "linear" else min(half_kernel, 1 / (2 * ratio))


def empirical_critical_energies(ratio: float) -> dict[str, float] | None:
    """Critical energies fitted to trained networks with one hidden layer: tanh (1 - phi)^2 / 2, linear (1 - phi) / 2.

    Args:
        ratio: phi > 0.

    Returns:
        The energies by activation, or None for phi >= 1.

    References:
        Lecture, after figure 6 of Pennington & Bahri, ICML 2017.
    """
    return {"tanh": (1 - ratio) ** 2 / 2, "linear": (1 - ratio) / 2} if ratio < 1 else None


def index_curve(activation: Activation, energies: ArrayLike, ratio: float) -> Array:
    """Index alpha of `hessian_law` at many energies.

    Args:
        activation: Activation function of the hidden layer.
        energies: Energies of shape (n,), each 0 or within SCALES.
        ratio: phi, within RATIOS.

    Returns:
        Indices of shape (n,); 0 up to the critical energy.

    Raises:
        TheoryError: If an energy is neither 0 nor within SCALES, or the ratio is not within RATIOS.
    """
    array = np.asarray(energies, dtype=np.float64)
    rate = 1 / in_range("ratio", ratio, RATIOS)
    for extreme in (array.min(), array[array > 0].min(initial=SCALES[1]), array.max()):
        check_energy(float(extreme))
    threshold = critical_energy(activation, ratio) or 0.0
    positive = array[array > threshold]
    one, none = np.ones_like(positive), np.zeros_like(positive)
    if activation == "linear":
        laws = Boundary(2 * positive, rate * one[None], ratio * one[None])
    else:
        jump = ratio * np.sqrt(positive / 2)
        laws = Boundary(none, rate * np.stack([one, one / 2, one / 2]), np.stack([ratio * one, jump, -jump]))
    index = np.zeros_like(array)
    if positive.size:
        index[array > threshold] = indices(laws)
    return index


def _root(activation: Activation, ratio: float) -> float:
    return math.sqrt(1 + 8 * ratio if activation == "linear" else 9 - 8 * (1 - ratio) ** 2)
