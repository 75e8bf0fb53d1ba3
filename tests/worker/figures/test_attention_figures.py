"""Figures 2, 9 and 27: attention on scalars and on vectors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hessian_spectrum.api_schemas.figures import FIGURES
from hessian_spectrum.api_schemas.figures.attention_descent import (
    VARIANTS,
    AttentionDescent,
    EdgeOfStabilityParameters,
)
from hessian_spectrum.api_schemas.figures.attention_spectra import (
    AttentionLayerSpectrum,
    AttentionSinkParameters,
    ScalarAttention,
    ScalarAttentionParameters,
)
from hessian_spectrum.api_schemas.figures.results import Verdict
from hessian_spectrum.curvature.models.attention_layer import AttentionLayer
from hessian_spectrum.theory.closed_form.attention import self_attention_spectrum
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.figures import attention_descent as descent
from hessian_spectrum.worker.figures.attention_sinks_content import layer_numbers
from hessian_spectrum.worker.figures.attention_spectra import (
    DATA,
    WEIGHTS,
    attention_moments,
    measure_attention_layer,
    measure_scalar_attention,
    moments_of,
    printed_bounds,
    repeated_pairs,
)
from hessian_spectrum.worker.figures.measurement import Measured, content_of, measure
from tests.worker.figures.context import CONTEXT


def test_moments_are_those_of_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((2, 3, 5))
    w_q, w_k, w_v, bias = generator.standard_normal(4), generator.standard_normal(4), 0.7, 1.3
    moments = attention_moments(x, float(w_q @ w_k) / 2, bias)
    statistics = self_attention_spectrum(w_v=w_v, w_q=w_q, w_k=w_k, x=x, y=y, sink_bias=bias).statistics
    delta = w_v * moments.mean - y
    assert (moments.mean**2).mean() == pytest.approx(statistics["alpha"], rel=1e-12)
    assert w_v * (delta * x * moments.second).mean() / 2 == pytest.approx(statistics["gamma"], rel=1e-12)
    zeta = ((w_v * x * moments.second) ** 2 + w_v * delta * x * x * moments.third).mean() / 4
    assert zeta == pytest.approx(statistics["zeta"], rel=1e-12)
    rows = np.exp(x[0, 1] * x[0] * float(w_q @ w_k) / 2 + bias * (np.arange(5) == 0))
    assert moments.first[0, 1] == pytest.approx(rows[0] / rows.sum(), rel=1e-12)


def test_moments_of_vectors_are_those_of_each_coordinate() -> None:
    generator = np.random.default_rng(0)
    weights, tokens = generator.random((2, 4, 4)), generator.standard_normal((2, 4, 3))
    weights /= weights.sum(axis=-1, keepdims=True)
    moments = moments_of(weights, tokens)
    values, shares = tokens[1, :, 2], weights[1, 3]
    mean = (shares * values).sum()
    for moment, expected in (
        (moments.mean, mean),
        (moments.second, (shares * (values - mean) ** 2).sum()),
        (moments.third, (shares * (values - mean) ** 3).sum()),
    ):
        assert moment[1, 3, 2] == pytest.approx(expected, rel=1e-12)


def test_the_printed_bounds_are_right_for_norms_of_one_alone() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.standard_normal((2, 3, 4))
    directions = [vector / np.linalg.norm(vector) for vector in generator.standard_normal((2, 6))]
    for norm, is_right in ((1.0, True), (3.0, False)):
        w_q, w_k = (norm * direction for direction in directions)
        spectrum = self_attention_spectrum(w_v=1.0, w_q=w_q, w_k=w_k, x=x, y=y)
        lower, upper = printed_bounds(spectrum, norm_q=norm, norm_k=norm)
        agrees = upper == pytest.approx(spectrum.trace / 3 + float(spectrum.statistics["xi"]), rel=1e-9)  # type: ignore[arg-type]
        assert bool(agrees) is is_right
        if is_right:
            assert lower == pytest.approx(spectrum.statistics["lambda_max_lower"], rel=1e-9)


def scalar(**fields: Any) -> Measured:
    defaults: dict[str, Any] = {
        "key_dim": 6,
        "batch_size": 4,
        "length": 5,
        "targets": "normal",
        "massive_value": None,
        "is_aligned": False,
        "seed": 3,
    }
    return measure_scalar_attention(ScalarAttention(**(defaults | fields)), CONTEXT)


def test_bulk_and_outliers_of_scalar_attention_are_the_dense_spectrum() -> None:
    """The dense Hessian of the layer of embedding dimension 1 with the same weights and data."""
    found = scalar(varied="sink", values=[0.0, 2.0], massive_value=4.0)
    x = torch.randn((4, 5), generator=generator_of(3, DATA), dtype=torch.float64)
    x[:, 0] = 4.0
    y = torch.randn((4, 5), generator=generator_of(3, DATA, 1), dtype=torch.float64)
    generator = generator_of(3, WEIGHTS)
    drawn = [torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(2)]
    start = torch.cat([torch.ones(1, dtype=torch.float64), *[vector / vector.norm() for vector in drawn]])
    for index, bias in enumerate((0.0, 2.0)):
        layer = AttentionLayer(1, 6, 1, sink_bias=bias)

        def loss(flat: torch.Tensor, layer: AttentionLayer = layer) -> torch.Tensor:
            weights = {"W_V": flat[:1].view(1, 1), "W_Q": flat[1:7].view(1, 6), "W_K": flat[7:].view(1, 6)}
            return (layer(weights, x[:, :, None])[:, :, 0] - y).square().mean() / 2

        dense = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, start)).numpy()
        bulk = found.arrays["bulk"][index]
        expected = np.sort([*found.arrays["outliers"][index], *[bulk] * 5, *[-bulk] * 5])
        np.testing.assert_allclose(dense, expected, atol=1e-12 * np.abs(dense).max())


def test_aligned_queries_and_keys_have_larger_scores() -> None:
    apart, aligned = (scalar(varied="query-key", values=[3.0], is_aligned=value) for value in (False, True))
    assert aligned.arrays["second_norm"][0] != pytest.approx(apart.arrays["second_norm"][0], rel=1e-3)
    assert scalar(varied="value", values=[2.0]).arrays["bulk"][0] != pytest.approx(apart.arrays["bulk"][0], rel=1e-3)


def layer_message(bias: float) -> AttentionLayerSpectrum:
    return AttentionLayerSpectrum(
        embedding_dim=2,
        key_dim=9,
        batch_size=3,
        length=4,
        sink_bias=bias,
        massive_value=3.0,
        initial_std=0.4,
        targets="normal",
        seed=1,
    )


@pytest.mark.parametrize("bias", [0.0, 8.0])
def test_the_bulk_of_a_layer_is_that_of_the_two_layers_of_its_scores(bias: float) -> None:
    """Outside the span of both matrices the Hessian is [[0, G], [G^T, 0]] with G = dL/d(W_Q W_K^T)."""
    message = layer_message(bias)
    found = measure_attention_layer(message, CONTEXT)
    x = torch.randn((3, 4, 2), generator=generator_of(1, DATA), dtype=torch.float64)
    x[:, 0] = 3.0
    y = torch.randn((3, 4, 2), generator=generator_of(1, DATA, 1), dtype=torch.float64)
    layer = AttentionLayer(2, 9, 2, sink_bias=bias, initial_std=0.4)
    weights = layer.initial_parameters(generator_of(1, WEIGHTS), torch.float64, torch.device("cpu"))
    product = (weights["W_Q"] @ weights["W_K"].T).requires_grad_()
    scores = x @ product @ x.mT / 3
    scores[:, :, 0] += bias
    outputs = scores.softmax(-1) @ (x @ weights["W_V"])
    loss = (outputs - y).square().sum(-1).mean() / 2
    (gradient,) = torch.autograd.grad(loss, product)
    singular = torch.linalg.svdvals(gradient).numpy()
    expected = np.sort(np.concatenate([sign * np.repeat(singular, 9 - 2 * 2 + 1) for sign in (1, -1)]))
    bulk, others = repeated_pairs(found.arrays["eigenvalues"])
    scale = np.abs(found.arrays["eigenvalues"]).max()
    np.testing.assert_allclose(bulk, expected, atol=1e-12 * scale)
    assert len(bulk) + len(others) == message.num_parameters
    attention = scores.softmax(-1).detach().numpy()
    assert found.values["first_attention"] == pytest.approx(attention[:, :, 0].mean(), rel=1e-12)
    mean = np.einsum("bij,bjd->bid", attention, x.numpy())
    assert found.values["mean_norm"] == pytest.approx(np.linalg.norm(mean), rel=1e-12)
    square = np.einsum("bij,bjd->bid", attention, x.numpy() ** 2)
    assert found.values["second_norm"] == pytest.approx(np.linalg.norm(square - mean**2), rel=1e-9)


def test_outliers_that_nearly_coincide_are_no_bulk() -> None:
    values = np.sort(np.array([5.0, 5.0, 5.0, 1.0, 0.3, 0.3, 0.3, -0.3, -0.3, -0.3, 1e-4, 1e-4, 1e-4, -1e-4, -1e-4]))
    bulk, others = repeated_pairs(values)
    np.testing.assert_array_equal(bulk, [-0.3, -0.3, -0.3, 0.3, 0.3, 0.3])
    assert 5.0 in others
    assert 1e-4 in others


SINKS = AttentionSinkParameters(embedding_dim=1, key_dim=4, sink_biases=[0.0, 1.0, 2.0], other_massive_values=[2.0])


def made_up_layer(bulk: float, largest: float, smallest: float, **moments: float) -> Measured:
    """A layer of this bulk, three times with each sign, and of two other eigenvalues."""
    numbers = {"first_attention": 0.5, "mean_norm": 1.0, "second_norm": 1.0, "third_norm": 1.0} | moments
    return Measured(numbers, {"eigenvalues": np.sort([*[bulk] * 3, *[-bulk] * 3, largest, smallest])})


def verdicts_on_sinks(of_bias: Callable[[int], Measured]) -> dict[str, Verdict]:
    """Verdicts of figure 9 on layers that depend on the index of the bias alone."""
    points = SINKS.points()
    assert len(points) == 3 * 6 * 3
    measured = [of_bias(SINKS.sink_biases.index(point.sink_bias)) for point in points]
    return {each.claim: each for each in content_of("cracking-9", SINKS, measured).verdicts}


@pytest.mark.parametrize(
    ("claim", "weaker", "stronger"),
    [
        ("smaller the bulk", (1.0, 0.5, 0.1), (0.1, 0.5, 1.0)),
        ("bulk shrinks towards zero", (1.0, 0.5, 0.1), (0.1, 0.5, 1.0)),
        ("larger the outlier", (9.0, 8.0, 7.0), (7.0, 8.0, 9.0)),
        ("m1 grows", (3.0, 2.0, 1.0), (1.0, 2.0, 3.0)),
        ("m2 shrinks", (3.0, 2.0, 1.0), (1.0, 2.0, 3.0)),
        ("m3 shrinks", (3.0, 2.0, 1.0), (1.0, 2.0, 3.0)),
        ("badly conditioned", (0.5, 0.1, 0.01), (0.01, 0.1, 0.5)),
    ],
)
def test_each_claim_on_sinks_follows_its_own_number(claim: str, weaker: Any, stronger: Any) -> None:
    names = {"m1 grows": "mean_norm", "m2 shrinks": "second_norm", "m3 shrinks": "third_norm"}
    names |= {"larger the outlier": "largest", "badly conditioned": "smallest"}
    holds = []
    for values in (weaker, stronger):
        found = verdicts_on_sinks(
            lambda index, values=values: made_up_layer(
                **({"bulk": 2.0, "largest": 6.0, "smallest": 0.3} | {names.get(claim, "bulk"): values[index]})
            )
        )
        (verdict,) = [each for text, each in found.items() if claim in text]
        assert "first token of 2" in {variant.choice for variant in verdict.variants}
        holds.append(verdict.holds)
    grows = claim in ("larger the outlier", "m1 grows")
    assert holds == [not grows, grows]


def test_a_bulk_that_is_not_found_is_no_bulk_of_zero() -> None:
    bulkless = Measured(made_up_layer(1.0, 6.0, 0.3).values, {"eigenvalues": np.arange(1.0, 9.0)})
    assert np.isnan(layer_numbers(bulkless, 5.0)["bulk_mean"])
    found = verdicts_on_sinks(lambda index: bulkless if index == 2 else made_up_layer(1.0, 6.0, 0.3))
    for claim in ("smaller the bulk", "bulk shrinks towards zero"):
        (verdict,) = [each for text, each in found.items() if claim in text]
        assert verdict.holds is None
        assert "no bulk is found in 18 of 54 spectra" in (verdict.note or "")


def run_of(**fields: Any) -> Measured:
    defaults: dict[str, Any] = {
        "key_dim": 2,
        "sequence": [1.0, -0.8],
        "initial_std": 0.1,
        "learning_rate": 2.3,
        "loss_factor": 0.5,
        "num_steps": 400,
        "seed": 0,
    }
    return descent.measure_attention_descent(AttentionDescent(**(defaults | fields)), CONTEXT)


@pytest.fixture(scope="module")
def chosen() -> Measured:
    return run_of(num_steps=1000)


def test_the_chosen_sequence_settles_at_the_edge_of_stability(chosen: Measured) -> None:
    assert descent.behaviour(chosen) == "oscillates, amplitude falls"
    assert descent.settles(chosen)
    assert 50 < (descent.onset(chosen) or 0) < 400
    assert descent.late_mean(chosen) == pytest.approx(1.0, abs=0.05)
    assert descent.opposition(chosen) < -0.9
    assert chosen.values["closed_difference"] < 1e-10


def test_steps_are_those_of_plain_gradient_descent(chosen: Measured) -> None:
    layer = AttentionLayer(1, 2, 1)
    generator = generator_of(0, descent.WEIGHTS)
    weights = [
        (0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_() for shape in ((), 2, 2)
    ]
    x = torch.tensor([[[1.0], [-0.8]]], dtype=torch.float64)
    for step in range(60):
        named = {"W_V": weights[0].view(1, 1), "W_Q": weights[1].view(1, 2), "W_K": weights[2].view(1, 2)}
        loss = (layer(named, x) - x.flip(1)).square().mean() / 2
        assert chosen.arrays["loss"][step] == pytest.approx(float(loss.detach()), rel=1e-10)
        gradients = torch.autograd.grad(loss, weights)
        weights = [(w - 2.3 * g).detach().requires_grad_() for w, g in zip(weights, gradients, strict=True)]


def test_a_loss_without_the_half_doubles_curvature_and_step(chosen: Measured) -> None:
    other = run_of(loss_factor=1.0, learning_rate=1.15, num_steps=150)
    np.testing.assert_allclose(other.arrays["sharpness"], 2 * chosen.arrays["sharpness"][:151], rtol=1e-9)
    assert other.values["edge"] == 2 * chosen.values["edge"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sequence": [1.25, -1.0]}, "diverges"),
        ({"sequence": [1.0, -0.5], "num_steps": 1000}, "converges below 2/eta"),
        ({"sequence": [1.0, -1.0]}, "oscillates with constant amplitude"),
        ({"loss_factor": 1.0}, "diverges"),
    ],
)
def test_other_data_and_losses_behave_otherwise(fields: dict[str, Any], expected: str) -> None:
    found = run_of(**fields)
    assert descent.behaviour(found) == expected
    if expected == "diverges":
        assert found.values["diverged_at"] is not None
        assert np.isnan(descent.late_mean(found))


def test_amplitude_and_phase_of_a_made_up_run_are_measured() -> None:
    steps = np.arange(2000)
    swing = np.exp(-steps / 800) * np.cos(1.3 * steps) * (steps > 200)
    arrays = {
        "sharpness": np.where(steps < 200, 0.2 + 0.004 * steps, 1.0 + 0.05 * swing),
        "trace": 3.0 - 0.1 * swing,
        "residual_norm": np.exp(-steps / 800),
        "loss": np.exp(-steps / 400),
    }
    made = Measured({"diverged_at": None, "edge": 1.0}, arrays)
    assert descent.opposition(made) == pytest.approx(-1.0)
    assert descent.late_mean(made) == pytest.approx(1.0, abs=1e-3)
    found = descent.windows(made)
    assert found is not None
    assert np.corrcoef(found.amplitude, found.peak)[0, 1] > 0.99
    assert descent.amplitude_correlation(made) > 0.99
    assert descent.amplitude_correlation(made, "mean") > 0.99
    assert descent.settles(made)
    still = Measured(made.values, arrays | {"sharpness": np.full(2000, 0.5), "trace": np.ones(2000)})
    assert descent.onset(still) is None
    assert not descent.rises(still)
    assert (descent.growth(still, "trace"), descent.increasing(still)) == (1.0, 0.0)
    assert np.isnan(descent.opposition(still))
    assert not descent.settles(still)


def made_up_run(
    *, mean: float = 1.0, swing: float = 0.02, start: float = 0.1, diverged_at: int | None = None, **others: Any
) -> Measured:
    """A sharpness that rises evenly from `start` for 100 steps and then oscillates around `mean`, with 2/eta = 1.

    `others` are further arrays.
    """
    steps = np.arange(1000)
    sharpness = np.where(steps < 100, start + (mean - start) * steps / 100, mean + swing * (-1.0) ** steps)
    names = ("trace", "residual_norm", "value", "query_norm", "key_norm", "mean_norm", "second_norm", "third_norm")
    arrays = dict.fromkeys(names, 1 + steps / 1000) | {"sharpness": sharpness, "loss": np.exp(-steps / 400)}
    arrays |= {name: np.ones(1) for name in ("lower", "upper", "printed_lower", "printed_upper", "largest_outlier")}
    values = {"diverged_at": diverged_at, "edge": 1.0, "closed_difference": 0.0}
    return Measured(values, arrays | {"closed_steps": np.zeros(1)} | others)


def verdicts_on_runs(chosen: Sequence[Measured], rates: Sequence[Measured] = ()) -> dict[str, Verdict]:
    """Verdicts of figure 27 on made-up runs, and on one run for each other learning rate, the same from all weights."""
    parameters = EdgeOfStabilityParameters(
        num_seeds=len(chosen), varies=bool(rates), learning_rate_factors=[1.1, 1.2][: len(rates)]
    )
    others = [made_up_run()] * (4 * len(VARIANTS)) + [each for each in rates for _ in range(4)]
    found = content_of("cracking-27", parameters, [*chosen, *(others if rates else [])])
    return {each.claim: each for each in found.verdicts}


def claim_of(found: Mapping[str, Verdict], part: str) -> Verdict:
    (verdict,) = [each for claim, each in found.items() if part in claim]
    return verdict


def test_a_sharpness_that_cycles_does_not_settle() -> None:
    """Its mean is 2/eta, and its amplitude a fifth of it."""
    settled, cycle = (verdicts_on_runs([made_up_run(swing=swing)] * 8) for swing in (0.02, 0.2))
    for part, expected in (("settles around", (True, False)), ("mean of the sharpness", (True, True))):
        assert (claim_of(settled, part).holds, claim_of(cycle, part).holds) == expected
    assert claim_of(cycle, "oscillates").holds is False


def test_runs_that_diverge_count_and_are_named() -> None:
    runs = [made_up_run()] * 4 + [made_up_run(diverged_at=500)] * 6
    found = verdicts_on_runs(runs)
    assert claim_of(found, "settles around").value == 0.4
    assert claim_of(found, "settles around").holds is None
    assert "chosen 6 of 10" in (claim_of(found, "mean of the sharpness").note or "")
    assert claim_of(verdicts_on_runs([made_up_run(diverged_at=500)] * 10), "settles around").holds is False


def test_a_sharpness_that_never_reaches_the_edge_fails_the_claim_that_it_rises() -> None:
    below = [made_up_run(mean=0.5)] * 8
    assert claim_of(verdicts_on_runs([made_up_run()] * 8), "rises to 2/eta").holds is True
    assert claim_of(verdicts_on_runs(below), "rises to 2/eta").holds is False
    falling = verdicts_on_runs([made_up_run(mean=0.5, start=0.8)] * 8)
    assert claim_of(falling, "consistently").holds is False
    assert claim_of(verdicts_on_runs([made_up_run(start=1.2)] * 8), "rises to 2/eta").holds is False


def test_a_range_of_learning_rates_needs_every_rate() -> None:
    both = verdicts_on_runs([made_up_run()] * 8, [made_up_run(), made_up_run()])
    one = verdicts_on_runs([made_up_run()] * 8, [made_up_run(), made_up_run(mean=0.5)])
    assert claim_of(both, "range of learning rates").holds is True
    verdict = claim_of(one, "range of learning rates")
    assert verdict.holds is False
    assert {each.choice: each.holds for each in verdict.variants} == {
        "learning rate 2.53": True,
        "learning rate 2.76": False,
    }
    assert {"learning rate 2.53", "sequence (1, -1)"} <= {
        each.choice for each in claim_of(both, "settles around").variants
    }


def test_runs_of_other_learning_rates_have_them() -> None:
    parameters = EdgeOfStabilityParameters(num_seeds=5, learning_rate_factors=[0.5, 1.0, 2.0])
    points = [point for point in FIGURES["cracking-27"].points(parameters) if isinstance(point, AttentionDescent)]
    assert [point.learning_rate for point in points[-8:]] == [1.15] * 4 + [4.6] * 4
    assert len(points) == 5 + 4 * (len(VARIANTS) + 2)


def test_fewer_steps_are_the_beginning_of_a_longer_run() -> None:
    longer, shorter = run_of(num_steps=300), run_of(num_steps=150)
    found = descent.first_steps(longer, 150)
    for name in ("loss", "sharpness", "trace", "residual_norm", "third_norm"):
        np.testing.assert_allclose(found.arrays[name], shorter.arrays[name], rtol=1e-9)
    assert found.arrays["closed_steps"].max() <= 150
    assert len(found.arrays["largest_outlier"]) == len(found.arrays["closed_steps"])
    diverging = run_of(sequence=[1.25, -1.0], num_steps=300)
    last = diverging.values["diverged_at"]
    assert descent.first_steps(diverging, last).values["diverged_at"] == last
    assert descent.first_steps(diverging, last - 1).values["diverged_at"] is None


def test_a_claim_that_fewer_steps_do_not_show_says_so() -> None:
    """The sharpness reaches 2/eta after 550 steps."""
    steps = np.arange(1000)
    late = np.where(steps < 550, 0.1 + 0.9 * steps / 550, 1 + 0.02 * (-1.0) ** steps)
    found = verdicts_on_runs([made_up_run(sharpness=late)] * 8)
    for part in ("rises to 2/eta", "settles around"):
        verdict = claim_of(found, part)
        assert verdict.holds is True
        assert {each.choice: each.holds for each in verdict.variants}["500 steps"] is False


def test_runs_that_never_reach_the_edge_say_nothing_about_phases_at_it() -> None:
    """Where the sharpness only rises, so does the trace."""
    steps = np.arange(1000)
    opposite = made_up_run(trace=np.where(steps < 100, steps / 100, 1 - 0.02 * (-1.0) ** steps))
    below = made_up_run(mean=0.5, swing=0.0, sharpness=0.1 + 0.4 * steps / 1000)
    verdict = claim_of(verdicts_on_runs([opposite] * 6 + [below] * 4), "opposite phases")
    assert (verdict.holds, verdict.value) == (True, pytest.approx(-1.0))
    assert "chosen 4 of 10" in (verdict.note or "")


@pytest.mark.parametrize(("slope", "expected"), [(-1 / 400, True), (0.0, False), (1 / 400, False)])
def test_the_loss_falls_at_the_edge_of_stability_alone_or_not_at_all(slope: float, expected: bool) -> None:
    """A fall before the edge does not count, and neither does one run with a ratio of many decades."""
    steps = np.arange(1000)
    loss = np.where(steps < 100, np.exp(-steps / 10), np.exp(-10 + slope * (steps - 100)))
    runs = [made_up_run(loss=loss)] * 20
    assert claim_of(verdicts_on_runs(runs), "continues to decrease").holds is expected
    if expected:
        burst = made_up_run(loss=np.where(steps < 900, loss, 1e3 * loss))
        assert claim_of(verdicts_on_runs([*runs, burst]), "continues to decrease").holds is True


def test_the_sharpness_grows_during_progressive_sharpening_by_definition() -> None:
    assert not [claim for claim in verdicts_on_runs([made_up_run()] * 8) if "the sharpness grows" in claim]


def test_shares_and_correlations_have_intervals_within_their_range() -> None:
    steps = np.arange(1000)
    wavy = np.where(steps < 100, 0.1 + 0.005 * steps + 0.04 * (steps % 4 == 1), 1 + 0.02 * (-1.0) ** steps)
    found = verdicts_on_runs([*[made_up_run()] * 3, made_up_run(sharpness=wavy)])
    verdict = claim_of(found, "consistently")
    assert verdict.upper == 1.0
    for each in [verdict, *verdict.variants]:
        assert each.upper is None or each.upper <= 1.0


def test_few_steps_beyond_the_edge_have_no_windows() -> None:
    short = {name: values[-19:] for name, values in made_up_run().arrays.items()}
    assert descent.windows(Measured({"diverged_at": None, "edge": 1.0}, short)) is None


@pytest.mark.parametrize("sequence", [[0.0, 0.0], [0.0, -1e-9]])
def test_a_sequence_of_nothing_is_refused(sequence: list[float]) -> None:
    with pytest.raises(ValidationError, match="magnitude") as refused:
        EdgeOfStabilityParameters(sequence=sequence)
    assert refused.value.errors()[0]["loc"] == ("sequence",)


@pytest.mark.parametrize("sequence", [[0.0, 1e-6], [1.0, 1.0], [100.0, -100.0]])
def test_any_other_sequence_has_a_figure(sequence: list[float]) -> None:
    parameters = EdgeOfStabilityParameters(sequence=sequence, num_seeds=3, num_steps=20, varies=False)
    content = content_of("cracking-27", parameters, [measure(point, CONTEXT) for point in parameters.runs(3, {})])
    assert len(content.points) == 3


SMALL_LAYER: dict[str, Any] = {"key_dim": 4, "batch_size": 1, "length": 4, "num_seeds": 3}


@pytest.mark.parametrize("norms", [[4.0, 5.0, 6.0], [1.0, 5.0, 6.0], [1.0, 2.0, 6.0]])
def test_norms_up_to_three_are_a_variant_where_there_are_two_of_them(norms: list[float]) -> None:
    parameters = ScalarAttentionParameters(**SMALL_LAYER, query_key_norms=norms)
    content = content_of("cracking-2", parameters, [measure(point, CONTEXT) for point in parameters.points()])
    variants = [each.choice for each in content.verdicts[0].variants]
    assert ("norms up to 3" in variants) is (norms[1] == 2.0)


def test_one_spectrum_refutes_a_bound() -> None:
    parameters = ScalarAttentionParameters(**SMALL_LAYER)
    measured = [measure(point, CONTEXT) for point in parameters.points()]
    upper = measured[0].arrays["upper"].copy()
    upper[0] = 0.0
    wrong = [Measured({}, measured[0].arrays | {"upper": upper}), *measured[1:]]
    holds = []
    for each in (measured, wrong):
        verdicts = {found.claim: found for found in content_of("cracking-2", parameters, each).verdicts}
        holds.append(claim_of(verdicts, "at most T/3").holds)
    assert holds == [True, False]


def test_one_point_of_a_run_refutes_the_bounds_of_its_sharpness() -> None:
    runs = [made_up_run()] * 300
    assert claim_of(verdicts_on_runs(runs), "lies between").holds is True
    assert (
        claim_of(verdicts_on_runs([*runs, made_up_run(largest_outlier=np.full(1, 2.0))]), "lies between").holds is False
    )


def test_one_spectrum_refutes_the_multiplicity_of_the_bulk() -> None:
    found = {index: made_up_layer(1.0, 6.0, 0.3) for index in range(3)}
    repeated = SINKS.model_copy(update={"key_dim": 4})
    points = repeated.points()
    single = Measured(found[0].values, {"eigenvalues": np.arange(1.0, 9.0)})
    for layers, expected in (([found[0]] * len(points), True), ([single, *[found[0]] * (len(points) - 1)], False)):
        verdicts = {each.claim: each for each in content_of("cracking-9", repeated, layers).verdicts}
        assert claim_of(verdicts, "repeated eigenvalues").holds is expected
