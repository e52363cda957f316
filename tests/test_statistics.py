"""Intervals cover at about their level, lines recover what made them, and both agree with SciPy."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logit
from sklearn.metrics import average_precision_score

from clipsafe_utils import metrics
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.intervals import aupr_interval, aurc_interval, ece_interval
from clipsafe_utils.statistics import (
    Interval,
    auroc_interval,
    bootstrap_ci,
    effective_robustness,
    effective_robustness_interval,
    fit_accuracy_line,
    mean_interval,
    split_mask,
    wilson_interval,
)

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
SCALES = {
    "probit": (stats.norm.ppf, stats.norm.cdf),
    "logit": (logit, stats.logistic.cdf),
    "linear": (lambda a: a,) * 2,
}


def make_models(rng, n=40, *, scale="probit", slope=0.9, intercept=-0.6, noise=0.05):
    forward, inverse = SCALES[scale]
    x = rng.uniform(0.4, 0.9, n)
    return x, inverse(intercept + slope * forward(x) + rng.normal(0, noise, n))


# --- proportions ------------------------------------------------------------------------------------------------------


@QUICK
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_equals_scipy(counts, level):
    successes, n = counts
    interval = wilson_interval(successes, n, level=level)
    expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert interval[:3] == pytest.approx((successes / n, *expected), abs=1e-12)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1 and interval.low < interval.high


def test_wilson_of_arrays_is_elementwise_and_nan_without_trials():
    interval = wilson_interval([0, 3, 5], [0, 10, 5], level=0.9)
    assert np.isnan([interval.value[0], interval.low[0], interval.high[0]]).all()
    assert (interval.low[1], interval.high[1]) == wilson_interval(3, 10, level=0.9)[1:3]
    assert (interval.kind, interval.level, interval.n.tolist()) == ("wilson", 0.9, [0, 10, 5])


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.76])
def test_wilson_covers_at_its_level(rng, rate):
    interval = wilson_interval(rng.binomial(200, rate, 4000), 200)
    assert np.mean((interval.low <= rate) & (rate <= interval.high)) == pytest.approx(0.95, abs=0.025)


def test_reliability_curve_carries_the_same_interval(rng):
    confidence = rng.random(500)
    curve = metrics.reliability_curve(confidence, rng.random(500) < confidence, n_bins=4, level=0.8)
    interval = wilson_interval(np.round(curve.accuracy * curve.count), curve.count, level=0.8)
    np.testing.assert_allclose([curve.low, curve.high], [interval.low, interval.high], atol=1e-12)


# --- bootstrap --------------------------------------------------------------------------------------------------------


def test_bootstrap_repeats_itself_and_differs_between_seeds(rng):
    sample = rng.normal(size=50)
    assert bootstrap_ci(np.mean, sample, seed=3) == bootstrap_ci(np.mean, sample, seed=3)
    assert bootstrap_ci(np.mean, sample, seed=3) != bootstrap_ci(np.mean, sample, seed=4)


@pytest.mark.parametrize("kind", ["percentile", "bca"])
@pytest.mark.parametrize("statistic", [np.mean, np.std])
def test_bootstrap_agrees_with_scipy(rng, kind, statistic):
    sample = rng.exponential(size=60)
    level = 2 * stats.norm.cdf(np.sqrt(60 / 59) * stats.t.ppf(0.975, 59)) - 1  # as far out as Student's t
    expected = stats.bootstrap(
        (sample,),
        statistic,
        n_resamples=20_000,
        method=kind.replace("bca", "BCa"),
        confidence_level=level,
        rng=np.random.default_rng(1),
    ).confidence_interval
    interval = bootstrap_ci(statistic, sample, n_bootstrap=6000, kind=kind)
    width = expected.high - expected.low
    assert interval[1:3] == pytest.approx((expected.low, expected.high), abs=0.04 * width)
    assert interval == Interval(statistic(sample), *interval[1:3], f"bootstrap ({kind})", 0.95, 60)


def test_bca_differs_from_percentile_where_the_statistic_is_skewed(rng):
    sample = rng.exponential(size=40)
    percentile, bca = (bootstrap_ci(np.var, sample, kind=kind, n_bootstrap=3000) for kind in ("percentile", "bca"))
    assert bca.low > percentile.low and bca.high > 1.05 * percentile.high


def test_bootstrap_is_paired(rng):
    one = rng.normal(size=80)
    interval = bootstrap_ci(lambda a, b: np.mean(a - b), one + 0.1, one)
    assert (interval.low, interval.high) == pytest.approx((0.1, 0.1), abs=1e-12)


def test_strata_keep_their_sizes():
    strata = np.array(["id"] * 7 + ["ood"] * 2)
    seen = []
    bootstrap_ci(lambda s: seen.append((s == "ood").sum()) or 0.0, strata, strata=strata, n_bootstrap=50)
    assert set(seen) == {2}


def test_strata_make_auroc_of_few_ood_samples_defined(rng):
    scores, is_ood = np.r_[rng.normal(0, 1, 40), rng.normal(2, 1, 3)], np.repeat([False, True], [40, 3])
    interval = bootstrap_ci(lambda s, o: metrics.auroc(s[~o], s[o]), scores, is_ood, strata=is_ood, n_bootstrap=200)
    assert interval.low <= interval.value <= interval.high <= 1


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_bootstrap_of_one_or_equal_samples_is_a_point(kind):
    assert bootstrap_ci(np.mean, [2.0], kind=kind, n_bootstrap=20)[:3] == (2.0, 2.0, 2.0)
    assert bootstrap_ci(np.mean, np.full(9, 2.0), kind=kind, n_bootstrap=20)[:3] == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_bootstrap_covers_at_about_its_level(rng, kind):
    hits = 0
    for seed in range(200):
        interval = bootstrap_ci(
            lambda a: a.sum() / a.size, rng.exponential(size=60), n_bootstrap=200, level=0.9, seed=seed, kind=kind
        )
        hits += interval.low <= 1 <= interval.high
    assert 0.82 <= hits / 200 <= 0.96


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_line_recovers_what_made_it(rng, scale):
    x, y = make_models(rng, scale=scale, slope=0.8, intercept=0.05, noise=0)
    line = fit_accuracy_line(x, y, scale)
    assert (line.slope, line.intercept, line.r2) == pytest.approx((0.8, 0.05, 1.0), abs=1e-9)
    np.testing.assert_allclose(line.predict(x), y, atol=1e-9)
    assert (line.n, line.n_clipped, line.scale) == (40, 0, scale)


@pytest.mark.parametrize("scale", SCALES)
def test_line_agrees_with_scipy(rng, scale):
    x, y = make_models(rng)
    expected = stats.linregress(*(SCALES[scale][0](values) for values in (x, y)))
    line = fit_accuracy_line(x, y, scale)
    assert (line.slope, line.intercept, line.r2) == pytest.approx(
        (expected.slope, expected.intercept, expected.rvalue**2), abs=1e-10
    )


def test_line_does_not_depend_on_the_order_of_models(rng):
    x, y = make_models(rng)
    order = rng.permutation(len(x))
    one, other = fit_accuracy_line(x, y), fit_accuracy_line(x[order], y[order])
    assert (one.slope, one.intercept, one.r2) == pytest.approx((other.slope, other.intercept, other.r2), abs=1e-12)


def test_accuracies_of_zero_and_one_are_clipped_and_counted(rng):
    x, y = make_models(rng)
    line = fit_accuracy_line(np.r_[x, 1.0, 0.5], np.r_[y, 0.9, 0.0])
    assert line.n_clipped == 2 and np.isfinite([line.slope, *line.predict([0.0, 1.0])]).all()
    assert fit_accuracy_line(np.r_[x, 1.0, 0.5], np.r_[y, 0.9, 0.0], "linear").n_clipped == 0


def test_band_holds_the_line_narrows_with_models_and_repeats_itself(rng):
    few, many = (fit_accuracy_line(*make_models(rng, n)) for n in (10, 400))
    at = np.linspace(0.3, 0.95, 9)
    for line in (few, many):
        band = line.band(at)
        assert (band.low <= band.value).all() and (band.value <= band.high).all()
        np.testing.assert_array_equal(band.value, line.predict(at))
        np.testing.assert_array_equal(band.low, line.band(at).low)
        one = line.band(0.3)
        assert (one.value, one.low, one.high) == (band.value[0], band.low[0], band.high[0]) and np.ndim(one.low) == 0
    assert ((many.band(at).high - many.band(at).low) < 0.5 * (few.band(at).high - few.band(at).low)).all()


def test_band_of_three_models_never_meets_a_resample_without_a_line():
    band = fit_accuracy_line([0.5, 0.6, 0.7], [0.4, 0.5, 0.55], "linear").band(0.65)
    assert np.isfinite(band[:3]).all() and band.low <= band.value <= band.high


def test_band_covers_the_true_line(rng):
    truth = stats.norm.cdf(-0.6 + 0.9 * stats.norm.ppf(0.7))
    hits = 0
    for _ in range(150):
        band = fit_accuracy_line(*make_models(rng, 30, noise=0.1)).band(0.7, level=0.9)
        hits += band.low <= truth <= band.high
    assert 0.8 <= hits / 150 <= 0.97


# --- effective robustness ---------------------------------------------------------------------------------------------


def test_effective_robustness_is_the_distance_from_the_line(rng):
    line = fit_accuracy_line(*make_models(rng))
    x = np.array([0.5, 0.8])
    np.testing.assert_allclose(effective_robustness(x, line.predict(x) + 0.07, line), 0.07, atol=1e-12)
    assert effective_robustness(0.5, line.predict(0.5), line) == 0


def test_interval_joins_point_and_line(rng):
    line = fit_accuracy_line(*make_models(rng))
    band, point = line.band(0.7), wilson_interval(60, 100)
    interval = effective_robustness_interval(0.7, 0.6, 100, line)
    assert interval.value == pytest.approx(0.6 - band.value)
    assert interval.value - interval.low == pytest.approx(np.hypot(0.6 - point.low, band.high - band.value))
    assert interval.high - interval.value == pytest.approx(np.hypot(point.high - 0.6, band.value - band.low))
    both = effective_robustness_interval([0.7, 0.8], [0.6, 0.0], [100, 50], line)
    assert (both.low[0], both.high[0]) == pytest.approx((interval.low, interval.high))
    assert both.high[1] > both.value[1] and "wilson" in both.kind


def test_images_with_a_factor_are_some_of_all_images(rng):
    """45 of 60 right with the factor and 130 of 240 without: each error alone, the other at its value."""
    line = fit_accuracy_line(*make_models(rng))
    band, own, others = line.band(175 / 300), wilson_interval(45, 60), wilson_interval(130, 240)
    found = effective_robustness_interval(175 / 300, 0.75, 60, line, n_reference=300, nested=True)

    def moved(y, rest):
        return abs(y - line.predict((60 * y + 240 * rest) / 300) - found.value)

    below = [moved(own.low, 130 / 240), moved(0.75, others.high), band.high - band.value]
    above = [moved(own.high, 130 / 240), moved(0.75, others.low), band.value - band.low]
    assert found.value == pytest.approx(0.75 - band.value)
    assert (found.value - found.low, found.high - found.value) == pytest.approx(
        (np.hypot.reduce(below), np.hypot.reduce(above))
    )
    apart = effective_robustness_interval(175 / 300, 0.75, 60, line, n_reference=300)
    both = effective_robustness_interval(175 / 300, 0.75, 60, line, n_reference=300, nested=np.array([True, False]))
    assert found.low > apart.low and found.high < apart.high
    assert both.low.tolist() == [found.low, apart.low]
    with pytest.raises(ClipsafeError, match="nested images must be fewer than the 60 behind x; got 60"):
        effective_robustness_interval(0.7, 0.7, 60, line, n_reference=60, nested=True)


def test_interval_covers_the_true_distance(rng):
    expected = stats.norm.cdf(-0.6 + 0.9 * stats.norm.ppf(0.7))
    hits = 0
    for _ in range(150):
        line = fit_accuracy_line(*make_models(rng, 30, noise=0.1))
        y = rng.binomial(300, expected + 0.1) / 300
        interval = effective_robustness_interval(0.7, y, 300, line, level=0.9)
        hits += interval.low <= 0.1 <= interval.high
    assert 0.83 <= hits / 150 <= 0.97


def test_factor_robustness_of_the_two_clip_models_in_the_published_table(published_dir):
    """y = accuracy on a factor, x = the table's average accuracy; the line goes through all other models."""
    table = pd.read_csv(published_dir / "imagenet_x/factor_accuracies/imagenet_testbed.csv", index_col="model")
    table = table[table.average > 0.01]  # without networks stopped after an epoch or two
    is_clip = table.index.str.contains("clip_zeroshot")
    assert is_clip.sum() == 2
    signs = {"pose": -1, "partial_view": -1, "shape": 1, "texture": 1, "color": 1, "subcategory": 1, "larger": 1}
    for factor, sign in signs.items():
        line = fit_accuracy_line(table.average[~is_clip], table[factor][~is_clip])
        interval = effective_robustness_interval(table.average[is_clip], table[factor][is_clip], 500, line)
        assert line.r2 > 0.98 and line.n > 300 and line.n_clipped == 0
        assert (np.sign(interval.value) == sign).all(), factor
        assert ((interval.low < interval.value) & (interval.value < interval.high)).all()


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("excess", [False, True])
def test_aurc_interval_is_as_wide_as_a_bootstraps(rng, excess):
    confidence = rng.random(600).round(2)
    correct = rng.random(600) < 0.3 + 0.6 * confidence
    area = metrics.excess_aurc if excess else metrics.aurc
    found, resampled = aurc_interval(confidence, correct, excess=excess), bootstrap_ci(area, confidence, correct)
    assert found.value == resampled.value and found.n == 600
    assert found.high - found.low == pytest.approx(resampled.high - resampled.low, rel=0.1)
    half = (found.high - found.low) / 2
    assert abs(found.low - resampled.low) < 0.25 * half and abs(found.high - resampled.high) < 0.25 * half


def test_areas_that_a_single_image_decides_have_no_interval():
    assert np.isnan(aurc_interval([0.9, 0.8, 0.7], [True, False, True]).low)
    assert np.isnan(aurc_interval([0.9, 0.8, 0.7], [True, True, True]).high)
    oracle = aurc_interval(np.repeat([0.9, 0.1], 20), np.repeat([True, False], 20), excess=True)
    assert oracle.value == pytest.approx(0, abs=1e-12) and np.isnan(oracle.low)


def test_ece_interval_has_the_bins_of_either_error(rng):
    confidence = rng.beta(4, 2, 500).round(2)
    correct = rng.random(500) < confidence**2
    both = [ece_interval(confidence, correct, n_bins=9, binning=binning) for binning in ("width", "mass")]
    assert both[0].value == metrics.expected_calibration_error(confidence, correct, n_bins=9)
    assert both[1].value == metrics.equal_mass_ece(confidence, correct, n_bins=9)
    assert all(0 < one.low < one.high < 1 for one in both) and both[0][1:3] != both[1][1:3]
    assert np.isnan(ece_interval(confidence, np.arange(500) > 5, n_bins=9, binning="mass").low), "six are wrong"
    with pytest.raises(ClipsafeError, match="binning must be"):
        ece_interval(confidence, correct, binning="equal")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: wilson_interval(0.76, 100),
            "successes and n must be whole numbers with 0 <= successes <= n; got 0.76 of 100. "
            "Pass counts, not fractions.",
        ),
        (
            lambda: wilson_interval(5, 4),
            "successes and n must be whole numbers with 0 <= successes <= n; got 5 of 4. Pass counts, not fractions.",
        ),
        (
            lambda: wilson_interval(1, np.inf),
            "successes and n must be whole numbers with 0 <= successes <= n; got 1 of inf. Pass counts, not fractions.",
        ),
        (lambda: wilson_interval(1, 4, level=95), "level must be a fraction in (0, 1), for instance 0.95; got 95."),
        (
            lambda: bootstrap_ci(np.mean, [1, 2], [1]),
            "bootstrap_ci needs arrays of one common length of at least 1; got lengths [2, 1].",
        ),
        (
            lambda: bootstrap_ci(np.mean, []),
            "bootstrap_ci needs arrays of one common length of at least 1; got lengths [0].",
        ),
        (
            lambda: bootstrap_ci(np.mean),
            "bootstrap_ci needs arrays of one common length of at least 1; got lengths [].",
        ),
        (
            lambda: bootstrap_ci(np.mean, [1, 2], kind="basic"),
            'kind must be "percentile", or "bca" without strata; got \'basic\'.',
        ),
        (
            lambda: bootstrap_ci(np.mean, [1, 2], kind="bca", strata=[0, 1]),
            'kind must be "percentile", or "bca" without strata; got \'bca\'.',
        ),
        (
            lambda: bootstrap_ci(np.mean, [1, 2], strata=[0]),
            "strata must have shape (2,) like the arrays; got (1,).",
        ),
        (lambda: bootstrap_ci(np.mean, [1, 2], n_bootstrap=0), "n_bootstrap must be at least 1; got 0."),
        (
            lambda: bootstrap_ci(np.mean, [np.nan], n_bootstrap=9),
            "the statistic is NaN on 10 of 10 samples (the data and its resamples); "
            "pass strata so that every resample holds what it needs.",
        ),
        (
            lambda: fit_accuracy_line([0.1, 0.2], [0.1, 0.2]),
            "a line needs x and y of at least 3 models each; got (2,) and (2,).",
        ),
        (
            lambda: fit_accuracy_line([0.5] * 3, [0.1, 0.2, 0.3]),
            "all 3 models have x = 0.5; a line needs at least two different x.",
        ),
        (
            lambda: fit_accuracy_line([0.5, 0.6, 0.7], [0.1, 20.0, 0.3]),
            "y must hold accuracies as fractions in [0, 1]; got 20 at model 1. "
            "Divide percent by 100 and drop missing models.",
        ),
        (
            lambda: fit_accuracy_line([0.5, 0.6, np.nan], [0.1, 0.2, 0.3]),
            "x must hold accuracies as fractions in [0, 1]; got nan at model 2. "
            "Divide percent by 100 and drop missing models.",
        ),
        (
            lambda: fit_accuracy_line([0.5, 0.6, 0.7], [0.1, 0.2, 0.3], "probits"),
            "unknown scale 'probits'; did you mean 'probit'? valid: linear, logit, probit.",
        ),
        (
            lambda: fit_accuracy_line([0.5, 0.6, 0.7], [0.1, 0.2, 0.3], eps=0),
            "eps must lie in (0, 0.5), for instance 1e-4; got 0.",
        ),
        (
            lambda: effective_robustness_interval(
                0.5, 0.4, 0, fit_accuracy_line([0.5, 0.6, 0.7], [0.1, 0.2, 0.3], "linear")
            ),
            "n_images must be at least 1; got 0.",
        ),
    ],
)
def test_messages_name_cause_value_and_remedy(call, message):
    with pytest.raises(ClipsafeError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("n", [2, 5, 400])
def test_mean_interval_is_students(n, rng):
    values = rng.normal(3, 2, n)
    interval = mean_interval(values, level=0.9)
    low, high = stats.t.interval(0.9, n - 1, values.mean(), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert np.isnan(mean_interval([1.0]).low)
    with pytest.raises(ClipsafeError, match="one value or more"):
        mean_interval([])


def test_auroc_interval_has_delongs_variance(rng):
    inside, outside = rng.normal(0, 1, 60).round(1), rng.normal(1, 1, 40).round(1)
    wins = (outside[:, None] > inside) + 0.5 * (outside[:, None] == inside)
    variance = wins.mean(axis=1).var(ddof=1) / 40 + wins.mean(axis=0).var(ddof=1) / 60
    value = wins.mean()
    half = stats.norm.ppf(0.975) * np.sqrt(variance) / (value * (1 - value))
    interval = auroc_interval(inside, outside)
    assert interval.value == pytest.approx(value)
    assert logit([interval.low, interval.high]) == pytest.approx(logit(value) + half * np.array([-1, 1]))


def test_auroc_interval_covers(rng):
    truth = stats.norm.cdf(1 / np.sqrt(2))
    hits = 0
    for _ in range(400):
        interval = auroc_interval(rng.normal(0, 1, 50), rng.normal(1, 1, 80))
        hits += interval.low <= truth <= interval.high
    assert 0.92 <= hits / 400 <= 0.98


def test_perfect_auroc_keeps_a_width():
    interval = auroc_interval(np.zeros(30), np.ones(20))
    assert interval.value == interval.high == 1
    assert interval.low == pytest.approx(wilson_interval(20, 20).low)


@pytest.mark.parametrize("positive", ["id", "ood"])
def test_aupr_interval_is_that_of_leaving_out_each_image(rng, positive):
    """Against scikit-learn's average precision without each image in turn, ties included."""
    inside, outside = rng.normal(0, 1, 300).round(1), rng.normal(1, 1, 200).round(1)
    found = aupr_interval(inside, outside, positive=positive)
    low, high = (inside, outside) if positive == "ood" else (-outside, -inside)

    def area(low, high):
        return average_precision_score(np.repeat([0, 1], [len(low), len(high)]), np.r_[low, high])

    without_low = [area(np.delete(low, i), high) for i in range(len(low))]
    without_high = [area(low, np.delete(high, i)) for i in range(len(high))]
    variance = sum((len(each) - 1) * np.var(each) for each in (without_low, without_high))
    value = area(low, high)
    half = stats.norm.ppf(0.975) * np.sqrt(variance) / (value * (1 - value))
    assert found.value == pytest.approx(value) and found.n == 200
    assert logit([found.low, found.high]) == pytest.approx(logit(value) + half * np.array([-1, 1]), rel=0.02)


def test_aupr_interval_of_nothing_to_tell_is_none():
    for pair in ((np.zeros(30), np.ones(20)), ([0.0], [1.0, -1.0])):
        interval = aupr_interval(*pair)
        assert np.isnan([interval.low, interval.high]).all()
    with pytest.raises(ClipsafeError, match="positive class"):
        aupr_interval([0.0], [1.0], positive="odd")


@pytest.mark.parametrize("fraction", [0.5, 0.2])
def test_split_gives_each_class_its_share(rng, fraction):
    labels = rng.permutation(np.repeat(np.arange(30), 10))
    mask = split_mask(labels, fraction, seed=3)
    assert mask.sum() == int(fraction * 300)
    assert np.abs(np.bincount(labels[mask], minlength=30) - 10 * fraction).max() <= 1
    assert (mask == split_mask(labels, fraction, seed=3)).all()
    assert (mask != split_mask(labels, fraction, seed=4)).any()


def test_split_of_single_samples_is_random():
    first, second = (split_mask(np.arange(100), 0.5, seed=seed) for seed in (0, 1))
    assert first.sum() == second.sum() == 50
    assert 20 < (first & second).sum() < 30 + 10
