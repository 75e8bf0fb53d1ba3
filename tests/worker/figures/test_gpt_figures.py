"""Figures 5, 6 and 23 to 25: what their verdicts say of made-up runs and spectra."""

from typing import Any

import numpy as np
import pytest

from hessian_spectrum.api_schemas.figures import FIGURES
from hessian_spectrum.api_schemas.figures.results import Verdict
from hessian_spectrum.api_schemas.methods import LanczosResult
from hessian_spectrum.api_schemas.spectrum_results import Band, Cumulative, Quadrature, RitzValue
from hessian_spectrum.worker.figures.gpt import outliers, share_near_zero, sink_verdicts
from hessian_spectrum.worker.figures.measurement import Measured, content_of

ERROR = 1e-6


def ritz(value: float, error: float = ERROR) -> RitzValue:
    return RitzValue(lower=value - error, upper=value + error, value=value, residual=error)


def spectrum(eigenvalues: Any, *, probes: int = 2, error: float = ERROR) -> LanczosResult:
    """A spectrum as it would be found by probes that know every eigenvalue."""
    values = np.sort(np.asarray(eigenvalues, dtype=float))
    grid = np.linspace(values[0] - 1, values[-1] + 1, 20_001)
    share = (np.searchsorted(values, grid, side="right") / len(values)).tolist()
    band = Band(lower=share, upper=share)
    rule = Quadrature(nodes=values.tolist(), weights=[1 / len(values)] * len(values), residuals=[error] * len(values))
    return LanczosResult.model_construct(
        cumulative=Cumulative(grid=grid.tolist(), values=share, standard_error=[0.0] * len(share), band=band),
        quadrature=[rule] * probes,
        largest=ritz(values[-1], error),
        smallest=ritz(values[0], error),
    )


BULK = np.linspace(-0.05, 0.05, 91)
OUTLIERS = np.array([20.0, 10.0, 8.0, 7.0, 5.0, 3.0, 2.0, 1.0, 0.9])


def sinks(*spectra: LanczosResult) -> dict[str, Verdict]:
    names = ("largest", "others", "stretch", "zeros")
    return dict(zip(names, sink_verdicts(spectra), strict=True))


def test_outliers_are_the_largest_eigenvalues_on_which_all_probes_agree() -> None:
    found = outliers(spectrum([*BULK, *OUTLIERS]))
    assert [each.value for each in found] == [20.0, 10.0, 8.0, 7.0, 5.0]
    assert all(each.lower < each.value < each.upper for each in found)  # type: ignore[operator]
    rough = outliers(spectrum([*BULK, *OUTLIERS], error=0.02))
    assert all(each.value is None for each in rough)
    assert [each.why for each in rough][1] == "the eigenvalue of rank 2 has not converged"
    missed = spectrum([*BULK, *OUTLIERS])
    missed.quadrature[1] = spectrum([*BULK, 0.0, *np.delete(OUTLIERS, 2)]).quadrature[0]
    assert [each.value for each in outliers(missed)] == [20.0, 10.0, None, None, None]


def test_each_outlier_counts_in_the_claim_on_them() -> None:
    fewer = OUTLIERS * np.array([1.1, *[0.9] * 8])
    found = sinks(spectrum([*BULK, *OUTLIERS]), spectrum([*BULK, *fewer]))
    assert (found["largest"].holds, found["others"].holds, found["stretch"].holds) == (True, False, True)
    assert found["others"].value == pytest.approx(0.9)


def test_a_growth_within_the_errors_is_not_decided() -> None:
    spectra = [spectrum([*BULK, *factor * OUTLIERS], error=0.004) for factor in (1.0, 1.0002, 1.5)]
    found = sinks(*spectra)["largest"]
    assert found.holds is None
    assert found.value == pytest.approx(1.0002)
    assert [each.holds for each in found.variants] == [True]


def test_eigenvalues_that_grow_with_the_sink_are_not_close_to_zero() -> None:
    """The window is that of the model without a sink: one that grows with the sink would always contain them."""
    before = spectrum([*BULK, *OUTLIERS])
    after = spectrum([*100 * BULK, *100 * OUTLIERS])
    assert sinks(before, before)["zeros"].holds is True
    assert sinks(before, after)["zeros"].holds is False


def run_of(seed: int, errors: Any) -> Measured:
    """A run in which the residual falls evenly while the relative errors take these values."""
    top = {"lower": 1.0, "upper": 1.0, "value": 1.0, "residual": 0.0, "converged": True}
    points = [
        {
            "step": 10 * index,
            "learning_rate": 0.1,
            "loss": 3.0 - 0.02 * index,
            "mean_residual_norm": 1.0 - 0.01 * index,
            "hessian": top,
            "ggn": top,
            "relative_error": {"value": float(error), "uncertainty": 0.0},
        }
        for index, error in enumerate(errors)
    ]
    return Measured({"num_parameters": 10, "run": {"seed": seed, "points": points, "parameters_sha256": "0" * 64}})


def approximation(*without: Any) -> Verdict:
    """The verdict for errors 0.5 with attention, and the given ones without it, one run for each seed."""
    seeds = list(range(len(without)))
    parameters = FIGURES["cracking-5"].parameters.model_validate(
        FIGURES["cracking-5"].defaults("quick") | {"seeds": seeds}
    )
    measured = [run_of(seed, [0.5] * len(without[0])) for seed in seeds]
    measured += [run_of(seed, errors) for seed, errors in zip(seeds, without, strict=True)]
    (verdict,) = content_of("cracking-5", parameters, measured).verdicts
    return verdict


def test_a_share_is_decided_by_its_interval_over_seeds() -> None:
    """The mean errors are smaller without attention everywhere, but not those of every seed."""
    small = np.full(41, 0.1)
    nearly = small.copy()
    nearly[40:] = 0.55
    sure = approximation(small, small, nearly)
    assert sure.holds is True
    assert sure.upper == 1.0
    mixed = small.copy()
    mixed[20:] = 0.55
    unsure = approximation(small, small, mixed)
    assert unsure.holds is None
    assert unsure.lower is not None
    assert unsure.lower < 0.9
    variants = {each.choice: each for each in unsure.variants}
    assert variants["errors averaged over the seeds first"].value == 1.0
    assert [variants[f"seed {seed} alone"].holds for seed in range(3)] == [True, True, False]
    assert approximation(1 - small, 1 - small, 1 - small).holds is False


def test_three_equal_seeds_are_no_certainty() -> None:
    """Three successes of three, by Clopper and Pearson."""
    small = np.full(41, 0.1)
    found = approximation(small, small, small)
    assert (found.holds, found.value, found.upper) == (None, 1.0, 1.0)
    assert found.lower == pytest.approx(0.025 ** (1 / 3))


def test_shares_stay_within_0_and_1() -> None:
    small, mixed = np.full(41, 0.1), np.full(41, 0.1)
    mixed[10:] = 0.55
    found = approximation(small, small, mixed)
    assert (found.lower, found.upper, found.holds) == (0.0, 1.0, None)


def test_the_figures_on_the_loss_differ() -> None:
    """The caption of figure 24 has the error while pretraining, beside the error against the loss of figure 23."""
    labels = {}
    for figure in ("cracking-23", "cracking-24", "cracking-25"):
        parameters = FIGURES[figure].parameters.model_validate(FIGURES[figure].defaults("quick"))
        measured = [run_of(seed, np.full(6, error)) for error in (0.5, 0.1) for seed in parameters.seeds]
        labels[figure] = [(each.x_label, each.y_label) for each in content_of(figure, parameters, measured).panels]
    error = "relative error of the top eigenvalue"
    assert labels["cracking-23"] == [("loss (nats per token)", error)]
    assert labels["cracking-24"] == [("loss (nats per token)", error), ("training step", error)]
    assert labels["cracking-25"] == [("training step", "loss (nats per token)"), ("training step", error)]


def test_the_shares_near_zero_of_more_sinks_are_jointly_less_certain() -> None:
    one = spectrum([*BULK, *OUTLIERS])
    cumulative = one.cumulative
    band = Band(
        lower=[max(0, v - 0.05) for v in cumulative.values], upper=[min(1, v + 0.05) for v in cumulative.values]
    )
    one = one.model_copy(update={"cumulative": cumulative.model_copy(update={"band": band})})
    two, four = (sinks(*[one] * count)["zeros"].lower for count in (2, 4))
    single = share_near_zero(one, 0.2, confidence=0.95)
    assert single.lower is not None
    assert four < two < single.lower  # type: ignore[operator]


def test_the_initialization_is_left_out_of_the_claim() -> None:
    errors = np.full(6, 0.1)
    errors[0] = 5.0
    found = approximation(errors, errors, errors)
    assert found.value == 1.0
    assert {each.choice: each.value for each in found.variants}["initialization included"] < 0.9  # type: ignore[operator]


def test_two_seeds_have_a_share_without_an_interval() -> None:
    found = approximation(np.full(6, 0.1), np.full(6, 0.1))
    assert (found.holds, found.value, found.lower) == (None, 1.0, None)
    assert "fewer than 3" in (found.note or "")
