"""Estimates agree with scipy and numpy, and their intervals cover what they should as often as they claim."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom, binomtest, pearsonr, ttest_1samp

from hessian_spectrum.statistics.estimates import (
    Estimate,
    difference_of_independent,
    extreme,
    extreme_pearson,
    joint_confidence,
    largest_pearson_change,
    mean,
    mean_of_independent,
    mean_share,
    median,
    median_ratio,
    pearson,
    pearson_change,
    pearson_difference,
    pearson_lead,
    proportion,
)


def correlated(rng: np.random.Generator, correlation: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    common, own = rng.standard_normal((2, size))
    return common, correlation * common + math.sqrt(1 - correlation**2) * own


def test_pearson_is_the_coefficient_of_scipy_at_every_scale() -> None:
    first, second = correlated(np.random.default_rng(0), 0.6, 50)
    expected = pearsonr(first, second).statistic
    for scale, shift in ((1.0, 0.0), (1e-200, 0.0), (1e200, 0.0), (1.0, 1e3)):
        assert pearson(scale * first + shift, second).value == pytest.approx(expected, abs=1e-12)


def test_pearson_interval_is_close_to_that_of_fisher_for_normal_samples() -> None:
    first, second = correlated(np.random.default_rng(1), 0.7, 400)
    expected = pearsonr(first, second).confidence_interval()
    estimate = pearson(first, second)
    assert estimate.lower == pytest.approx(expected.low, abs=0.03)
    assert estimate.upper == pytest.approx(expected.high, abs=0.03)


def _estimate_and_truth(name: str, seed: int) -> tuple[Estimate, float]:
    rng = np.random.default_rng((2, seed))
    first, common = correlated(rng, 0.5, 80)
    second = common * 0.8 + 0.6 * rng.standard_normal(80)
    if name == "pearson":
        return pearson(first, common, seed=seed), 0.5
    if name == "difference":
        return pearson_difference(first, second, common, seed=seed), 0.5 - 0.8
    return median(rng.exponential(size=80)), math.log(2)


@pytest.mark.parametrize("name", ["pearson", "difference", "median"])
def test_intervals_cover_the_truth_about_as_often_as_they_claim(name: str) -> None:
    trials = [_estimate_and_truth(name, seed) for seed in range(60)]
    covered = sum(estimate.lower <= truth <= estimate.upper for estimate, truth in trials)
    assert covered >= binom.ppf(1e-3, len(trials), 0.95)


SIZES = [3, 5, 8, 10, 20]


def coverage(trials: list[tuple[Estimate, float]]) -> float:
    return float(np.mean([estimate.lower <= truth <= estimate.upper for estimate, truth in trials]))


def least_and_most(count: int) -> tuple[float, float]:
    """Shares of trials between which 95 % lie with a probability of error of 1/1000."""
    return binom.ppf(5e-4, count, 0.95) / count, binom.ppf(1 - 5e-4, count, 0.95) / count


@pytest.mark.parametrize("size", SIZES)
def test_intervals_of_few_numbers_cover_the_mean_as_often_as_they_claim(size: int) -> None:
    rng = np.random.default_rng((12, size))
    samples = 2 + 3 * rng.standard_normal((600, size))
    before, after = rng.exponential(size=(2, 600, size))
    least, most = least_and_most(600)
    assert least <= coverage([(mean(sample), 2.0) for sample in samples]) <= most
    # differences of skewed numbers have heavy tails, for which Student's interval is too wide rather than too narrow
    assert coverage([(mean(difference), 0.0) for difference in after - before]) >= least


@pytest.mark.parametrize("size", SIZES)
def test_intervals_of_few_individuals_cover_correlations_at_least_as_often_as_they_claim(size: int) -> None:
    found: dict[str, list[tuple[Estimate, float]]] = {"one": [], "difference": [], "lead": [], "smallest": []}
    for seed in range(400):
        common, *own = np.random.default_rng((13, size, seed)).standard_normal((4, size))
        first, second, third = (0.6 * common + 0.8 * each for each in own)
        found["one"].append((pearson(first, common), 0.6))
        found["difference"].append((pearson_difference(first, second, common), 0.0))
        found["lead"].append((pearson_lead([first, second], [third], common), 0.0))
        found["smallest"].append((extreme_pearson([first, second], common, which="smallest"), 0.6))
    least, _ = least_and_most(400)
    assert all(coverage(trials) >= least for trials in found.values())
    assert found["difference"][0][0].upper <= 2


@pytest.mark.parametrize("size", SIZES)
def test_intervals_of_few_cases_cover_a_share_as_often_as_they_claim_on_average(size: int) -> None:
    """Exact coverage at each probability; Wilson's interval has its level on average over them."""
    probabilities = np.linspace(0.005, 0.995, 199)
    covered = np.zeros_like(probabilities)
    for successes in range(size + 1):
        estimate = proportion(successes, size)
        is_inside = (estimate.lower <= probabilities) & (probabilities <= estimate.upper)
        covered += is_inside * binom.pmf(successes, size, probabilities)
    assert 0.94 <= covered.mean() <= 0.97
    assert covered.min() >= 0.8


def test_the_interval_of_a_mean_is_that_of_student() -> None:
    sample = np.random.default_rng(14).exponential(size=9)
    for confidence in (0.95, 0.99):
        expected = ttest_1samp(sample, 0.0).confidence_interval(confidence)
        estimate = mean(sample, confidence=confidence)
        assert [estimate.lower, estimate.upper] == pytest.approx([expected.low, expected.high])


@pytest.mark.parametrize("size", [0, 1, 2])
def test_too_few_numbers_have_no_estimate(size: int) -> None:
    few = np.arange(float(size))
    for estimate in (mean(few), median(few), median_ratio(few + 1, few + 1), pearson(few, few)):
        assert estimate.value is estimate.lower is estimate.upper is None
        assert "fewer than 3" in estimate.why
    assert proportion(0, 0).value is None


def test_intervals_of_extremes_hold_jointly() -> None:
    """Eight equal means: the smallest upper end misses them far more often than that of one mean does."""
    missed = {"joint": 0, "single": 0}
    samples = np.random.default_rng(15).standard_normal((400, 8, 10))
    for parts in samples:
        for name, confidence in (("joint", joint_confidence(8)), ("single", 0.95)):
            estimate = extreme([mean(part, confidence=confidence) for part in parts], which="smallest")
            missed[name] += not estimate.lower <= 0 <= estimate.upper
    assert missed["joint"] <= binom.ppf(0.999, 400, 0.05)
    assert missed["single"] > 2 * missed["joint"]


def test_a_difference_of_nearly_equal_samples_is_narrower_than_either_interval() -> None:
    rng = np.random.default_rng(3)
    first, common = correlated(rng, 0.6, 100)
    nearly = first + 0.01 * rng.standard_normal(100)
    difference, single = pearson_difference(nearly, first, common), pearson(first, common)
    assert difference.upper - difference.lower < 0.1 * (single.upper - single.lower)


def test_a_lead_is_the_difference_of_the_largest_coefficients() -> None:
    rng = np.random.default_rng(10)
    common = rng.standard_normal(80)
    candidates = [common * factor + rng.standard_normal(80) for factor in (0.2, 1.0, 0.5)]
    lead = pearson_lead(candidates[:2], candidates[2:], common)
    assert lead.value == pytest.approx(pearson(candidates[1], common).value - pearson(candidates[2], common).value)


def test_the_interval_of_a_lead_knows_that_the_largest_was_chosen() -> None:
    """Five equally good candidates against one: whichever is the best in the sample has no lead."""
    missed = {"lead": 0, "difference": 0}
    for seed in range(60):
        rng = np.random.default_rng((11, seed))
        common = rng.standard_normal(60)
        candidates = [common + rng.standard_normal(60) for _ in range(6)]
        chosen = max(candidates[:5], key=lambda each: np.corrcoef(each, common)[0, 1])
        missed["difference"] += pearson_difference(chosen, candidates[5], common, seed=seed).lower > 0
        missed["lead"] += pearson_lead(candidates[:5], candidates[5:], common, seed=seed).lower > 0
    assert missed["lead"] <= 5
    assert missed["difference"] > missed["lead"]


def test_a_change_is_the_difference_of_two_coefficients() -> None:
    rng = np.random.default_rng(9)
    first, common = correlated(rng, 0.2, 100)
    second = common + rng.standard_normal(100)
    change = pearson_change((first, common), (second, common), seed=3)
    assert change.value == pytest.approx(pearson(second, common).value - pearson(first, common).value)
    assert change == pearson_difference(second, first, common, seed=3)


def test_the_change_of_the_largest_coefficient_takes_both_maxima() -> None:
    rng = np.random.default_rng(16)
    common, later = rng.standard_normal((2, 60))
    weak, strong, other = (factor * common + rng.standard_normal(60) for factor in (0.2, 1.0, 0.4))
    after = [(later + rng.standard_normal(60), later), (rng.standard_normal(60), later)]
    change = largest_pearson_change([(weak, common), (strong, common), (other, common)], after)
    assert change.value == pytest.approx(pearson(*after[0]).value - pearson(strong, common).value)
    single = largest_pearson_change([(weak, common)], after[:1])
    assert single.value == pytest.approx(pearson_change((weak, common), after[0]).value)


def equally_good(size: int, seed: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], ...]:
    """Four quantities before and four afterwards, all with the same correlation."""
    common, later, *own = np.random.default_rng((17, seed)).standard_normal((10, size))
    return [(common + 2 * each, common) for each in own[:4]], [(later + 2 * each, later) for each in own[4:]]


def test_the_change_of_the_largest_coefficient_is_not_biased_by_the_choice() -> None:
    """The quantity that is best afterwards has seemingly grown."""
    changes, of_chosen = [], []
    for seed in range(200):
        before, after = equally_good(25, seed)
        best = max(range(4), key=lambda index, after=after: np.corrcoef(*after[index])[0, 1])
        of_chosen.append(pearson_change(before[best], after[best]).value)
        changes.append(largest_pearson_change(before, after).value)
    error = np.std(changes) / math.sqrt(len(changes))
    assert abs(np.mean(changes)) < 3 * error
    assert np.mean(of_chosen) > 6 * error


def test_intervals_of_the_change_of_the_largest_coefficient_cover_it() -> None:
    trials = [(largest_pearson_change(*equally_good(40, seed), seed=seed), 0.0) for seed in range(40)]
    assert coverage(trials) >= binom.ppf(1e-3, 40, 0.95) / 40


def test_extreme_coefficients() -> None:
    rng = np.random.default_rng(18)
    common = rng.standard_normal(50)
    samples = [factor * common + rng.standard_normal(50) for factor in (0.3, 1.5)]
    for which, index in (("smallest", 0), ("largest", 1)):
        estimate = extreme_pearson(samples, common, which=which)
        assert estimate.value == pytest.approx(pearson(samples[index], common).value)
        assert estimate.lower < estimate.value < estimate.upper


def test_estimates_depend_on_the_seed_only() -> None:
    first, second = correlated(np.random.default_rng(4), 0.3, 40)
    state = np.random.get_state()[1].copy()
    assert pearson(first, second, seed=5) == pearson(first, second, seed=5)
    assert pearson(first, second, seed=5) != pearson(first, second, seed=6)
    assert np.array_equal(state, np.random.get_state()[1])


def test_perfectly_correlated_samples() -> None:
    sample = np.arange(10.0)
    estimate = pearson(sample, 3 * sample + 1)
    assert [estimate.value, estimate.lower, estimate.upper] == pytest.approx([1, 1, 1], abs=1e-12)
    assert pearson(sample, -sample).value == -1


@pytest.mark.parametrize("sample", [np.ones(5), np.array([1.0, 2.0, np.inf, 3.0, 4.0])])
def test_a_correlation_that_does_not_exist_says_why(sample: np.ndarray) -> None:
    estimate = pearson(sample, np.arange(5.0))
    assert (estimate.value, estimate.lower, estimate.upper) == (None, None, None)
    assert estimate.why


def test_a_median_ratio_is_the_median_of_the_ratios() -> None:
    rng = np.random.default_rng(6)
    top, bottom = rng.exponential(size=(2, 31))
    estimate = median_ratio(top, bottom)
    assert estimate.value == np.median(top / bottom)
    assert estimate.lower < estimate.value < estimate.upper
    assert median_ratio(top, np.zeros(31)).value is None


def test_a_median_has_an_interval_of_order_statistics() -> None:
    """P(Binomial(20, 1/2) <= 5) = 0.0207: the interval leaves out five numbers at each end."""
    sample = np.random.default_rng(7).permutation(20).astype(float)
    assert median(sample) == Estimate(9.5, 5.0, 14.0)
    assert median([1.0, 2.0, 5.0]).value == 2
    assert median([1.0, 2.0, 5.0]).lower is None
    assert median([1.0, np.inf, np.inf]).value is None


def test_wilson_interval_against_its_formula() -> None:
    z, n, p = 1.959963984540054, 20, 0.25
    centre, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    estimate = proportion(5, 20)
    assert estimate.lower == pytest.approx((centre - half) / (1 + z * z / n))
    assert estimate.upper == pytest.approx((centre + half) / (1 + z * z / n))


@pytest.mark.parametrize("count", [3, 5, 40])
def test_equal_numbers_are_as_uncertain_as_successes_alone(count: int) -> None:
    """Clopper and Pearson's interval for n successes of n."""
    ones, zeros = mean_share(np.ones(count)), mean_share(np.zeros(count))
    exact = binomtest(count, count).proportion_ci(0.95, method="exact")
    assert (ones.value, ones.lower, ones.upper) == pytest.approx((1.0, exact.low, exact.high))
    assert (zeros.value, zeros.lower, zeros.upper) == pytest.approx((0.0, 1 - exact.high, 1 - exact.low))
    between = mean_share(np.full(count, 0.5))
    assert (between.lower, between.upper) == pytest.approx((exact.low / 2, 1 - exact.low / 2))


def test_extremes_of_estimates() -> None:
    estimates = [Estimate(1.0, 0.5, 1.5), Estimate(1.2, 0.2, 3.0)]
    assert extreme(estimates, which="smallest") == Estimate(1.0, 0.2, 1.5)
    assert extreme(estimates, which="largest") == Estimate(1.2, 0.5, 3.0)


def test_the_difference_of_independent_numbers_is_as_certain_as_that_of_all_samples() -> None:
    rng = np.random.default_rng(19)
    first, second = 2 + rng.standard_normal(300), 1 + 3 * rng.standard_normal(200)
    found = difference_of_independent(mean(first), mean(second))
    error = math.sqrt(first.var() / 300 + second.var() / 200)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert [found.upper - found.value, found.value - found.lower] == pytest.approx([1.96 * error] * 2, rel=0.02)
    assert difference_of_independent(mean(first), mean([1.0])).value is None


@pytest.mark.parametrize("of", [lambda parts: extreme(parts, which="smallest"), mean_of_independent])
def test_what_is_said_of_all_numbers_needs_all(of: Callable[[list[Estimate]], Estimate]) -> None:
    estimate = of(
        [Estimate(1.0, 0.5, 1.5), Estimate(None, None, None, "a sample is constant"), Estimate(2.0, None, None)]
    )
    assert estimate.value is estimate.lower is estimate.upper is None
    assert estimate.why == "2 of 3 numbers are not determined: a sample is constant, no interval"
    assert of([]).value is None


def test_the_mean_of_independent_numbers_is_as_certain_as_one_of_all_samples() -> None:
    rng = np.random.default_rng(8)
    samples = rng.standard_normal((9, 400)) + np.arange(9)[:, None]
    combined = mean_of_independent([mean(sample) for sample in samples])
    assert combined.value == pytest.approx(samples.mean())
    error = samples.std(axis=1).mean() / math.sqrt(samples.size)
    assert combined.upper - combined.value == pytest.approx(1.96 * error, rel=0.1)
    assert combined.value - combined.lower == pytest.approx(1.96 * error, rel=0.1)


def test_samples_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="shapes"):
        pearson([1.0, 2.0, 3.0], [1.0, 2.0])


def test_the_interval_of_a_mean_stays_within_what_is_possible() -> None:
    found = mean([1.0, 1.0, 0.4], within=(-1.0, 1.0))
    assert found.upper == 1.0
    assert found.lower == mean([1.0, 1.0, 0.4]).lower
