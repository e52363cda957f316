"""Empirical Bayes: nearer to the truth in simulation, honest intervals, and nothing to draw where images are many."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr, ndtri

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.shrinkage import (
    FEWEST,
    between_variance,
    errors_by_count,
    errors_by_image,
    shrink,
    shrink_robustness,
)
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
        apart.append(kept[np.argmin(errors)] > kept[np.argmax(errors)] - 1e-9)
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


def simulated(rng, n_images, n_all, *, agree, models=14, spread=0.08, scale="probit"):
    """Models some way above a line; true distances, what they answer, which images show the factor, and the line.

    With `agree`, an image is as hard for one model as for the other; the true accuracy is that over all such images.
    """
    base = rng.uniform(0.3, 0.9, 60)
    line = fit_accuracy_line(base, ndtr(0.9 * ndtri(base) - 0.4 + rng.normal(0, 1e-4, 60)), scale)
    x = rng.uniform(0.5, 0.8, models)
    y = ndtr(line.intercept + line.slope * ndtri(x) + 0.2 + rng.normal(0, spread, models))
    rest = (x * n_all - y * n_images) / (n_all - n_images)
    shows = np.arange(n_all) < n_images
    easy = np.sqrt(agree) * rng.standard_normal(n_all) + np.sqrt(1 - agree) * rng.standard_normal((models, n_all))
    correct = easy < ndtri(np.where(shows, y[:, None], rest[:, None]))
    return y - line.predict(x), correct, shows, line


def estimated(correct, shows, line, groups=None, by_image=True):
    x, y = correct.mean(axis=1), correct[:, shows].mean(axis=1)
    groups = np.zeros(len(x)) if groups is None else groups
    n, n_all = np.full(len(x), shows.sum()), np.full(len(x), len(shows))
    errors, shared = (
        errors_by_image(correct, shows, line, groups) if by_image else (errors_by_count(x, y, n, n_all, line), 0)
    )
    return shrink_robustness(x, y, n, line, groups, errors, shared=shared), y - line.predict(x)


@pytest.mark.parametrize("by_image", [True, False])
def test_robustness_of_few_images_is_nearer_to_the_truth(rng, by_image):
    errors, covered = [], []
    for _ in range(150):
        truth, *data = simulated(rng, 60, 1000, agree=0)
        (found, _), raw = estimated(*data, by_image=by_image)
        errors.append((((found.value - truth) ** 2).mean(), ((raw - truth) ** 2).mean()))
        covered.append((found.low <= truth) & (truth <= found.high))
    drawn, raw = np.mean(errors, axis=0)
    assert drawn < 0.6 * raw and 0.93 < np.mean(covered) < 0.975


def test_models_that_fail_on_the_same_images_are_not_drawn_too_far(rng):
    """Shared images move all models alike: that is no spread, and the distances between models are what is compared."""
    apart, covered, keeps = [], [], []
    for _ in range(150):
        truth, *data = simulated(rng, 60, 1000, agree=0.8)
        (found, kept), raw = estimated(*data)
        (counted, less), _ = estimated(*data, by_image=False)
        of_truth = truth - truth.mean()
        apart.append([np.mean((v - v.mean() - of_truth) ** 2) for v in (found.value, counted.value, raw)])
        covered.append((found.low <= truth) & (truth <= found.high))
        keeps.append((kept.mean(), less.mean()))
    by_image, by_count, raw = np.mean(apart, axis=0)
    assert by_image < by_count and by_image < raw
    assert 0.92 < np.mean(covered) < 0.975
    assert np.mean(keeps, axis=0)[0] > 1.5 * np.mean(keeps, axis=0)[1]


@pytest.mark.parametrize("agree", [0, 0.7])
def test_errors_are_those_of_repeated_samples(rng, agree):
    """The same models on other images: how far their distances from the line scatter, alone and together."""
    _, correct, shows, line = simulated(rng, 4000, 20_000, agree=agree, models=5, spread=0)
    errors, shared, distances, counted = [], [], [], []
    for _ in range(400):
        kept = np.concatenate([rng.choice(4000, 200), 4000 + rng.choice(16_000, 800)])
        sample, mark = correct[:, kept], shows[kept]
        x, y = sample.mean(axis=1), sample[:, mark].mean(axis=1)
        distances.append(ndtri(y) - line.intercept - line.slope * ndtri(x))
        one = errors_by_image(sample, mark, line, np.zeros(5))
        errors.append(one[0]), shared.append(one[1][0])
        counted.append(errors_by_count(x, y, np.full(5, 200), np.full(5, 1000), line))
    distances = np.array(distances)
    own = distances - distances.mean(axis=1, keepdims=True)
    assert np.median(errors) == pytest.approx(own.std(axis=0).mean() * np.sqrt(5 / 4), rel=0.06)
    assert np.median(counted) == pytest.approx(distances.std(axis=0).mean(), rel=0.06)
    if agree:
        together = np.sqrt(distances.mean(axis=1).var() - own.var(axis=0).mean() / 4)
        assert np.median(shared) == pytest.approx(together, rel=0.1)


def test_with_many_images_nothing_is_drawn(rng):
    x, y = rng.uniform(0.5, 0.8, 20), rng.uniform(0.3, 0.6, 20)
    line = fit_accuracy_line(rng.uniform(0.4, 0.9, 9), rng.uniform(0.3, 0.8, 9))
    many = np.full(20, 4_000_000)
    errors = errors_by_count(x, y, many, 2 * many, line)
    found, kept = shrink_robustness(x, y, many, line, np.zeros(20), errors)
    np.testing.assert_allclose(found.value, y - line.predict(x), atol=1e-4)
    assert kept.min() > 0.999


def test_groups_are_drawn_each_to_their_own_mean(rng):
    _, correct, shows, line = simulated(rng, 50, 1000, agree=0.5, models=20)
    groups = np.repeat(["a", "b", "few"], [9, 8, 3])
    (found, kept), raw = estimated(correct, shows, line, groups)
    (alone, _), _ = estimated(correct[:9], shows, line, groups[:9])
    np.testing.assert_allclose(found.value[:9], alone.value, rtol=1e-5)
    assert (kept[17:] == 1).all() and (kept[:17] < 1).all()
    np.testing.assert_allclose(found.value[17:], raw[17:], atol=0.01)  # but for half a success


@pytest.mark.parametrize("answer", [False, True])
def test_twins_and_accuracies_of_zero_and_one_keep_a_place_and_an_error(answer, rng):
    _, correct, shows, line = simulated(rng, 20, 400, agree=0.5)
    correct[:, shows], correct[1] = answer, correct[0]
    (found, _), _ = estimated(correct, shows, line)
    assert np.isfinite([found.value, found.low, found.high]).all() and (found.low < found.high).all()
