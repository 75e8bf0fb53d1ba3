"""The table of `benchmarks.gpt2`: each quantity beside its target, measured or with the reason why it was not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.density import Curve, distance
from benchmarks.gpt2_tasks import REDUCED, Precision
from benchmarks.measurements import EXECUTIONS

MOST_GRADIENTS = 2.0
MOST_CPU_BYTES = 4_000_000_000
LEAST_SPEEDUP = 5.0
MOST_EIGENVALUE_DEVIATION = 1e-3
MOST_DENSITY_DISTANCE = 0.02

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """One line."""

    quantity: str
    target: str  # empty: only for information
    measured: str
    reached: bool | None = None  # None: without a target, or not measured
    missing: bool = False

    def line(self) -> str:
        """In Markdown."""
        reached = "not measured" if self.missing else "" if self.reached is None else "yes" if self.reached else "no"
        return f"| {self.quantity} | {self.target} | {self.measured} | {reached} |"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What rows need to know about the problem and the machine."""

    device_type: str
    operations: int  # of the matrix products of a Hessian product
    num_steps: int
    num_probes: int
    budget_bytes: int


def rows(results: Results, sizes: Sizes) -> list[Row]:
    """All of them, whatever was measured; `results` by the names that `benchmarks.gpt2.planned` gives."""
    return [
        *(row for precision in REDUCED for row in _product_rows(results, precision)),
        _memory_row(results["memory"], sizes),
        *(row for precision in REDUCED for row in _density_rows(results, precision, sizes)),
        _budget_row(results["budget"], sizes),
        *(row for precision in REDUCED for row in _curvlinops_rows(results, precision)),
    ]


def _product_rows(results: Results, precision: Precision) -> Iterator[Row]:
    for mode in EXECUTIONS.values():
        quantity = f"Hessian product, {precision}, {mode}"
        target = f"at most {MOST_GRADIENTS} times a compiled gradient"
        found = results[f"products {precision} {mode}"]
        if "missing" in found:
            yield _missing(quantity, target, found)
            continue
        product, gradient = found["seconds"]["hessian_product"], found["seconds"]["compiled_gradient"]
        ratio = product / gradient
        measured = f"{ratio:.2f} ({1e3 * product:.1f} ms, {1e3 * gradient:.1f} ms)"
        yield Row(quantity, target, measured + _remarks(found), ratio <= MOST_GRADIENTS)


def _memory_row(found: Mapping[str, Any], sizes: Sizes) -> Row:
    """Of the process on a CPU; of tensors on a GPU, for which there is no target."""
    on_cpu = sizes.device_type == "cpu"
    quantity = f"peak memory of {'a process' if on_cpu else 'tensors'} during Hessian products, float32"
    target = f"at most {gigabytes(MOST_CPU_BYTES)}" if on_cpu else ""
    if "missing" in found:
        return _missing(quantity, target, found)
    first, later = found["first_bytes"], found["later_bytes"]
    measured = f"{gigabytes(first)} during the first, {gigabytes(later)} during later ones" + _remarks(found)
    return Row(quantity, target, measured, max(first, later) <= MOST_CPU_BYTES if on_cpu else None)


def _density_rows(results: Results, precision: Precision, sizes: Sizes) -> Iterator[Row]:
    found, reference = results[f"density {precision}"], results["density float32"]
    counts = f"{sizes.num_steps} steps of {sizes.num_probes} probes" if sizes.num_steps else "1,024 products"
    quantity, target = f"density, {counts}, {precision}", "one command: time, peak, TFLOP/s"
    if "missing" in found:
        what = "" if precision == "float32" else ", and its deviation from float32"
        yield _missing(quantity + what, target, found)
        return
    yield Row(quantity, target, _density_text(found, sizes), True)
    if precision != "float32":
        deviation = f"{found['precision_deviation']:.1e}"
        yield Row(f"{precision} products from float32, relative", "no target", deviation, True)
        yield from _curve_rows(f"{precision} from float32", found, reference)


def _density_text(found: Mapping[str, Any], sizes: Sizes) -> str:
    rate = found["num_products"] * sizes.operations / found["seconds"] / 1e12
    return (
        f"{found['seconds']:.1f} s, {found['num_products']:,} products, peak {gigabytes(found['peak_bytes'])} "
        f"(predicted {gigabytes(found['predicted_bytes'])}), {rate:.3g} TFLOP/s, micro-batches of "
        f"{found['micro_batch_size']}, {found['execution']}, reorthogonalisation {found['reorthogonalisation']}"
    ) + _remarks(found)


def _budget_row(found: Mapping[str, Any], sizes: Sizes) -> Row:
    budget = gigabytes(sizes.budget_bytes)
    quantity, target = f"the same density within {budget}, float32", f"peak at most {budget}"
    if "missing" in found:
        return _missing(quantity, target, found)
    fits = max(found["predicted_bytes"], found["peak_bytes"]) <= sizes.budget_bytes
    refused = "; a worker would refuse it" if found["predicted_bytes"] > sizes.budget_bytes else ""
    return Row(quantity, target, _density_text(found, sizes) + refused, fits)


def _curvlinops_rows(results: Results, precision: Precision) -> Iterator[Row]:
    theirs, ours = results["curvlinops"], results[f"density {precision}"]
    quantity, target = f"curvlinops / ours, end to end, {precision}", f"at least {LEAST_SPEEDUP}"
    missing = next((each for each in (ours, theirs) if "missing" in each), None)
    if missing is not None:
        yield _missing(f"{quantity}, and the difference of both", target, missing)
        return
    ratio = theirs["seconds"] / ours["seconds"]
    measured = (
        f"{ratio:.2f} ({theirs['seconds']:.1f} s, {theirs['num_products']:,} products, peak "
        f"{gigabytes(theirs['peak_bytes'])}, micro-batches of {theirs['micro_batch_size']})"
    )
    yield Row(quantity, target, measured, ratio >= LEAST_SPEEDUP)
    yield from _curve_rows(f"{precision} from curvlinops", ours, theirs)


def _curve_rows(pair: str, found: Mapping[str, Any], reference: Mapping[str, Any]) -> Iterator[Row]:
    """Of two densities, both interpolated on the union of their grids, and of the largest Ritz values."""
    names = f"largest eigenvalue, {pair}, relative", f"density, {pair}, integral of the difference"
    bounds = MOST_EIGENVALUE_DEVIATION, MOST_DENSITY_DISTANCE
    if "missing" in reference:
        yield from (_missing(name, f"at most {bound}", reference) for name, bound in zip(names, bounds, strict=True))
        return
    first, second = curve(found), curve(reference)
    values = abs(first.largest - second.largest) / abs(second.largest), distance(first, second)
    for name, bound, value in zip(names, bounds, values, strict=True):
        yield Row(name, f"at most {bound}", f"{value:.1e}", value <= bound)


def curve(found: Mapping[str, Any]) -> Curve:
    """The density that a task found."""
    numbers = found["curve"]
    grid, values = np.array(numbers["grid"]), np.array(numbers["values"])
    return Curve(
        grid=grid,
        values=values,
        smallest=numbers["smallest"],
        largest=numbers["largest"],
        num_products=found["num_products"],
    )


def _missing(quantity: str, target: str, found: Mapping[str, Any]) -> Row:
    return Row(quantity, target, f"not measured here: {found['missing']}", missing=True)


def _remarks(found: Mapping[str, Any]) -> str:
    return f"; not recorded: {found['fallback']}" if found["fallback"] is not None else ""


def gigabytes(number: int) -> str:
    """For readers; 10^9 bytes."""
    return f"{number / 1e9:.3g} GB"
