"""Two-layer networks with scalar input and output: linear, and ReLU, which splits into two linear cells."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.arrays import matching_arrays
from theory.closed_form.spectrum import Eigenvalue, Spectrum, Statistic

Vector = NDArray[np.float64]

PHASE_MULTIPLE = 8
"""c counts as arrived at theta* when |d| <= PHASE_MULTIPLE * eps * (|c| s2 + |mean(yx)|): then the phase is late."""


@dataclass(frozen=True)
class _Cell:
    """What the spectrum of f(x) = <w, v> x depends on; the last three are signed roots of the squares of eq. 2."""

    s2: float  # mean(x^2)
    c: float  # <w, v>
    d: float  # mean(delta x)
    mean_yx: float
    trace_w: float  # s2 |w|^2
    trace_v: float  # s2 |v|^2
    imbalance: float  # s2 |w|^2 - s2 |v|^2
    non_collinearity: float  # 2 s2 sqrt(|w|^2 |v|^2 - c^2)
    target_deviation: float  # 2 (2 c s2 - mean(yx))

    @property
    def outliers(self) -> tuple[float, float]:
        trace = self.trace_w + self.trace_v
        large = (trace + math.hypot(self.imbalance, self.non_collinearity, self.target_deviation)) / 2
        if large == 0.0:
            return 0.0, 0.0
        # (trace - root) / 2 cancels; the product of the pair is -d (d + 2 s2 c), divided first against overflow.
        return large, -self.d * ((self.d + 2 * self.s2 * self.c) / large)


def _mixed_area(w: Vector, v: Vector) -> float:
    """sqrt(|w|^2 |v|^2 - <w,v>^2), as the longer vector's length times the other's distance from its line.

    The difference of products loses every digit when w and v are nearly parallel.
    """
    longer, shorter = (w, v) if w @ w >= v @ v else (v, w)
    square = float(longer @ longer)
    if square == 0.0:
        return 0.0
    distance = shorter - (longer @ shorter) / square * longer
    return math.sqrt(square) * math.sqrt(float(distance @ distance))


def _cell(w: Vector, v: Vector, x: Vector, y: Vector) -> _Cell:
    s2, mean_yx, c = float(np.mean(x * x)), float(np.mean(y * x)), float(w @ v)
    d = float(np.mean((c * x - y) * x))
    return _Cell(
        s2=s2,
        c=c,
        d=d,
        mean_yx=mean_yx,
        trace_w=s2 * float(w @ w),
        trace_v=s2 * float(v @ v),
        imbalance=s2 * float((w - v) @ (w + v)),
        non_collinearity=2 * s2 * _mixed_area(w, v),
        target_deviation=2 * (d + c * s2),
    )


def _phase(cell: _Cell) -> str | None:
    """Learning phase, mirrored for theta* < 0: early c <= theta*/3, late up to theta*, divergent beyond; ties are late.

    Source:  Cracking, appendix C, which treats theta* > 0 alone.
    """
    if cell.s2 == 0.0 or cell.mean_yx == 0.0:
        return None
    sign = math.copysign(1.0, cell.mean_yx)
    rounding = PHASE_MULTIPLE * float(np.finfo(np.float64).eps) * (abs(cell.c) * cell.s2 + abs(cell.mean_yx))
    if sign * cell.d > rounding:
        return "divergent"
    return "early" if sign * (cell.d + 2 * cell.s2 * cell.c) < 0 else "late"


STATISTIC_NAMES = (
    *("s2", "c", "d", "mean_yx", "theta_star", "trace_w", "trace_v"),
    *("imbalance", "non_collinearity", "target_deviation", "phase"),
)


def _statistics(cell: _Cell | None) -> dict[str, Statistic]:
    if cell is None:
        return dict.fromkeys(STATISTIC_NAMES)
    return {
        "s2": cell.s2,
        "c": cell.c,
        "d": cell.d,
        "mean_yx": cell.mean_yx,
        "theta_star": cell.mean_yx / cell.s2 if cell.s2 else None,
        "trace_w": cell.trace_w,
        "trace_v": cell.trace_v,
        "imbalance": cell.imbalance * cell.imbalance,
        "non_collinearity": cell.non_collinearity * cell.non_collinearity,
        "target_deviation": cell.target_deviation * cell.target_deviation,
        "phase": _phase(cell),
    }


def _phase_notes(cell: _Cell, suffix: str = "") -> tuple[str, ...]:
    if cell.s2 == 0.0:
        return (f"theta_star{suffix} and phase{suffix} are null: every input is 0 (or its square underflows)",)
    if cell.mean_yx == 0.0:
        return (f"phase{suffix} is null: mean(yx) = 0, so theta* = 0",)
    return ()


def _pair_and_bulk(cell: _Cell, weight: float, num_neurons: int, group: str | None, pair: int) -> list[Eigenvalue]:
    values = [weight * value for value in cell.outliers]
    bulk = weight * cell.d
    return [
        *(Eigenvalue(value, 1, "outlier", group, pair) for value in values),
        *(Eigenvalue(value, num_neurons - 1, "bulk", group) for value in (bulk, -bulk)),
    ]


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def linear_spectrum(w: ArrayLike, v: ArrayLike, x: ArrayLike, y: ArrayLike) -> Spectrum:
    """Hessian spectrum of L = 1/(2n) sum_i (f(x_i) - y_i)^2 for f(x) = <w, v> x.

    With s2 = mean(x^2), c = <w,v>, d = mean(delta x), delta = f(x) - y and t = s2 (|w|^2 + |v|^2), the trace:
    one pair (t ± sqrt(a + b + e)) / 2, and the bulk +d and -d, each m - 1 times, where
    a = s2^2 (|w|^2 - |v|^2)^2, b = 4 s2^2 (|w|^2 |v|^2 - c^2), e = 4 (2 c s2 - mean(yx))^2.
    The Poster drops s2 in e. For m >= 2 and d != 0 the smallest eigenvalue is -|d|.

    Args:  w, v (m,); x, y (n,).
    Returns:  2m eigenvalues in loss per squared parameter. statistics: s2, c, d, mean_yx, theta_star = mean_yx / s2,
        trace_w = s2 |w|^2 and trace_v = s2 |v|^2 (they sum to the trace), imbalance a, non_collinearity b,
        target_deviation e, phase (early | late | divergent; None with a note when theta* = 0), mean_loss.
    Raises:  TheoryError for empty, unequal, non-finite or overflowing input.
    Source:  Cracking the Hessian, Theorem 3.1, eq. 2 and appendix C.
    """
    w, v = matching_arrays(("w", "v"), (w, v), 1)
    x, y = matching_arrays(("x", "y"), (x, y), 1)
    cell = _cell(w, v, x, y)
    return Spectrum(
        kind="linear",
        num_parameters=2 * w.size,
        method="closed-form",
        source="Cracking the Hessian, Theorem 3.1",
        eigenvalues=tuple(_pair_and_bulk(cell, 1.0, w.size, None, 0)),
        trace=cell.trace_w + cell.trace_v,
        statistics=_statistics(cell) | {"mean_loss": float(np.mean((cell.c * x - y) ** 2)) / 2},
        notes=_phase_notes(cell),
    )


@dataclass(frozen=True)
class _ReluCell:
    """One sign group of neurons on the samples they see."""

    group: str
    w: Vector
    v: Vector
    x: Vector
    y: Vector
    num_samples_in_all: int

    @property
    def suffix(self) -> str:
        return "_plus" if self.group == "+" else "_minus"

    @property
    def fraction(self) -> float:
        return self.x.size / self.num_samples_in_all

    @cached_property
    def linear(self) -> _Cell | None:
        return _cell(self.w, self.v, self.x, self.y) if self.w.size and self.x.size else None

    @property
    def squared_error(self) -> float:
        return float(np.sum((float(self.w @ self.v) * self.x - self.y) ** 2))

    def eigenvalues(self, pair: int) -> list[Eigenvalue]:
        if self.linear is None:
            return [Eigenvalue(0.0, 2 * self.w.size, "zero", self.group)]
        return _pair_and_bulk(self.linear, self.fraction, self.w.size, self.group, pair)

    def statistics(self) -> dict[str, Statistic]:
        counts = {"num_neurons": self.w.size, "num_samples": self.x.size, "fraction": self.fraction}
        named: dict[str, Statistic] = {**counts, **_statistics(self.linear)}
        return {name + self.suffix: value for name, value in named.items()}

    def notes(self) -> tuple[str, ...]:
        if not self.w.size:
            return (f"cell {self.group} has no neurons",)
        if self.linear is None:
            return (f"cell {self.group} has no samples: its {2 * self.w.size} eigenvalues are 0",)
        return _phase_notes(self.linear, self.suffix)


def _relu_cells(w: Vector, v: Vector, x: Vector, y: Vector) -> tuple[_ReluCell, _ReluCell]:
    plus = _ReluCell("+", w[v > 0], v[v > 0], x[x > 0], y[x > 0], x.size)
    return plus, _ReluCell("-", w[v < 0], v[v < 0], x[x < 0], y[x < 0], x.size)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def relu_spectrum(w: ArrayLike, v: ArrayLike, x: ArrayLike, y: ArrayLike) -> Spectrum:
    """Hessian spectrum of L = 1/(2n) sum_i (f(x_i) - y_i)^2 for f(x) = sum_j w_j max(v_j x, 0).

    Cell "+" holds the neurons v_j > 0 and the samples x_i > 0, cell "-" those below 0. Each cell has the spectrum of
    `linear_spectrum` on its own neurons and samples, times num_samples / n. Beyond the theorem: a cell without
    neurons gives nothing, one without samples gives zeros, a neuron v_j = 0 gives two zeros (relu'(0) = 0), and a
    sample x_i = 0 counts in n only.

    Args:  w, v (m,); x, y (n,).
    Returns:  2m eigenvalues in loss per squared parameter, group = cell; pairs numbered from 0, cell "+" first.
        statistics: num_dead_neurons, mean_loss, and for each cell with suffix _plus or _minus: num_neurons,
        num_samples, fraction = num_samples / n and every statistic of `linear_spectrum` except mean_loss, within the
        cell (not yet times fraction); these last are None when the cell has no neurons or no samples.
    Raises:  TheoryError for empty, unequal, non-finite or overflowing input.
    Source:  Cracking the Hessian, Theorem 3.4.
    """
    w, v = matching_arrays(("w", "v"), (w, v), 1)
    x, y = matching_arrays(("x", "y"), (x, y), 1)
    plus, minus = _relu_cells(w, v, x, y)
    num_dead = int(np.count_nonzero(v == 0))
    dead_note = (f"{num_dead} neuron(s) with v = 0 belong to no cell: two zeros each",) if num_dead else ()
    squared_error = plus.squared_error + minus.squared_error + float(np.sum(y[x == 0] ** 2))
    return Spectrum(
        kind="relu",
        num_parameters=2 * w.size,
        method="closed-form",
        source="Cracking the Hessian, Theorem 3.4",
        eigenvalues=(
            *plus.eigenvalues(0),
            *minus.eigenvalues(0 if plus.linear is None else 1),
            Eigenvalue(0.0, 2 * num_dead, "zero"),
        ),
        trace=sum(cell.fraction * (cell.linear.trace_w + cell.linear.trace_v) for cell in (plus, minus) if cell.linear),
        statistics={
            "num_dead_neurons": num_dead,
            "mean_loss": squared_error / (2 * x.size),
            **plus.statistics(),
            **minus.statistics(),
        },
        notes=(*plus.notes(), *minus.notes(), *dead_note),
    )
