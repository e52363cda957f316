"""Empirical Bayes: nearer to the truth in simulation, honest intervals, and nothing to draw where images are many."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr, ndtri

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.shrinkage import FEWEST, between_variance, shrink, shrink_robustness
from clipsafe_utils.statistics import fit_accuracy_line


def test_shrunken_estimates_are_nearer_to_the_truth_and_their_intervals_cover(rng):
    raw, drawn, covered, apart = [], [], [], []
    for _ in range(400):
        errors = rng.uniform(0.5, 2, 12)
        truth = 3 + rng.normal(0, 1, 12)
        values = truth + errors * rng.standard_normal(12)
        found, kept = shrink(values, errors)
        raw.append((values - truth) ** 2)
        drawn.append((found.value - truth) ** 2)
        covered.append((found.low <= truth) & (truth <= found.high))
        apart.append(kept[np.argmin(errors)] >= kept[np.argmax(errors)])
    assert np.mean(drawn) < 0.7 * np.mean(raw)
    assert 0.93 < np.mean(covered) < 0.97
    assert np.mean(apart) == 1, "what is measured better keeps more of itself"


def test_equal_errors_give_james_and_stein(rng):
    """With equal errors and a clear spread, Morris' estimate is the positive-part one of James and Stein."""
    values, error = rng.normal(0, 3, 9), 0.8
    found, _ = shrink(values, np.full(9, error))
    distance = values - values.mean()
    expected = values.mean() + (1 - (9 - 3) * error**2 / np.sum(distance**2)) * distance
    np.testing.assert_allclose(found.value, expected)


def test_between_variance_solves_its_equation_and_is_zero_where_noise_explains_all(rng):
    values, errors = rng.normal(0, 2, 20), rng.uniform(0.1, 1, 20)
    found = between_variance(values, errors)
    weights = 1 / (errors**2 + found)
    assert np.sum(weights * (values - np.average(values, weights=weights)) ** 2) == pytest.approx(19)
    assert between_variance(values, np.full(20, 50.0)) == 0


def test_without_a_true_spread_all_meet_near_the_mean(rng):
    values, errors = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 1.0]), np.full(6, 1.0)
    found, kept = shrink(values, errors)
    assert np.ptp(found.value) < 0.5 * np.ptp(values) and kept == pytest.approx(np.full(6, 1 - 3 / 5))


def test_few_estimates_stay_as_they_are():
    values, errors = np.array([0.0, 1.0, 5.0]), np.array([1.0, 2.0, 1.0])
    found, kept = shrink(values, errors)
    assert len(values) < FEWEST and (found.value == values).all() and (kept == 1).all()
    np.testing.assert_allclose(found.high - values, stats.norm.ppf(0.975) * errors)


@pytest.mark.parametrize(
    ("values", "errors", "message"),
    [
        ([1.0, 2.0], [1.0], "as many errors as values"),
        ([1.0, 2.0], [1.0, 0.0], "errors above 0; got 2.0 with 0.0"),
        ([1.0, np.nan], [1.0, 1.0], "values must be finite"),
    ],
)
def test_wrong_input_is_named(values, errors, message):
    with pytest.raises(ClipsafeError, match=message):
        shrink(np.array(values), np.array(errors))


def simulated(rng, n_images, n_reference=20_000, models=20, spread=0.08):
    """Models above a probit line by 0.2 with some spread, judged on so many images; true distance and estimates."""
    base = rng.uniform(0.4, 0.85, 40)
    line = fit_accuracy_line(base, ndtr(0.9 * ndtri(base) - 0.4 + rng.normal(0, 0.01, 40)))
    x = rng.uniform(0.45, 0.8, models)
    y = ndtr(line.intercept + line.slope * ndtri(x) + 0.2 + rng.normal(0, spread, models))
    seen_x, seen_y = rng.binomial(n_reference, x) / n_reference, rng.binomial(n_images, y) / n_images
    size = np.full(models, n_images), np.full(models, n_reference)
    return y - line.predict(x), seen_x, seen_y, *size, line


def test_robustness_of_few_images_is_nearer_to_the_truth(rng):
    errors = []
    for _ in range(60):
        truth, x, y, n, n_reference, line = simulated(rng, n_images=60)
        found, _ = shrink_robustness(x, y, n, n_reference, line, np.zeros(20))
        errors.append((((found.value - truth) ** 2).mean(), ((y - line.predict(x) - truth) ** 2).mean()))
        assert ((found.low < found.value) & (found.value < found.high)).all()
    drawn, raw = np.mean(errors, axis=0)
    assert drawn < 0.6 * raw


def test_with_many_images_nothing_is_drawn(rng):
    _, x, y, n, n_reference, line = simulated(rng, n_images=4_000_000, n_reference=4_000_000)
    found, kept = shrink_robustness(x, y, n, n_reference, line, np.zeros(20))
    np.testing.assert_allclose(found.value, y - line.predict(x), atol=1e-4)
    assert kept.min() > 0.999


def test_groups_are_drawn_each_to_their_own_mean(rng):
    _, x, y, n, n_reference, line = simulated(rng, n_images=50)
    groups = np.repeat(["a", "b", "few"], [9, 8, 3])
    found, kept = shrink_robustness(x, y, n, n_reference, line, groups)
    alone, _ = shrink_robustness(x[:9], y[:9], n[:9], n_reference[:9], line, groups[:9])
    np.testing.assert_allclose(found.value[:9], alone.value)
    assert (kept[17:] == 1).all() and (kept[:17] < 1).all()
    np.testing.assert_allclose(found.value[17:], (y - line.predict(x))[17:], atol=0.01)  # but for half a success


def test_accuracies_of_zero_and_one_keep_a_place(rng):
    _, x, _, n, n_reference, line = simulated(rng, n_images=20)
    for extreme in (0.0, 1.0):
        found, _ = shrink_robustness(x, np.full(20, extreme), n, n_reference, line, np.zeros(20))
        assert np.isfinite([found.value, found.low, found.high]).all()
