"""Index and energy of critical points of networks with one hidden layer, and energies of their minimizers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f, linregress, t

from hessian_spectrum.api_schemas.figures.critical_points import SERIES, CriticalPointsAt, LandscapeParameters
from hessian_spectrum.api_schemas.figures.results import Choice, Curve, Panel, Verdict
from hessian_spectrum.curvature.dynamics.critical_points import CriticalPointSearch
from hessian_spectrum.curvature.dynamics.single_hidden_layer import random_networks
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.statistics import estimates
from hessian_spectrum.statistics.estimates import CONFIDENCE, Estimate, joint_confidence, unknown
from hessian_spectrum.theory.random_matrix.hessian import empirical_critical_energies
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.figures.claims import Range, curve, share, verdict
from hessian_spectrum.worker.figures.measurement import Context, FigureContent, Measured

Array = NDArray[np.float64]

DATA, WEIGHTS = 1, 2
"""Purposes of random numbers."""

PATIENCE = {"gradient-norm": 6, "loss": 50}
"""Iterations without a substantial decrease after which a search ends, by objective."""

ITERATIONS = {"gradient-norm": 300, "loss": 200}

LARGEST_ROUND = 128

MATRIX_NUMBERS = 2**23
"""Largest number of entries of all Hessians of a round."""

EXPONENTS = np.arange(0.5, 3.001, 0.01)
"""Exponents that are tried where the exponent is fitted."""

LEAST_POINTS = 8
"""Number of critical points from which a curve is fitted."""

NUM_GROUPS = 12
"""Largest number of groups of neighbouring indices whose mean energies are drawn."""


def measure_critical_points(measurement: CriticalPointsAt, context: Context) -> Measured:
    """Search one critical point, or one minimizer, of each of many random networks.

    Args:
        measurement: The networks and what is minimised.
        context: Progress and checkpoints.

    Returns:
        Arrays over the networks, as of `CriticalPoints`, without parameters. Values: `ratio`, 2n/m with m rounded.
    """
    m = measurement
    networks = random_networks(
        m.num_searches, m.width, m.num_samples, activation=m.activation, generator=generator_of(m.seed, DATA)
    )
    rows = networks.num_parameters
    search = CriticalPointSearch(
        objective=m.objective,
        initial_scale=m.initial_scale,
        max_descent_steps=m.max_descent_steps,
        learning_rate=0.5,
        max_iterations=ITERATIONS[m.objective],
        patience=PATIENCE[m.objective],
        round_size=max(8, min(LARGEST_ROUND, MATRIX_NUMBERS // rows**2)),
    )
    points = run(
        search,
        networks,
        generator=generator_of(m.seed, WEIGHTS),
        progress=context.progress,
        checkpointer=context.stage,
    )
    names = ("energy", "gradient_norm", "index", "num_zeros", "num_iterations", "descent_steps")
    return Measured({"ratio": 2 * m.width / m.num_samples}, {name: getattr(points, name) for name in names})


MEASUREMENTS = {CriticalPointsAt: measure_critical_points}


def fitted_energy(energy: Array, index: Array, *, exponent: float = 1.5) -> tuple[Estimate, Estimate]:
    """Least squares of the energy on the index: energy = critical + slope alpha^(1/exponent).

    Args:
        energy: Energies of shape (n,).
        index: Indices alpha of shape (n,).
        exponent: Exponent of the law alpha = alpha_0 (energy - critical)^exponent.

    Returns:
        The critical energy and the slope with Student's intervals; no values where `_too_few` says why.
    """
    if (why := _too_few(index)) is not None:
        return unknown(why), unknown(why)
    line = linregress(index ** (1 / exponent), energy)
    factor = float(t.ppf((1 + CONFIDENCE) / 2, len(energy) - 2))
    critical, slope = (
        Estimate(float(value), float(value - factor * error), float(value + factor * error))
        for value, error in ((line.intercept, line.intercept_stderr), (line.slope, line.stderr))
    )
    return critical, slope


def fitted_exponent(energy: Array, index: Array, *, critical: float | None = None) -> Estimate:
    """Exponent p of alpha = alpha_0 (energy - critical)^p with the smallest squared error of the energy.

    Args:
        energy: Energies of shape (n,).
        index: Indices alpha of shape (n,).
        critical: Critical energy; None fits it, too.

    Returns:
        The best of `EXPONENTS`, with the interval of all whose squared error the F distribution does not exclude; no
        value where `_too_few` says why.

    References:
        Bates & Watts, Nonlinear Regression Analysis and Its Applications, section 6.1 (profiles of the squared error).
    """
    if (why := _too_few(index)) is not None:
        return unknown(why)
    powers = index[:, None] ** (1 / EXPONENTS)
    if critical is None:
        powers, above = powers - powers.mean(axis=0), energy - energy.mean()
    else:
        above = energy - critical
    freedom = len(energy) - (3 if critical is None else 2)
    slopes = (powers * above[:, None]).sum(axis=0) / (powers**2).sum(axis=0)
    errors = ((above[:, None] - slopes * powers) ** 2).sum(axis=0)
    best = int(np.argmin(errors))
    kept = np.flatnonzero(errors <= errors[best] * (1 + float(f.ppf(CONFIDENCE, 1, freedom)) / freedom))
    # the ends lie between the last exponent that is kept and the next one
    low, high = max(kept[0] - 1, 0), min(kept[-1] + 1, len(EXPONENTS) - 1)
    return Estimate(float(EXPONENTS[best]), float(EXPONENTS[low]), float(EXPONENTS[high]))


def _too_few(index: Array) -> str | None:
    """Return why no curve is fitted, None if one is."""
    if len(index) >= LEAST_POINTS and len(np.unique(index)) >= 3:
        return None
    return f"fewer than {LEAST_POINTS} critical points of small index, or fewer than 3 indices"


class _Points:
    """The critical points of one ratio: those with a small gradient, and among them those of small index."""

    def __init__(self, measured: Measured, tolerance: float, largest_index: float) -> None:
        arrays = measured.arrays
        kept = arrays["gradient_norm"] <= tolerance
        self.ratio = float(measured.values["ratio"])
        self.num_searches = len(kept)
        self.energy, self.index = arrays["energy"][kept], arrays["index"][kept]
        self.gradient_norm = arrays["gradient_norm"][kept]
        small = self.index <= largest_index
        self.small_energy, self.small_index = self.energy[small], self.index[small]

    @property
    def critical(self) -> Estimate:
        """Critical energy of the fit with exponent 3/2."""
        return fitted_energy(self.small_energy, self.small_index)[0]

    @property
    def factor(self) -> Estimate:
        """alpha_0 of the fit with exponent 3/2, for energies in units of the targets' mean square."""
        slope = fitted_energy(self.small_energy, self.small_index)[1]
        # alpha_0 = slope^(-3/2) falls with the slope, and a slope that may be 0 leaves it without an upper end
        value, lower, upper = (
            None if end is None or end <= 0 else end**-1.5 for end in (slope.value, slope.upper, slope.lower)
        )
        return Estimate(value, lower, upper, slope.why)

    def exponent(self, critical: float | None) -> Estimate:
        """Best exponent for a critical energy, or for one that is fitted as well."""
        return fitted_exponent(self.small_energy, self.small_index, critical=critical)


class _Landscape:
    """All measurements of the figure."""

    def __init__(self, parameters: LandscapeParameters, measured: Sequence[Measured]) -> None:
        count, self.parameters = len(parameters.ratios), parameters
        parts = {series: measured[i * count : (i + 1) * count] for i, series in enumerate(SERIES)}
        self._searched = parts["tanh", "gradient-norm"]
        self.minimized = {name: parts[name, "loss"] for name in ("tanh", "linear")}
        self.strict = self.points(parameters.tolerance)
        self.loose = self.points(parameters.loose_tolerance)

    def points(self, tolerance: float) -> list[_Points]:
        """Critical points at each ratio, for a tolerance of the gradient's norm."""
        return [_Points(each, tolerance, self.parameters.largest_index) for each in self._searched]

    def ratios(self, activation: str) -> Array:
        """Ratios with m rounded."""
        return np.array([each.values["ratio"] for each in self.minimized[activation]])

    def energies(self, activation: str, *, converged: bool = False) -> list[Estimate]:
        """Mean energy of the minimizers at each ratio: of all networks, or of those whose gradient vanishes."""
        found = []
        for each in self.minimized[activation]:
            kept = each.arrays["gradient_norm"] <= 1e-6 if converged else slice(None)
            energy = each.arrays["energy"][kept]
            found.append(estimates.mean(energy))
        return found


def deviation(found: Sequence[Estimate], law: Array) -> Estimate:
    """Mean absolute deviation of energies from a law over the ratios, with the ends of the intervals for bounds.

    Args:
        found: Energies at the ratios.
        law: Energies by the law, of shape (number of ratios,).

    Returns:
        The deviation; no value if the energy at a ratio is not known.
    """
    missing = [each for each in found if None in (each.value, each.lower, each.upper)]
    if missing:
        return unknown(f"the energy at {len(missing)} of {len(found)} ratios is not known: {missing[0].why}")
    values, lower, upper = np.array([(each.value, each.lower, each.upper) for each in found], dtype=np.float64).T
    low, high = lower - law, upper - law
    nearest = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high)))
    farthest = np.maximum(np.abs(low), np.abs(high))
    return Estimate(float(np.abs(values - law).mean()), float(nearest.mean()), float(farthest.mean()))


def _laws(ratios: Array) -> dict[str, Array]:
    return {
        "tanh": (1 - ratios) ** 2 / 2,
        "linear": (1 - ratios / 2) / 2,
        "linear as printed": np.array(
            [(empirical_critical_energies(float(r)) or {"linear": 0.0})["linear"] for r in ratios]
        ),
    }


def _index_verdicts(landscape: _Landscape) -> list[Verdict]:
    confidence = joint_confidence(len(landscape.strict))
    smallest = {
        name: estimates.extreme(
            [estimates.pearson(each.energy, each.index, confidence=confidence) for each in of], which="smallest"
        )
        for name, of in (("strict", landscape.strict), ("loose", landscape.loose))
    }
    loose = f"gradients up to {landscape.parameters.loose_tolerance:g}"
    verdicts = [
        verdict(
            "Critical points of larger energy have a larger index.",
            quantity="smallest Pearson correlation of index and energy over the ratios",
            estimate=smallest["strict"],
            holds_for=Range(above=0.5),
            variants={loose: smallest["loose"]},
        )
    ]
    minimal = landscape.energies("tanh")
    for strict, other, minimum in zip(landscape.strict, landscape.loose, minimal, strict=True):
        verdicts.append(
            verdict(
                f"For small index the index grows with the power 3/2 of the energy (phi = {strict.ratio:.3g}).",
                quantity="exponent of best fit above the mean energy of minimizers; it holds if within 1 and 2",
                estimate=strict.exponent(minimum.value),
                holds_for=Range(above=1.0, below=2.0),
                variants={
                    "critical energy fitted as well": strict.exponent(None),
                    loose: other.exponent(minimum.value),
                },
                note=f"{len(strict.small_energy)} of {len(strict.energy)} critical points from {strict.num_searches} "
                f"searches have an index up to {landscape.parameters.largest_index:g}, in steps of "
                f"1/{2 * landscape.parameters.width**2}; the law is one of large networks",
            )
        )
    return verdicts


def _minimizer_verdicts(landscape: _Landscape) -> list[Verdict]:
    ratios = landscape.ratios("tanh")
    laws = _laws(ratios)
    tanh, linear = landscape.energies("tanh"), landscape.energies("linear")
    fits = [each.critical for each in landscape.strict]
    loose = [each.critical for each in landscape.loose]
    return [
        verdict(
            "The energy of minimizers of tanh networks is well fitted by (1 - phi)^2 / 2.",
            quantity="mean absolute deviation of the mean energy of minimizers, over the ratios",
            estimate=deviation(tanh, laws["tanh"]),
            holds_for=Range(below=0.03),
            variants={
                "minimizers with a vanishing gradient alone": deviation(
                    landscape.energies("tanh", converged=True), laws["tanh"]
                ),
                "critical energy of the fit in panel a": deviation(fits, laws["tanh"]),
                f"critical energy, gradients up to {landscape.parameters.loose_tolerance:g}": deviation(
                    loose, laws["tanh"]
                ),
                "control: the law of linear networks": deviation(tanh, laws["linear"]),
            },
            note="bounds are means of the nearest and farthest ends of the intervals at each ratio; many tanh networks "
            "approach their infimum with growing weights, and have no minimizer",
        ),
        verdict(
            "The energy of minimizers of linear networks obeys (1 - phi / 2) / 2.",
            quantity="mean absolute deviation of the mean energy of minimizers, over the ratios",
            estimate=deviation(linear, laws["linear"]),
            holds_for=Range(below=0.03),
            variants={"(1 - phi) / 2, as printed": deviation(linear, laws["linear as printed"])},
            note="least squares: n of m degrees of freedom are fitted at each output, and phi = 2 n / m",
        ),
        verdict(
            "The nonlinear activation lowers the energy of minimizers.",
            quantity="smallest difference between mean energies of linear and tanh networks over the ratios",
            estimate=estimates.extreme(
                [
                    estimates.mean(a.arrays["energy"] - b.arrays["energy"], confidence=joint_confidence(len(tanh)))
                    for a, b in zip(landscape.minimized["linear"], landscape.minimized["tanh"], strict=True)
                ],
                which="smallest",
            ),
            holds_for=Range(above=0.0),
            note="networks of both kinds have the same data",
        ),
        *_quality_verdicts(landscape),
    ]


def _quality_verdicts(landscape: _Landscape) -> list[Verdict]:
    """What the numbers rest on: the norms that were reached, and the indices of minimizers."""
    tolerance = landscape.parameters.tolerance
    norms = np.concatenate([each.gradient_norm for each in landscape.strict])
    indices = np.concatenate(
        [e.arrays["index"][e.arrays["gradient_norm"] <= 1e-6] for e in landscape.minimized["tanh"]]
    )
    kept = f"the largest norm of those kept is {norms.max():.1e}" if len(norms) else "none is kept"
    return [
        verdict(
            "Searches that minimise the norm of the gradient end at critical points.",
            quantity=f"share of searches that reach a norm of {tolerance:g}",
            estimate=share(
                np.concatenate([np.arange(each.num_searches) < len(each.energy) for each in landscape.strict])
            ),
            holds_for=Range(above=0.5),
            note=f"the others slow down near points where H g = 0 and g is not 0, and are left out; {kept}",
        ),
        verdict(
            "Minimizers have no negative eigenvalues.",
            quantity="share of minimizers with a vanishing gradient whose index is 0, from dense spectra",
            estimate=share(indices == 0),
            holds_for=Range(above=0.9),
        ),
    ]


def _grouped(points: _Points) -> tuple[Array, Array]:
    """Mean index and mean energy of groups of neighbouring indices."""
    order = np.argsort(points.index, kind="stable")
    groups = [g for g in np.array_split(order, min(NUM_GROUPS, max(1, len(order) // 4))) if len(g)]
    means = [(points.index[group].mean(), points.energy[group].mean()) for group in groups]
    columns = np.array(means).reshape(-1, 2).T
    return columns[0], columns[1]


def _index_panel(landscape: _Landscape, *, inset: bool) -> Panel:
    curves: list[Curve] = []
    for group, points in enumerate(landscape.strict):
        index, energy = _grouped(points)
        shown = index <= landscape.parameters.largest_index if inset else np.ones(len(index), dtype=bool)
        label = f"phi = {points.ratio:.3g}"
        curves.append(curve(label, energy[shown], index[shown], style="markers", group=group))
        critical, slope = fitted_energy(points.small_energy, points.small_index)
        if critical.value is not None and slope.value is not None:
            line = np.linspace(0, landscape.parameters.largest_index, 50)
            curves.append(curve("", critical.value + slope.value * line ** (2 / 3), line, style="line", group=group))
    title = "(a) inset: small index" if inset else "(a) Index of critical points"
    return Panel(title=title, x_label="energy", y_label="index alpha", curves=curves)


def _estimated(label: str, ratios: Array, found: Sequence[Estimate]) -> Curve:
    columns = [[np.nan if v is None else v for v in (e.value, e.lower, e.upper)] for e in found]
    value, lower, upper = np.array(columns, dtype=np.float64).T
    return curve(label, ratios, value, lower=lower, upper=upper, style="markers")


def _energy_panel(landscape: _Landscape) -> Panel:
    ratios = landscape.ratios("tanh")
    grid = np.linspace(0, 1, 101)
    laws = _laws(grid[:-1])
    curves = [
        _estimated("tanh, critical energy of the fit", ratios, [each.critical for each in landscape.strict]),
        _estimated("tanh, minimizers", ratios, landscape.energies("tanh")),
        _estimated("linear, minimizers", ratios, landscape.energies("linear")),
        curve("(1 - phi)^2 / 2", grid[:-1], laws["tanh"], style="line"),
        curve("(1 - phi / 2) / 2", grid[:-1], laws["linear"], style="line"),
        curve("(1 - phi) / 2, as printed", grid[:-1], laws["linear as printed"], style="dashed"),
    ]
    return Panel(title="(b) Energy of minimizers", x_label="phi", y_label="energy", curves=curves)


def _rows(landscape: _Landscape) -> list[dict[str, float | int | None]]:
    rows: list[dict[str, float | int | None]] = []
    energies = {name: landscape.energies(name) for name in ("tanh", "linear")}
    for i, (strict, loose) in enumerate(zip(landscape.strict, landscape.loose, strict=True)):
        fits = {
            "critical": strict.critical,
            "critical_loose": loose.critical,
            "exponent": strict.exponent(energies["tanh"][i].value),
        }
        fits |= {"alpha_0": strict.factor}
        fits |= {f"minimizers_{name}": found[i] for name, found in energies.items()}
        row: dict[str, float | int | None] = {
            "ratio": strict.ratio,
            "num_searches": strict.num_searches,
            "num_critical_points": len(strict.energy),
            "num_small_index": len(strict.small_energy),
            "largest_gradient_norm": float(strict.gradient_norm.max()) if len(strict.energy) else None,
        }
        for name, each in fits.items():
            row |= {name: each.value, f"{name}_lower": each.lower, f"{name}_upper": each.upper}
        rows.append(row | {name: float(law[0]) for name, law in _named_laws(strict.ratio).items()})
    return rows


def _named_laws(ratio: float) -> dict[str, Array]:
    return {f"law_{name.replace(' ', '_')}": law for name, law in _laws(np.array([ratio])).items()}


def figure_6(parameters: LandscapeParameters, measured: Sequence[Measured]) -> FigureContent:
    """Make figure 6 of the Lecture: index against energy, and energy of minimizers against the ratio.

    Args:
        parameters: Parameters of the figure.
        measured: Critical points of tanh networks, then minimizers of tanh and of linear ones, by ratio.

    Returns:
        The content.
    """
    landscape = _Landscape(parameters, measured)
    panels = [
        _index_panel(landscape, inset=False),
        _index_panel(landscape, inset=True),
        _energy_panel(landscape),
    ]
    verdicts = [*_index_verdicts(landscape), *_minimizer_verdicts(landscape)]
    return FigureContent(_rows(landscape), panels, verdicts, _choices(parameters))


def _choices(parameters: LandscapeParameters) -> list[Choice]:
    ratios = ", ".join(f"{ratio:g}" for ratio in parameters.ratios)
    return [
        Choice(
            name="width, ratios",
            value=f"{parameters.width}; {ratios}",
            reason="The caption says varying ratios, of parameters 2 n^2 to targets n m; sizes are not printed.",
        ),
        Choice(
            name="data",
            value="independent normal inputs and targets, each network its own, targets scaled to a mean square of 1",
            reason="Data are i.i.d. in the model; the scale makes the energy without outputs 1/2 for each network.",
        ),
        Choice(
            name="search",
            value="gradient descent of 1 to "
            f"{parameters.max_descent_steps} steps (log-uniform), then Levenberg-Marquardt on the norm of the gradient",
            reason="The Lecture names neither starts nor method. Later starts have smaller energy and index.",
        ),
        Choice(
            name="tolerance",
            value=f"{parameters.tolerance:g}",
            reason="Not printed. Points with almost no gradient need not be near critical points; those up to "
            f"{parameters.loose_tolerance:g} are a variant.",
        ),
        Choice(
            name="largest_index",
            value=f"{parameters.largest_index:g}",
            reason="The power 3/2 holds for small index alone; far from the critical energy it must not be fitted.",
        ),
        Choice(
            name="linear law",
            value="(1 - phi / 2) / 2",
            reason="The Lecture prints (1 - phi) / 2; with its phi = 2 n / m, least squares gives this.",
        ),
    ]


FIGURE_CONTENTS = {"lecture-6": figure_6}
