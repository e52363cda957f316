"""Metrics against golden points, slow and obviously right twins, independent libraries, real results and properties."""

import importlib.util
import inspect
import itertools
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp
from scipy.special import softmax as scipy_softmax

from clipsafe_utils import metrics
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.metrics.calibration import brier_scores
from clipsafe_utils.metrics.selective import aurc_without_each

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
EIGHT = np.array([0.52, 0.58, 0.64, 0.69, 0.73, 0.78, 0.86, 0.97]), np.array([1, 0, 1, 0, 0, 1, 1, 0])


def make_logits(rng, n=300, n_classes=7, *, skill=1.5, scale=2.0, dtype=np.float64):
    labels = rng.integers(n_classes, size=n)
    logits = rng.normal(size=(n, n_classes))
    logits[np.arange(n), labels] += skill
    return (scale * logits).astype(dtype), labels


# --- golden points ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_bins", "expected"), [(10, 0.25625), (15, 0.52125)])
def test_ece_golden_points_tell_bin_counts_apart(n_bins, expected):
    assert metrics.expected_calibration_error(*EIGHT, n_bins=n_bins) == pytest.approx(expected, abs=1e-12)


def test_ece_default_is_fifteen_bins():
    assert metrics.expected_calibration_error(*EIGHT) == pytest.approx(0.52125, abs=1e-12)


def test_ece_bins_are_closed_on_the_right():
    confidence, correct = [0.4, 0.4, 0.75, 0.25], [1, 0, 1, 0]
    assert metrics.expected_calibration_error(confidence, correct, n_bins=4) == pytest.approx(0.175, abs=1e-12)


def test_ece_of_confidence_exactly_one_has_no_extra_bin():
    # torchmetrics 1.9.0 opens a hidden bin for exactly 1.0 and gives 0.525
    assert metrics.expected_calibration_error([0.95, 1.0], [1, 0]) == pytest.approx(0.475, abs=1e-12)


def test_ece_extremes_join_the_outer_bins():
    curve = metrics.reliability_curve([0.0, 0.1, 1.0], [0, 0, 1], n_bins=10)
    assert curve.count.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("n_bins", [3, 7, 10, 15, 49, 100])
def test_every_edge_belongs_to_the_bin_below(n_bins):
    edges = np.arange(1, n_bins + 1) / n_bins
    assert metrics.reliability_curve(edges, np.ones(n_bins), n_bins=n_bins).count.tolist() == [1] * n_bins


def test_fpr_conventions_by_hand():
    id_scores, ood_scores = np.arange(100.0), np.arange(50.0, 150.0)
    assert metrics.fpr_ood_at_tpr_id95(id_scores, ood_scores) == 0.45  # accepts up to 94: OOD 50..94
    assert metrics.fpr_id_at_tpr_ood95(id_scores, ood_scores) == 0.45  # flags from 55: ID 55..99


@pytest.mark.parametrize("n", [1, 19, 20, 21, 40, 60, 1000])
def test_tpr_of_ninety_five_percent_is_reached_with_the_fewest_samples(n):
    id_scores = np.arange(float(n))
    needed = next(k for k in range(1, n + 1) if 100 * k >= 95 * n)
    assert metrics.fpr_ood_at_tpr_id95(id_scores, id_scores) == needed / n


def test_one_sample_each():
    assert metrics.ood_detection([0.0], [1.0]) == (1.0, 0.0, 0.0, 1.0, 1.0, 1, 1)
    assert metrics.ood_detection([1.0], [1.0]) == (0.5, 1.0, 1.0, 0.5, 0.5, 1, 1)


def test_sixteen_categories_and_their_members():
    assert list(metrics.SIXTEEN_CLASSES) == sorted(metrics.SIXTEEN_CLASSES)
    sizes = {name: len(members) for name, members in metrics.SIXTEEN_CLASSES.items()}
    assert (len(sizes), sum(sizes.values()), sizes["dog"], sizes["bird"], sizes["cat"]) == (16, 207, 109, 49, 6)
    assert metrics.SIXTEEN_CLASSES["oven"] == (766,)
    assert len({index for members in metrics.SIXTEEN_CLASSES.values() for index in members}) == 207


def test_sixteen_class_decision_is_the_mean_not_the_sum_and_ties_go_to_the_first_name():
    probabilities = np.zeros((3, 1000))
    probabilities[0, 151:269], probabilities[0, 499] = 0.005, 0.2  # dogs sum to more, the knife has the larger mean
    probabilities[1, [404, 766]] = 0.5
    probabilities[2, 0] = 1.0  # no member at all: all means are 0
    assert metrics.sixteen_class_decisions(probabilities).tolist() == ["knife", "airplane", "airplane"]


def test_shape_bias_by_hand():
    trials = {
        "decision": ["cat", "dog", "cat", "oven", "cat", "na"],
        "shape": ["cat", "cat", "cat", "cat", "cat", "cat"],
        "texture": ["dog", "dog", "car", "dog", "cat", "dog"],
    }
    assert metrics.shape_bias(trials) == (2 / 3, 3 / 5, 2, 1, 5)
    assert metrics.shape_bias(pd.DataFrame(trials)) == (2 / 3, 3 / 5, 2, 1, 5)
    undecided = metrics.shape_bias({"decision": ["x"], "shape": ["cat"], "texture": ["dog"]})
    assert np.isnan(undecided.value) and undecided.share_decided == 0


def test_factor_accuracy_by_hand():
    annotations = pd.DataFrame({"pose": [1, 1, 0, 0], "color": [0, 1, 1, 1], "style": [0, 0, 0, 0]}).astype(bool)
    result = metrics.factor_accuracy([True, False, True, True], annotations)
    assert result.factors == ("pose", "color", "style")
    np.testing.assert_array_equal(result.accuracy, [1 / 2, 2 / 3, np.nan])
    assert (result.n_correct.tolist(), result.n.tolist(), result.overall) == ([1, 2, 0], [2, 3, 0], 0.75)
    np.testing.assert_allclose(metrics.error_ratio(result.accuracy, result.overall), [2, 4 / 3, np.nan])
    assert metrics.error_ratio(0.5, 0.75) == 2.0
    assert np.isnan(metrics.error_ratio(1.0, 1.0))


# --- slow, obviously right twins --------------------------------------------------------------------------------------


def slow_ece(confidence, correct, n_bins):
    total = 0.0
    for k in range(n_bins):
        low, high = k / n_bins, (k + 1) / n_bins
        inside = [i for i, c in enumerate(confidence) if low < c <= high or (k == 0 and c == 0)]
        if inside:
            gap = np.mean([correct[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            total += len(inside) / len(confidence) * abs(gap)
    return total


def slow_detection(id_scores, ood_scores):
    """AUROC, both FPRs and both average precisions straight from their definitions."""
    pairs = [(o > i) + 0.5 * (o == i) for o in ood_scores for i in id_scores]

    def up_to(scores, t):
        return sum(s <= t for s in scores) / len(scores)

    def from_(scores, t):
        return sum(s >= t for s in scores) / len(scores)

    accept = next(t for t in sorted(id_scores) if up_to(id_scores, t) >= 0.95)
    flag = next(t for t in sorted(ood_scores, reverse=True) if from_(ood_scores, t) >= 0.95)

    def average_precision(positive, negative):
        area = recall = 0.0
        for t in sorted(set(positive), reverse=True):
            hits, false = sum(s >= t for s in positive), sum(s >= t for s in negative)
            area += (hits / len(positive) - recall) * hits / (hits + false)
            recall = hits / len(positive)
        return area

    return (
        np.mean(pairs),
        up_to(ood_scores, accept),
        from_(id_scores, flag),
        average_precision([-s for s in id_scores], [-s for s in ood_scores]),
        average_precision(list(ood_scores), list(id_scores)),
    )


@st.composite
def adversarial_confidences(draw):
    n_bins = draw(st.integers(1, 20))
    edges = st.integers(0, n_bins).map(lambda k: k / n_bins)
    beside = st.builds(lambda e, to: float(np.nextafter(e, to)), edges, st.sampled_from([0.0, 1.0]))
    confidence = draw(st.lists(st.one_of(edges, beside, st.floats(0, 1)), min_size=1, max_size=40))
    return n_bins, confidence, draw(st.lists(st.booleans(), min_size=len(confidence), max_size=len(confidence)))


@QUICK
@given(adversarial_confidences())
def test_ece_equals_its_twin_at_edges_and_extremes(case):
    n_bins, confidence, correct = case
    expected = slow_ece(confidence, correct, n_bins)
    ece = metrics.expected_calibration_error(confidence, correct, n_bins=n_bins)
    assert ece == pytest.approx(expected, abs=1e-12) and 0 <= ece <= 1


@QUICK
@given(adversarial_confidences())
def test_equal_mass_bins_hold_all_samples_and_never_part_ties(case):
    n_bins, confidence, correct = case
    curve = metrics.reliability_curve(confidence, correct, n_bins=n_bins, binning="mass")
    assert curve.count.sum() == len(confidence)
    assert 0 <= metrics.equal_mass_ece(confidence, correct, n_bins=n_bins) <= 1
    if len(set(confidence)) == len(confidence) and 0 not in confidence:
        assert curve.count.max() - curve.count.min() <= 1
    if len(set(confidence)) == 1:
        assert np.count_nonzero(curve.count) == 1


def slow_equal_mass_ece(confidence, correct, n_bins):
    """Cut j is the smallest confidence that j / n_bins of the samples do not exceed; a sample lies above its cuts."""
    ranked, total = sorted(confidence), 0.0
    cuts = [
        next(c for c in ranked if n_bins * sum(x <= c for x in ranked) >= j * len(ranked)) for j in range(1, n_bins)
    ]
    bins = [sum(c > cut for cut in cuts) for c in confidence]
    for k in set(bins):
        inside = [i for i, b in enumerate(bins) if b == k]
        total += abs(sum(correct[i] - confidence[i] for i in inside))
    return total / len(confidence)


@QUICK
@given(adversarial_confidences())
def test_equal_mass_ece_equals_its_twin(case):
    n_bins, confidence, correct = case
    expected = slow_equal_mass_ece(confidence, correct, n_bins)
    assert metrics.equal_mass_ece(confidence, correct, n_bins=n_bins) == pytest.approx(expected, abs=1e-12)


def test_equal_mass_ece_of_distinct_confidences_is_that_of_equal_parts(rng):
    confidence, correct = rng.permutation(np.linspace(0.2, 0.99, 300)), rng.random(300) < 0.7
    parts = np.array_split(np.argsort(confidence), 15)
    expected = sum(abs(correct[part].mean() - confidence[part].mean()) * len(part) / 300 for part in parts)
    assert metrics.equal_mass_ece(confidence, correct) == pytest.approx(expected, abs=1e-12)


@st.composite
def few_confidences(draw):
    confidence = draw(st.lists(st.sampled_from([0.2, 0.5, 0.9, 1.0]), min_size=1, max_size=6))
    return confidence, draw(st.lists(st.booleans(), min_size=len(confidence), max_size=len(confidence)))


@QUICK
@given(few_confidences())
def test_risk_is_the_mean_over_all_orders_of_ties(case):
    confidence, correct = case
    risks = []
    for order in itertools.permutations(range(len(confidence))):
        order = sorted(order, key=lambda i: -confidence[i])
        risks.append([np.mean([not correct[i] for i in order[:k]]) for k in range(1, len(order) + 1)])
    curve = metrics.risk_coverage(confidence, correct)
    np.testing.assert_allclose(curve.risk, np.mean(risks, axis=0), atol=1e-12)
    np.testing.assert_allclose(curve.coverage, np.arange(1, len(correct) + 1) / len(correct))
    area = metrics.aurc(confidence, correct)
    assert area == pytest.approx(np.mean(risks), abs=1e-12)
    best = min(
        np.mean(np.cumsum(~np.array(order)) / np.arange(1, len(order) + 1)) for order in itertools.permutations(correct)
    )
    assert metrics.excess_aurc(confidence, correct) == pytest.approx(area - best, abs=1e-12)


@QUICK
@given(few_confidences())
def test_areas_without_each_sample_are_those_of_the_others(case):
    confidence, correct = (np.array(values * 2) for values in case)
    for excess, area in enumerate((metrics.aurc, metrics.excess_aurc)):
        others = [area(np.delete(confidence, i), np.delete(correct, i)) for i in range(len(correct))]
        found = aurc_without_each(confidence, correct, excess=bool(excess))
        np.testing.assert_allclose(found, others, atol=1e-12)


def test_aurc_knows_only_the_order_and_is_the_error_rate_where_there_is_none(rng):
    confidence, correct = rng.random(500), rng.random(500) < 0.6
    assert metrics.aurc(confidence, correct) == metrics.aurc(confidence**3, correct)
    assert metrics.aurc(np.full(500, 0.8), correct) == pytest.approx(1 - correct.mean())
    assert metrics.excess_aurc(correct, correct) == pytest.approx(0, abs=1e-12)


tied = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-4, 4)), min_size=1, max_size=45)


@QUICK
@given(tied, tied)
def test_detection_equals_its_twin_with_ties(id_scores, ood_scores):
    result = metrics.ood_detection(id_scores, ood_scores)
    np.testing.assert_allclose(result[:5], slow_detection(id_scores, ood_scores), atol=1e-12)
    single = [
        metrics.auroc,
        metrics.fpr_ood_at_tpr_id95,
        metrics.fpr_id_at_tpr_ood95,
        metrics.aupr_in,
        metrics.aupr_out,
    ]
    assert result[:5] == tuple(function(id_scores, ood_scores) for function in single)


@QUICK
@given(tied, tied)
def test_detection_when_roles_are_swapped_and_scores_negated(id_scores, ood_scores):
    one = metrics.ood_detection(id_scores, ood_scores)
    other = metrics.ood_detection(-np.array(ood_scores), -np.array(id_scores))
    assert one.auroc == pytest.approx(other.auroc, abs=1e-12)
    assert one.fpr_ood_at_tpr_id95 == other.fpr_id_at_tpr_ood95
    assert one.aupr_in == pytest.approx(other.aupr_out, abs=1e-12)
    assert metrics.auroc(ood_scores, id_scores) == pytest.approx(1 - one.auroc, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_logit_metrics_equal_textbook_formulas(rng, dtype):
    logits, labels = make_logits(rng, n=1500, n_classes=400, dtype=dtype)  # several blocks of rows
    log_p = log_softmax(logits.astype(np.float64) / 1.3, axis=1)
    p, hot = np.exp(log_p), np.eye(400)[labels]
    n = np.arange(len(labels))
    tolerance = {"abs": 1e-6 if dtype == np.float32 else 1e-12}
    assert metrics.negative_log_likelihood(logits, labels, temperature=1.3) == pytest.approx(
        -log_p[n, labels].mean(), **tolerance
    )
    assert metrics.brier_score(logits, labels, temperature=1.3) == pytest.approx(
        ((p - hot) ** 2).sum(axis=1).mean(), **tolerance
    )
    np.testing.assert_allclose(
        brier_scores(logits, labels, temperature=1.3), ((p - hot) ** 2).sum(axis=1), atol=tolerance["abs"]
    )
    confidence, correct = metrics.confidence_and_correct(logits, labels, temperature=1.3)
    np.testing.assert_allclose(confidence, p.max(axis=1), atol=tolerance["abs"])
    np.testing.assert_array_equal(correct, logits.argmax(axis=1) == labels)
    probs = metrics.softmax(logits, temperature=1.3)
    assert probs.dtype == dtype
    np.testing.assert_allclose(probs, p, atol=tolerance["abs"])


def test_classwise_ece_equals_the_mean_of_binary_eces(rng):
    logits, labels = make_logits(rng, n_classes=4)
    logits[:100] = 0  # probability 1/4 lies on an edge of 4 and 8 bins
    p = scipy_softmax(logits, axis=1)
    for n_bins in (4, 8, 15):
        expected = np.mean([slow_ece(p[:, k], labels == k, n_bins) for k in range(4)])
        assert metrics.classwise_ece(logits, labels, n_bins=n_bins) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_bins", [1, 3, 15])
@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
def test_brier_parts_add_up(rng, n_bins, scale):
    logits, labels = make_logits(rng, scale=scale)
    parts = metrics.brier_decomposition(logits, labels, n_bins=n_bins)
    assert parts.brier == pytest.approx(metrics.brier_score(logits, labels), abs=1e-12)
    share = np.bincount(labels, minlength=7) / len(labels)
    assert parts.uncertainty == pytest.approx(np.sum(share * (1 - share)), abs=1e-12)
    assert parts.reliability >= 0 and parts.resolution >= 0 and parts.within_variance >= -1e-12


def test_reliability_equals_its_definition(rng):
    logits, labels = make_logits(rng)
    p, reliability, resolution = scipy_softmax(logits, axis=1), 0.0, 0.0
    for k in range(7):
        hit = labels == k
        for b in range(5):
            inside = (p[:, k] > b / 5) & (p[:, k] <= (b + 1) / 5)
            if inside.any():
                reliability += inside.mean() * (p[inside, k].mean() - hit[inside].mean()) ** 2
                resolution += inside.mean() * (hit[inside].mean() - hit.mean()) ** 2
    parts = metrics.brier_decomposition(logits, labels, n_bins=5)
    assert parts.reliability == pytest.approx(reliability, abs=1e-12)
    assert parts.resolution == pytest.approx(resolution, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1e-3, 0.02, 1.0, 30.0, 1e4])
def test_temperature_is_the_minimum_whatever_the_scale(rng, scale, dtype):
    logits, labels = make_logits(rng, scale=scale, dtype=dtype)
    expected = minimize_scalar(
        lambda u: -log_softmax(logits.astype(float) / np.exp(u), axis=1)[np.arange(len(labels)), labels].mean(),
        bracket=(np.log(scale) - 0.5, np.log(scale) + 0.5),
        tol=1e-10,
    )
    temperature = metrics.fit_temperature(logits, labels)
    assert temperature == pytest.approx(np.exp(expected.x), rel=1e-5)


@QUICK
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 6), st.floats(-3, 6), st.floats(-4, 4))
def test_temperature_has_zero_slope_or_says_why_there_is_none(seed, n, n_classes, skill, log_scale):
    logits, labels = make_logits(np.random.default_rng(seed), n, n_classes, skill=skill, scale=10**log_scale)
    of_label = logits[np.arange(n), labels]
    all_correct = (of_label == logits.max(axis=1)).all()
    backwards = of_label.mean() <= logits.mean()
    if all_correct or backwards:
        with pytest.raises(ClipsafeError, match=r"^no temperature fits: (all \d+ labels|over \d+ samples)"):
            metrics.fit_temperature(logits, labels)
        return
    inverse = 1 / metrics.fit_temperature(logits, labels)
    p = scipy_softmax(logits * inverse, axis=1)
    slope = ((p * logits).sum(axis=1) - of_label).mean()
    curvature = ((p * logits**2).sum(axis=1) - (p * logits).sum(axis=1) ** 2).mean()
    assert abs(slope) <= 1e-4 * curvature * inverse + 1e-12 * np.abs(logits).max()


def test_temperature_moves_confidence_but_not_decisions(rng):
    logits, labels = make_logits(rng)
    plain, scaled = (metrics.confidence_and_correct(logits, labels, temperature=t) for t in (1, 3))
    assert (scaled[0] < plain[0]).all()
    np.testing.assert_array_equal(plain[1], scaled[1])


def test_ood_scores_equal_their_formulas(rng):
    logits, _ = make_logits(rng)
    cosines = np.tanh(logits / 10)
    expected = {
        "msp": 1 - scipy_softmax(logits, axis=1).max(axis=1),
        "max_logit": -logits.max(axis=1),
        "energy": -logsumexp(logits, axis=1),
        "energy_t0.05": -0.05 * logsumexp(logits / 0.05, axis=1),
        "energy_t20": -20 * logsumexp(logits / 20, axis=1),
    }
    for method, scores in expected.items():
        np.testing.assert_allclose(metrics.ood_score(logits, method), scores, atol=1e-12, err_msg=method)
    mcm = 1 - scipy_softmax(cosines, axis=1).max(axis=1)
    np.testing.assert_allclose(metrics.ood_score(cosines, "mcm"), mcm, atol=1e-12)


def test_confident_samples_keep_their_order_in_float32():
    logits = np.array([[30, 0], [40, 0], [60, 0]], np.float32)  # softmax rounds to 1.0 for all three
    assert (np.diff(metrics.ood_score(logits, "msp")) < 0).all()


@pytest.mark.parametrize("method", ["msp", "max_logit", "energy", "energy_t0.5"])
def test_scores_rise_as_evidence_falls(method):
    logits = np.array([[8.0, 0, 0], [4.0, 0, 0], [1.0, 0, 0]])
    assert (np.diff(metrics.ood_score(logits, method)) > 0).all()


# --- independent libraries --------------------------------------------------------------------------------------------


def test_scikit_learn_agrees_on_detection(rng):
    peer = pytest.importorskip("sklearn.metrics")
    for decimals in (None, 1, 0):  # the last two force ties
        id_scores, ood_scores = rng.normal(0, 1, 700), rng.normal(1, 1.3, 300)
        if decimals is not None:
            id_scores, ood_scores = id_scores.round(decimals), ood_scores.round(decimals)
        scores, is_ood = np.concatenate([id_scores, ood_scores]), np.repeat([0, 1], [700, 300])
        fpr, tpr, _ = peer.roc_curve(is_ood, scores, drop_intermediate=False)
        fpr_in, tpr_in, _ = peer.roc_curve(1 - is_ood, -scores, drop_intermediate=False)
        expected = (
            peer.roc_auc_score(is_ood, scores),
            fpr_in[np.argmax(tpr_in >= 0.95)],
            fpr[np.argmax(tpr >= 0.95)],
            peer.average_precision_score(1 - is_ood, -scores),
            peer.average_precision_score(is_ood, scores),
        )
        np.testing.assert_allclose(metrics.ood_detection(id_scores, ood_scores)[:5], expected, atol=1e-12)


def test_scikit_learn_agrees_on_proper_scores(rng):
    peer = pytest.importorskip("sklearn.metrics")
    logits, labels = make_logits(rng)
    p = scipy_softmax(logits, axis=1)
    assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(peer.log_loss(labels, p), abs=1e-10)
    two, yes = logits[:, :2], labels % 2
    binary = peer.brier_score_loss(yes, scipy_softmax(two, axis=1)[:, 1])
    assert metrics.brier_score(two, yes) == pytest.approx(2 * binary, abs=1e-12)


def test_torchmetrics_agrees_on_ece_away_from_edges_and_one(rng):
    """torchmetrics 1.9.0 closes bins on the left and gives exactly 1.0 a bin of its own, so neither may occur here."""
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels = make_logits(rng, n=2000)
    confidence, correct = metrics.confidence_and_correct(logits, labels)
    assert confidence.max() < 1 and np.abs(confidence * 15 - np.round(confidence * 15)).min() > 1e-6
    probs = torch.from_numpy(metrics.softmax(logits))
    for n_bins in (10, 15):
        expected = peer.multiclass_calibration_error(probs, torch.from_numpy(labels), num_classes=7, n_bins=n_bins)
        ece = metrics.expected_calibration_error(confidence, correct, n_bins=n_bins)
        assert ece == pytest.approx(expected.item(), abs=1e-6)


# --- real results -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def imagenet_x():
    found = importlib.util.find_spec("imagenet_x")  # importing the package would pull in its plotting
    if found is None:
        pytest.skip("imagenet-x is not installed")
    return Path(found.origin).parent / "annotations"


def predictions_of(model, published_dir, imagenet_x):
    labels = pd.read_csv(imagenet_x / "filename_label.csv", index_col="file_name").label
    frame = pd.read_csv(published_dir / f"imagenet_x/predictions/{model}.csv", index_col="file_name")
    return frame.assign(correct=frame.predicted_class == labels.reindex(frame.index))


def test_ece_of_the_published_resnet50(published_dir, imagenet_x):
    frame = predictions_of("ResNet50", published_dir, imagenet_x)
    assert frame.correct.mean() == pytest.approx(0.76130, abs=1e-9)
    assert metrics.expected_calibration_error(frame.predicted_probability, frame.correct) == pytest.approx(
        0.0373, abs=5e-5
    )


@pytest.mark.parametrize(
    ("model", "pose", "texture", "overall"),
    [("ResNet50", 0.694739, 2.393863, 0.746693), ("DINO", 0.726197, 2.150316, 0.754283)],
)
def test_error_ratios_of_imagenet_x(published_dir, imagenet_x, model, pose, texture, overall):
    annotations = pd.read_json(imagenet_x / "imagenet_x_val_top_factor.jsonl", lines=True).set_index("file_name")
    prototypes = pd.read_csv(imagenet_x / "prototypical_paths.csv").file_name
    annotations = annotations.drop(prototypes, errors="ignore")[["pose", "texture"]]
    predictions = predictions_of(model, published_dir, imagenet_x).loc[annotations.index]
    result = metrics.factor_accuracy(predictions, annotations)
    assert result.n_images == 46_110
    assert result.overall == pytest.approx(overall, abs=1e-6)
    np.testing.assert_allclose(metrics.error_ratio(result.accuracy, result.overall), [pose, texture], atol=1e-6)


def trials_of(path):
    trials = pd.read_csv(path)
    cues = trials.imagename.str.extract(r"_([a-z]+)\d+-([a-z]+)\d+\.png$")
    return {"decision": trials.object_response, "shape": cues[0], "texture": cues[1]}


def test_shape_bias_of_published_trials(published_dir):
    bias = {name: metrics.shape_bias(trials_of(published_dir / f"cue_conflict/cnns/{name}.csv")) for name in
            ("resnet50", "alexnet", "vgg16")}  # fmt: skip
    assert (bias["resnet50"].n_shape, bias["resnet50"].n_texture, bias["resnet50"].n) == (162, 572, 1200)
    assert [bias[name].value for name in bias] == pytest.approx([0.2207, 0.2531, 0.0921], abs=1e-4)
    humans = [metrics.shape_bias(trials_of(path)) for path in (published_dir / "cue_conflict/humans").glob("*.csv")]
    assert len(humans) == 10
    assert np.mean([human.value for human in humans]) == pytest.approx(0.9576, abs=1e-4)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_logit_metrics_copy_only_blocks_of_their_input(rng):
    logits, labels = make_logits(rng, n=20_000, n_classes=500, dtype=np.float32)
    tracemalloc.start()
    try:
        metrics.negative_log_likelihood(logits, labels)
        metrics.brier_score(logits, labels)
        metrics.fit_temperature(logits, labels)
        metrics.expected_calibration_error(*metrics.confidence_and_correct(logits, labels))
        metrics.classwise_ece(logits, labels)
        assert tracemalloc.get_traced_memory()[1] < logits.nbytes / 2
    finally:
        tracemalloc.stop()


# --- one table of properties, every public metric in it ---------------------------------------------------------------


class Listed(NamedTuple):
    inputs: str
    """Which of `inputs()` the metric takes."""
    low: float
    high: float
    keeps: tuple = ()
    """Transformations of the input that leave the result as it is."""
    rows: bool = False
    """One result per sample: permuting the samples permutes the result."""
    options: tuple = ()
    """Further positional arguments."""


LOGITS = ("order", "shift", "classes", "repeat")
SCORES = ("order", "increasing", "repeat")
TABLE = {
    "softmax": Listed("logits", 0, 1, ("shift",), rows=True),
    "confidence_and_correct": Listed("labelled", 0, 1, ("shift", "classes"), rows=True),
    "expected_calibration_error": Listed("confidence", 0, 1, ("order", "repeat")),
    "equal_mass_ece": Listed("confidence", 0, 1, ("order", "repeat")),
    "reliability_curve": Listed("confidence", 0, np.inf, ("order",)),
    "risk_coverage": Listed("confidence", 0, 1, ("order",)),
    "aurc": Listed("confidence", 0, 1, ("order",)),
    "excess_aurc": Listed("confidence", 0, 1, ("order",)),
    "classwise_ece": Listed("labelled", 0, 1, LOGITS),
    "negative_log_likelihood": Listed("labelled", 0, np.inf, LOGITS),
    "brier_score": Listed("labelled", 0, 2, LOGITS),
    "brier_decomposition": Listed("labelled", -2, 2, LOGITS),
    "fit_temperature": Listed("labelled", 0, np.inf, LOGITS),
    "ood_score": Listed("logits", 0, 1, ("shift",), rows=True, options=("msp",)),
    "negative_label_score": Listed("negatives", 0, 1, (), rows=True),
    "auroc": Listed("scores", 0, 1, SCORES),
    "fpr_ood_at_tpr_id95": Listed("scores", 0, 1, SCORES),
    "fpr_id_at_tpr_ood95": Listed("scores", 0, 1, SCORES),
    "aupr_in": Listed("scores", 0, 1, SCORES),
    "aupr_out": Listed("scores", 0, 1, SCORES),
    "ood_detection": Listed("scores", 0, np.inf, ("order", "increasing")),
    "factor_accuracy": Listed("factors", 0, np.inf, ("order",)),
    "error_ratio": Listed("accuracies", 0, np.inf, (), rows=True),
    "sixteen_class_decisions": Listed("probabilities", 0, 15, (), rows=True),
    "shape_bias": Listed("decisions", 0, np.inf, ("order",)),
}


def inputs(kind, rng):
    logits, labels = make_logits(rng)
    categories = np.array(list(metrics.SIXTEEN_CLASSES))
    return {
        "logits": lambda: (logits,),
        "labelled": lambda: (logits, labels),
        "negatives": lambda: (logits, rng.normal(size=(300, 4))),
        "confidence": lambda: (rng.beta(5, 2, 300).round(2), rng.random(300) < 0.7),
        "scores": lambda: (rng.normal(0, 1, 300).round(1), rng.normal(1, 1, 200).round(1)),
        "factors": lambda: (rng.random(300) < 0.7, {"pose": rng.random(300) < 0.5, "color": rng.random(300) < 0.1}),
        "accuracies": lambda: (rng.random(300), rng.random(300)),
        "probabilities": lambda: (rng.dirichlet(np.full(1000, 0.01), 50),),
        "decisions": lambda: ({name: rng.choice(categories[:4], 300) for name in ("decision", "shape", "texture")},),
    }[kind]()


def take(value, index):
    if isinstance(value, dict):
        return {name: column[index] for name, column in value.items()}
    return value[index]


def length(value):
    return len(next(iter(value.values()))) if isinstance(value, dict) else len(value)


def transformed(how, arguments, rng):
    if how == "order":
        if len(arguments) == 2 and length(arguments[0]) != length(arguments[1]):
            return tuple(rng.permutation(argument) for argument in arguments)
        index = rng.permutation(length(arguments[0]))
        return tuple(take(argument, index) for argument in arguments)
    if how == "repeat":
        return tuple(np.concatenate([argument, argument]) for argument in arguments)
    if how == "increasing":
        return tuple(np.exp(argument) - 3 for argument in arguments)
    logits, *labels = arguments
    if how == "shift":
        return logits + rng.normal(size=(len(logits), 1)), *labels
    columns = rng.permutation(logits.shape[1])
    return logits[:, columns], *(np.argsort(columns)[given] for given in labels)


def flat(result):
    """All numbers of a result in one array; names of categories become their position."""
    if isinstance(result, np.ndarray) and result.dtype.kind == "U":
        return np.searchsorted(list(metrics.SIXTEEN_CLASSES), result).astype(float)
    if isinstance(result, tuple):
        return np.concatenate([flat(part) for part in result])
    return np.ravel(np.asarray([] if isinstance(result, str) else result, dtype=float))


def test_every_public_metric_is_in_the_table():
    public = {name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))}
    assert public == set(TABLE) | {"fit_ood_score", "is_fitted", "mine_negatives"}, "these: tests/test_ood_scores.py"
    assert all(hasattr(metrics, name) for name in metrics.__all__)


@pytest.mark.parametrize("name", TABLE)
def test_range_and_invariances(name, rng):
    listed, function = TABLE[name], getattr(metrics, name)
    arguments = inputs(listed.inputs, rng)
    result = function(*arguments, *listed.options)
    numbers = flat(result)
    assert np.all((numbers >= listed.low) & (numbers <= listed.high) | np.isnan(numbers))
    assert np.isfinite(numbers).any()
    np.testing.assert_array_equal(flat(function(*arguments, *listed.options)), numbers)
    for how in listed.keeps:
        again = function(*transformed(how, arguments, rng), *listed.options)
        np.testing.assert_allclose(flat(again), numbers, rtol=1e-6, atol=1e-9, err_msg=f"{name} under {how}")
    if listed.rows:
        index = rng.permutation(length(arguments[0]))
        permuted = function(*(take(argument, index) for argument in arguments), *listed.options)
        parts, again = (part if isinstance(part, tuple) else (part,) for part in (result, permuted))
        for part, other in zip(parts, again, strict=True):
            np.testing.assert_allclose(flat(other), flat(part[index]), rtol=1e-12)


@pytest.mark.parametrize("name", TABLE)
def test_inputs_are_left_as_they_were(name, rng):
    listed = TABLE[name]
    arguments = inputs(listed.inputs, rng)
    before = [flat(tuple(a.values())) if isinstance(a, dict) else a.copy() for a in arguments]
    getattr(metrics, name)(*arguments, *listed.options)
    for argument, copy in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(flat(tuple(argument.values())) if isinstance(argument, dict) else argument, copy)


@pytest.mark.parametrize("name", [name for name, listed in TABLE.items() if listed.inputs != "accuracies"])
def test_empty_input_is_refused(name, rng):
    listed = TABLE[name]
    nothing = tuple(take(argument, slice(0)) for argument in inputs(listed.inputs, rng))
    with pytest.raises(ClipsafeError) as caught:
        getattr(metrics, name)(*nothing, *listed.options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [n for n, listed in TABLE.items() if listed.inputs not in ("factors", "decisions")])
def test_nan_and_infinity_are_refused(name, bad, rng):
    listed = TABLE[name]
    first, *others = inputs(listed.inputs, rng)
    first = first.copy()
    first[(37, 3)[: first.ndim]] = bad
    if listed.inputs == "accuracies" and np.isnan(bad):  # a factor without images stays NaN
        assert np.isnan(metrics.error_ratio(first, *others)[37])
        return
    with pytest.raises(ClipsafeError, match=str(bad)) as caught:
        getattr(metrics, name)(first, *others, *listed.options)
    assert "\n" not in str(caught.value) and ("37" in str(caught.value) or listed.inputs == "accuracies")


@pytest.mark.parametrize("name", [n for n, x in TABLE.items() if x.inputs == "labelled" and n != "fit_temperature"])
def test_one_sample_and_one_class(name):
    function = getattr(metrics, name)
    assert np.isfinite(flat(function(np.array([[2.0, 0.0]]), np.array([1])))).all()
    alone = flat(function(np.array([[2.0]]), np.array([0])))
    assert np.isin(alone, [0, 1]).all()


def test_one_label_only(rng):
    logits = rng.normal(size=(50, 3))
    labels = np.zeros(50, int)
    assert metrics.brier_decomposition(logits, labels).uncertainty == 0
    assert metrics.fit_temperature(logits + np.array([1, 0, 0]), labels) > 0


# --- messages ---------------------------------------------------------------------------------------------------------

TWO = np.array([[1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.expected_calibration_error([0.5, 14.2], [1, 0]),
            "confidence must lie in [0, 1]; got 14.2 at sample 1. "
            "Did you pass logits? Use confidence_and_correct(logits, labels).",
        ),
        (
            lambda: metrics.expected_calibration_error([0.5, 0.6], [1]),
            "correct must have shape (2,) like confidence; got (1,).",
        ),
        (
            lambda: metrics.expected_calibration_error([0.5], [3]),
            "correct must be True or False; got 3 at sample 0.",
        ),
        (
            lambda: metrics.expected_calibration_error([0.5], [1], n_bins=0),
            "n_bins must be a whole number of at least 1; got 0.",
        ),
        (
            lambda: metrics.reliability_curve([0.5], [1], binning="masss"),
            'binning must be "width" or "mass"; got \'masss\'.',
        ),
        (
            lambda: metrics.reliability_curve([0.5], [1], level=95),
            "level must be a fraction in (0, 1), for instance 0.95; got 95.",
        ),
        (
            lambda: metrics.brier_score(TWO, [0, -1]),
            "labels must lie in 0..1; got -1 at sample 1. "
            "Leave out images without a label, and reduce the logits to the classes of the image set.",
        ),
        (
            lambda: metrics.brier_score(TWO, [0.0, 1.0]),
            "labels must be integers (columns of the logits); got float64.",
        ),
        (
            lambda: metrics.brier_score(TWO, [0]),
            "labels must have shape (2,), one for each row of logits; got (1,).",
        ),
        (
            lambda: metrics.negative_log_likelihood([1.0], [0]),
            "logits must have shape (n_samples, n_classes), both at least 1; got (1,).",
        ),
        (
            lambda: metrics.negative_log_likelihood(TWO, [0, 1], temperature=0),
            "temperature must be positive and finite; got 0.",
        ),
        (
            lambda: metrics.negative_log_likelihood(np.array([[0, 1], [np.inf, 0]], np.float16), [0, 1]),
            "logits must be finite; got inf at sample 1, class 0. Half-precision overflow? Run that model in float32.",
        ),
        (
            lambda: metrics.fit_temperature(TWO, [0, 1]),
            "no temperature fits: all 2 labels have the largest logit, so NLL falls until T = 0. "
            "Fit on more samples, some of them misclassified.",
        ),
        (
            lambda: metrics.fit_temperature(TWO, [1, 0]),
            "no temperature fits: over 2 samples the labels' logits are no larger than the mean logit, so NLL falls "
            "until T is infinite. Are labels and columns in the same class order?",
        ),
        (
            lambda: metrics.ood_score(TWO, "mps"),
            "unknown OOD score 'mps'; did you mean 'msp'? valid: energy, energy_t<temperature>, gen, max_logit, mcm, "
            "msp.",
        ),
        (lambda: metrics.ood_score(TWO, "energy_t0"), "temperature must be positive and finite; got 0.0."),
        (
            lambda: metrics.ood_score(20 * TWO, "mcm"),
            "mcm takes cosines in [-1, 1]; got 20.0 at sample 0, class 0. Divide the logits by the model's scale.",
        ),
        (
            lambda: metrics.auroc(np.zeros(5), []),
            "detection needs ID and OOD samples, one score each; got (5,) ID and (0,) OOD scores. "
            "Check is_ood of the sets.",
        ),
        (
            lambda: metrics.auroc([0.0, np.nan], [1.0]),
            "id_scores must be finite; got nan at sample 1. Check its logits.",
        ),
        (
            lambda: metrics.factor_accuracy([1, 0], np.ones((2, 1))),
            "annotations name no factor; give a frame or mapping with one bool column for each factor.",
        ),
        (
            lambda: metrics.factor_accuracy([1, 0], {"pose": [1, 0, 1]}),
            "annotations['pose'] must have shape (2,) like predictions; got (3,).",
        ),
        (
            lambda: metrics.factor_accuracy([1, 0], {"pose": [1, 2]}),
            "annotations['pose'] must be True or False; got 2 at image 1.",
        ),
        (
            lambda: metrics.factor_accuracy(pd.Series([1, 0], ["a", "b"]), pd.DataFrame({"pose": [1, 0]}, ["b", "a"])),
            "predictions and annotations have different indexes; join them on the image name first.",
        ),
        (
            lambda: metrics.factor_accuracy(pd.DataFrame({"right": [1]}), {"pose": [1]}),
            "predictions lack the column 'correct'; theirs are ['right'].",
        ),
        (
            lambda: metrics.error_ratio(76.1, 80.0),
            "factor_accuracy must be a fraction in [0, 1]; got 76.1. Divide percent by 100.",
        ),
        (
            lambda: metrics.sixteen_class_decisions(TWO),
            "probabilities must have shape (n_images, 1000), ImageNet-1k; got (2, 2).",
        ),
        (
            lambda: metrics.sixteen_class_decisions(np.full((1, 1000), 7.5)),
            "probabilities must lie in [0, 1]; got 7.5 at image 0. Did you pass logits? Use softmax(logits).",
        ),
        (
            lambda: metrics.shape_bias({"shape": ["cat"], "texture": ["dog"]}),
            "decisions lack ['decision']; needed are the columns ['decision', 'shape', 'texture'], one row an image.",
        ),
        (
            lambda: metrics.shape_bias({"decision": ["cat"], "shape": ["cat"], "texture": ["cat"]}),
            "none of 1 images has conflicting cues; shape bias needs shape != texture.",
        ),
    ],
)
def test_messages_name_cause_value_and_remedy(call, message):
    with pytest.raises(ClipsafeError) as caught:
        call()
    assert str(caught.value) == message
