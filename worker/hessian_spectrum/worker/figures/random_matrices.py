"""Densities of Wishart plus Wigner matrices, and eigenvalues of matrices that are sampled."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.api_schemas.figures.random_matrices import DensityParameters, HessianDensity
from hessian_spectrum.api_schemas.figures.results import Choice, Panel, Verdict
from hessian_spectrum.statistics import estimates
from hessian_spectrum.theory.random_matrix.ensembles import wigner_law
from hessian_spectrum.theory.random_matrix.hessian import critical_energy, hessian_law
from hessian_spectrum.theory.random_matrix.law import FreeLaw
from hessian_spectrum.theory.random_matrix.sampling import draw_sample
from hessian_spectrum.worker.figures.claims import Range, curve, exact, verdict
from hessian_spectrum.worker.figures.measurement import Context, FigureContent, Measured

Array = NDArray[np.float64]

GRID = 600
"""Number of points of the density."""

NUM_BINS = 50
"""Number of bins of the histogram."""

WRONG = {"ratio": 1.5, "energy": 1.5}
"""Factors of the wrong laws with which the samples are also compared, as a control."""

RIGIDITY = 4.0
"""Largest distance between the distributions of a sample and its limit, in units of 1 / size."""


def kolmogorov_distance(eigenvalues: Array, law: FreeLaw) -> float:
    """Largest difference between the empirical distribution of eigenvalues and the distribution of a law.

    Args:
        eigenvalues: Eigenvalues of shape (n,), ascending.
        law: The law.

    Returns:
        The Kolmogorov-Smirnov distance, between 0 and 1.
    """
    below, above = np.arange(len(eigenvalues)) / len(eigenvalues), np.arange(1, len(eigenvalues) + 1) / len(eigenvalues)
    cumulative = law.cumulative(eigenvalues)
    return float(max(np.abs(cumulative - below).max(), np.abs(cumulative - above).max()))


def distance_to_semicircle(law: FreeLaw) -> float:
    """Kolmogorov distance between a law and the semicircle of its mean and variance."""
    mean, second = law.moments[:2]
    circle = wigner_law(second - mean**2)
    points = np.linspace(law.support[0].low, law.support[-1].high, 2000)
    return float(np.abs(law.cumulative(points) - circle.cumulative(points - mean)).max())


def measure_density(measurement: HessianDensity, context: Context) -> Measured:
    """Compute a density of the random-matrix model, and compare it with the eigenvalues of sampled matrices.

    Args:
        measurement: Ratio, energy, and how many matrices of which size are drawn.
        context: Progress.

    Returns:
        Arrays: `points` and `density`, of the law; `edges` and `histogram`, of the samples; over samples `distance`,
        the Kolmogorov distance to the law, `negative`, the share of negative eigenvalues, and `wrong_ratio`,
        `wrong_energy`, the distances to wrong laws. Values: `index`, the mass of the law below 0; `mean`, `deviation`,
        `lowest`, the lower edge of the support; `semicircle_distance`; `critical_energy`, None if there is none.
    """
    m = measurement
    law = hessian_law("linear", m.energy, m.ratio)
    wrong = {
        "wrong_ratio": hessian_law("linear", m.energy, m.ratio * WRONG["ratio"]),
        "wrong_energy": hessian_law("linear", m.energy * WRONG["energy"], m.ratio),
    }
    columns: dict[str, list[float]] = {name: [] for name in ("distance", "negative", *wrong)}
    eigenvalues = []
    for index in range(m.num_matrices):
        sample = draw_sample(law, m.size, m.seed + index)
        eigenvalues.append(sample.eigenvalues)
        columns["distance"].append(kolmogorov_distance(sample.eigenvalues, law))
        columns["negative"].append(sample.negative_fraction)
        for name, other in wrong.items():
            columns[name].append(kolmogorov_distance(sample.eigenvalues, other))
        context.progress("matrices", index + 1, m.num_matrices)
    low, high = law.support[0].low, law.support[-1].high
    points = np.linspace(low, high, GRID)
    histogram, edges = np.histogram(np.concatenate(eigenvalues), bins=NUM_BINS, density=True)
    mean, second = law.moments[:2]
    values = {
        "index": law.index,
        "mean": mean,
        "deviation": sqrt(second - mean**2),
        "lowest": low,
        "semicircle_distance": distance_to_semicircle(law),
        "critical_energy": critical_energy("linear", m.ratio),
    }
    arrays = {name: np.array(column) for name, column in columns.items()}
    return Measured(
        values, arrays | {"points": points, "density": law.density(points), "edges": edges, "histogram": histogram}
    )


MEASUREMENTS = {HessianDensity: measure_density}


def _by_ratio(parameters: DensityParameters, measured: Sequence[Measured]) -> dict[float, Sequence[Measured]]:
    count = len(parameters.energies)
    return {ratio: measured[i * count : (i + 1) * count] for i, ratio in enumerate(parameters.ratios)}


def _rising(parameters: DensityParameters, measured: Sequence[Measured], name: str, sign: int) -> list[bool]:
    """Whether a value of the law grows (sign 1) or falls (-1) strictly, between neighbouring energies of each ratio."""
    steps = []
    for of in _by_ratio(parameters, measured).values():
        values = np.array([each.values[name] for each in of])
        steps += (sign * np.diff(values) > 0).tolist()
    return steps


def _threshold_agrees(parameters: DensityParameters, measured: Sequence[Measured]) -> list[bool]:
    """Whether there are negative eigenvalues exactly above the critical energy, at each ratio and energy above 0."""
    agrees = []
    for ratio, of in _by_ratio(parameters, measured).items():
        threshold = critical_energy("linear", ratio) or 0.0
        agrees += [
            (each.values["index"] > 0) == (energy > threshold)
            for energy, each in zip(parameters.energies, of, strict=True)
            if energy > 0
        ]
    return agrees


def _sample_verdicts(parameters: DensityParameters, measured: Sequence[Measured]) -> list[Verdict]:
    distances = np.concatenate([each.arrays["distance"] for each in measured])
    control = {
        f"{name} 50 % too large": estimates.mean(
            parameters.size
            * np.concatenate(
                [e.arrays[f"wrong_{name}"] for e, m in zip(measured, parameters.points(), strict=True) if m.energy > 0]
            )
        )
        for name in WRONG
    }
    gaps = np.concatenate([each.arrays["negative"] - each.values["index"] for each in measured])
    return [
        verdict(
            "The density is the limit of the eigenvalues of Wishart plus Wigner matrices.",
            quantity="mean Kolmogorov distance between the eigenvalues of a sampled matrix and the law, times the size",
            estimate=estimates.mean(parameters.size * distances),
            holds_for=Range(below=RIGIDITY),
            variants=control,
            note="eigenvalues are rigid: independent ones would have 0.87 times the root of the size. The "
            "variants are the control, the same distance to wrong laws",
        ),
        verdict(
            "The share of negative eigenvalues of sampled matrices is the index of the law.",
            quantity="mean difference between both, times the size",
            estimate=estimates.mean(parameters.size * gaps),
            holds_for=Range(above=-RIGIDITY, below=RIGIDITY),
        ),
    ]


def figure_1(parameters: DensityParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make figure 1 of the Lecture: densities for several ratios and energies.

    Args:
        parameters: Parameters of the figure.
        measured: Measurements by ratio and energy.

    Returns:
        The content.
    """
    panels = []
    for ratio, of in _by_ratio(parameters, measured).items():
        curves = []
        for group, (energy, each) in enumerate(zip(parameters.energies, of, strict=True)):
            curves.append(
                curve(f"energy {energy:g}", each.arrays["points"], each.arrays["density"], style="line", group=group)
            )
            centres = (each.arrays["edges"][1:] + each.arrays["edges"][:-1]) / 2
            curves.append(curve("", centres, each.arrays["histogram"], style="markers", group=group))
        panels.append(Panel(title=f"phi = {ratio:g}", x_label="eigenvalue", y_label="density", curves=curves))
    verdicts = [
        verdict(
            "As the energy increases, the spectrum becomes more semicircular.",
            quantity="share of steps in energy that reduce the distance to the semicircle of equal mean and variance",
            estimate=exact(float(np.mean(_rising(parameters, measured, "semicircle_distance", -1)))),
            holds_for=Range(above=0.999),
            note="Kolmogorov distance of the laws, without sampling error",
        ),
        verdict(
            "As the energy increases, negative eigenvalues emerge.",
            quantity="share of steps in energy at which the lower edge of the support falls",
            estimate=exact(float(np.mean(_rising(parameters, measured, "lowest", -1)))),
            holds_for=Range(above=0.999),
        ),
        verdict(
            "Negative eigenvalues exist above the critical energy alone.",
            quantity="share of ratios and positive energies at which this is so",
            estimate=exact(float(np.mean(_threshold_agrees(parameters, measured)))),
            holds_for=Range(above=0.999),
            note="critical energy (1 - 20 phi - 8 phi^2 + (1 + 8 phi)^(3/2)) / 16 for phi < 1",
        ),
        *_sample_verdicts(parameters, measured),
    ]
    rows = [
        {
            "ratio": point.ratio,
            "energy": point.energy,
            **each.values,
            "distance_mean": float(each.arrays["distance"].mean()),
            "negative_mean": float(each.arrays["negative"].mean()),
        }
        for point, each in zip(parameters.points(), measured, strict=True)
    ]
    return FigureContent(rows, panels, verdicts, _choices(parameters))


def _choices(parameters: DensityParameters) -> list[Choice]:
    return [
        Choice(
            name="ratios, energies",
            value=f"{', '.join(f'{ratio:g}' for ratio in parameters.ratios)}; "
            f"{', '.join(f'{energy:g}' for energy in parameters.energies)}",
            reason="The Lecture names three ratios without their values, and no energies.",
        ),
        Choice(
            name="variance",
            value="Wigner entries of variance 2 energy / n, Wishart entries of variance 1 / p",
            reason="The Lecture omits the division by n, and writes sigma where sigma^2 is meant.",
        ),
    ]


FIGURE_CONTENTS = {"lecture-1": figure_1}
