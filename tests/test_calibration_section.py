"""The calibration section on simulated models: what is fitted, on which images it is judged, and planted truths."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import log_softmax, softmax

from clipsafe_utils import sections
from clipsafe_utils.intervals import aurc_interval, ece_interval
from clipsafe_utils.metrics import (
    aurc,
    classwise_ece,
    equal_mass_ece,
    excess_aurc,
    expected_calibration_error,
    fit_temperature,
)
from clipsafe_utils.statistics import split_mask
from clipsafe_utils.table import tidy

FACTORS = ["pose", "color", "texture"]
SIZES = {"id": 1200, "shifted": 800, "factors": 1500, "strange": 300}
TOO_SHARP = {"id": 2.0, "shifted": 4.0, "factors": 2.0, "strange": 2.0}
"""What calibrated logits are multiplied by, so that the best temperature is known."""


class Simulated:
    """What the sections ask a study for; labels are drawn from the calibrated probabilities of each model."""

    is_published, id_space = False, None

    def __init__(self, n_classes=6, **groups):
        ids = [f"{group}-{k}" for group, n in groups.items() for k in range(n)]
        self.models = pd.DataFrame({"group": [one.partition("-")[0] for one in ids]}, index=pd.Index(ids, name="id"))
        self.missing, self.seen = {}, []
        self.parameters = SimpleNamespace(
            **{"id_set": "id", "shifted_sets": ["shifted"], "ood_sets": ["strange"], "factor_set": "factors"},
            **{"factors": FACTORS, "factor_annotation": "top", "baseline_group": "standard"},
            **{"calibration_fraction": 0.5, "seed": 0, "n_bins": 15, "ci_level": 0.95},
        )
        self.logits, self.images = {}, {}
        for at, name in enumerate(SIZES):
            rng = np.random.default_rng(at)
            top = rng.choice([*FACTORS, "none"], SIZES[name], p=(0.2, 0.2, 0.02, 0.58))
            flags = {factor: top == factor for factor in FACTORS}
            scale = 1 + rng.random((SIZES[name], 1))
            base = scale * rng.normal(size=(SIZES[name], n_classes))
            labels = np.array([rng.choice(n_classes, p=p) for p in softmax(base, axis=1)])
            if name == "factors":  # nothing can be known of these images
                labels = np.where(flags["color"], rng.integers(n_classes, size=len(labels)), labels)
            self.images[name] = pd.DataFrame({"label": labels, **flags})
            for model in ids:
                own = base + np.random.default_rng([at, ids.index(model)]).normal(0, 0.05, base.shape)
                self.logits[model, name] = (TOO_SHARP[name] * own).astype(np.float32)

    def named(self, *names):
        return [name for name in names if name in self.images]

    def evaluate(self, *names):
        return list(self.models.index)

    def protocol(self, model, prompts=None):
        return "head"

    def unit(self, model, name):
        return SimpleNamespace(images=self.images[name], labels=self.images[name]["label"].to_numpy())

    def ask(self, question, model, name, *, prompts=None, space=None, **arguments):
        self.seen.append((question.__name__, model, name))
        return question(self.logits[model, name], self.images[name]["label"].to_numpy(), **arguments)

    def table(self, rows):
        return tidy([{"suite": "simulated"} | row for row in rows])

    def halves(self, model, name):
        """(logits, labels) that a temperature is fitted on, and those that it is judged on."""
        labels = self.images[name]["label"].to_numpy()
        fit = split_mask(labels, 0.5, seed=0)
        return [(self.logits[model, name][part], labels[part]) for part in (fit, ~fit)]


@pytest.fixture(scope="module")
def study():
    return Simulated(zero_shot_clip=4, standard=5, contrastive=1)


@pytest.fixture(scope="module")
def calibration(study):
    return sections.calibration(study)


def value(rows, **where):
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1, f"{len(rows)} rows of {where}"
    return rows.iloc[0]


def test_every_error_is_that_of_the_held_out_images(study, calibration):
    fit, (logits, labels) = study.halves("standard-1", "id")
    temperature = fit_temperature(*fit)
    assert temperature == pytest.approx(2, rel=0.1), "the truth"
    for suffix, t in (("", 1), ("_scaled", temperature)):
        probs = softmax(logits.astype(float) / t, axis=1)
        own = probs.max(axis=1), probs.argmax(axis=1) == labels
        expected = {
            "ece": expected_calibration_error(*own),
            "ece_equal_mass": equal_mass_ece(*own),
            "ece_classwise": classwise_ece(logits, labels, temperature=t),
            "nll": -np.log(probs[np.arange(len(labels)), labels]).mean(),
            "mean_confidence": own[0].mean(),
            "aurc": aurc(*own),
            "excess_aurc": excess_aurc(*own),
        }
        for metric, number in expected.items():
            found = value(calibration, model="standard-1", test_set="id", metric=metric + suffix)
            assert (found.value, found.n) == (pytest.approx(number, abs=1e-5), len(labels)), metric + suffix
    ece = calibration[calibration["test_set"] == "id"].pivot_table(index="model", columns="metric", values="value")
    assert (ece["ece_scaled"] < ece["ece"] / 2).all() and (ece["overconfidence"] > 0.1).all()


def test_every_error_but_the_classwise_has_an_interval_over_images(study, calibration):
    without = calibration[calibration["ci_low"].isna()]
    assert set(without["metric"]) == {"temperature", "ece_classwise", "ece_classwise_scaled"}
    logits, labels = study.halves("standard-1", "id")[1]
    probs = softmax(logits.astype(float), axis=1)
    own = probs.max(axis=1), probs.argmax(axis=1) == labels
    brier = np.sum((probs - np.eye(6)[labels]) ** 2, axis=1)
    expected = {
        "ece_equal_mass": ece_interval(*own, binning="mass")[1:3],
        "brier": stats.t.interval(0.95, len(labels) - 1, brier.mean(), stats.sem(brier)),
        "aurc": aurc_interval(*own)[1:3],
        "excess_aurc": aurc_interval(*own, excess=True)[1:3],
    }
    for metric, limits in expected.items():
        found = value(calibration, model="standard-1", test_set="id", metric=metric)
        assert (found.ci_low, found.ci_high) == pytest.approx(limits, abs=1e-5) and found.ci_low < found.value, metric


def test_the_outputs_of_a_model_on_a_set_are_looked_at_once(study):
    study.seen.clear()
    sections.calibration(study)
    assert len(study.seen) == len(set(study.seen)) == 3 * len(study.models)


def test_temperatures_travel_from_one_half_to_the_other_half_of_another_set(study):
    transfer = sections.temperature_transfer(study)
    assert len(transfer) == len(study.models) * 2 * 2 * 2
    for source in ("id", "shifted"):
        temperature = fit_temperature(*study.halves("standard-0", source)[0])
        assert temperature == pytest.approx(TOO_SHARP[source], rel=0.1)
        for name in ("id", "shifted"):
            logits, labels = study.halves("standard-0", name)[1]
            log_p = log_softmax(logits.astype(float) / temperature, axis=1)
            own = np.exp(log_p).max(axis=1), log_p.argmax(axis=1) == labels
            where = {"model": "standard-0", "test_set": name, "protocol": f"head, temperature of {source}"}
            ece, nll = (value(transfer, metric=metric, **where) for metric in ("ece_scaled", "nll_scaled"))
            assert ece.value == pytest.approx(expected_calibration_error(*own), abs=1e-5) and ece.n == len(labels)
            assert nll.value == pytest.approx(-log_p[np.arange(len(labels)), labels].mean(), abs=1e-5)
    gains = sections.own_temperature_gains(study, transfer)
    assert set(gains["test_set"]) == {"shifted"} and (gains["value"] > 0).all(), "it is sharper by a factor of two"
    one = transfer[transfer["model"].eq("standard-0") & transfer["test_set"].eq("shifted")]
    ece = one[one["metric"] == "ece_scaled"].set_index("protocol")["value"]
    gain = value(gains, model="standard-0", metric="ece_gain").value
    assert gain == pytest.approx(ece["head, temperature of id"] - ece["head, temperature of shifted"])
    means = sections.transfer_means(study, transfer)
    cell = value(means, metric="ece_scaled", test_set="shifted", protocol="temperature of id")
    own = transfer[transfer["test_set"].eq("shifted") & transfer["metric"].eq("ece_scaled")]
    own = own.loc[own["protocol"] == "head, temperature of id", "value"]
    assert (cell.value, cell.n) == (pytest.approx(own.mean()), len(study.models))


def test_one_set_alone_has_nowhere_to_carry_a_temperature(study):
    alone = Simulated(standard=1)
    alone.parameters.shifted_sets = []
    empty = sections.temperature_transfer(alone)
    assert empty.empty and alone.missing["transfer of temperatures"].startswith("a temperature is carried from one")
    assert sections.transfer_means(alone, empty).empty and sections.own_temperature_gains(alone, empty).empty


def test_more_images_make_a_better_temperature(study):
    sizes = sections.temperature_sizes(study)
    means = sizes.groupby("test_set")["value"].mean()
    assert set(means.index) == {f"id/{n} images" for n in (0, 50, 100, 200, 500)}
    assert means["id/0 images"] > means["id/50 images"] > means["id/200 images"] > means["id/500 images"]
    fit, (logits, labels) = study.halves("standard-0", "id")
    at = np.arange(len(labels)), labels
    plain, whole = (-log_softmax(logits / t, axis=1)[at].mean() for t in (1, fit_temperature(*fit)))
    found = value(sizes, model="standard-0", test_set="id/0 images")
    assert (found.value, found.n) == (pytest.approx(plain - whole, abs=1e-5), len(labels))
    pd.testing.assert_frame_equal(sections.temperature_sizes(study), sizes)


def test_a_temperature_of_few_images_is_compared_with_none(study):
    sizes = sections.temperature_sizes(study)
    wide = sizes.pivot_table(index="model", columns="test_set", values="value")
    effects = sections.size_effects(study, sizes)
    assert set(effects["metric"]) == {"nll_change"} and len(effects) == len(sizes) - len(wide)
    own = effects[effects["test_set"] == "id/50 images"].set_index("model")["value"]
    pd.testing.assert_series_equal(own, wide["id/50 images"] - wide["id/0 images"], check_names=False)
    assert sections.size_effects(study, sizes.iloc[:0]).empty


def test_subsets_without_a_temperature_are_counted_and_left_out():
    study = Simulated(standard=1)
    right = study.logits["standard-0", "id"].argmax(axis=1)
    study.images["id"]["label"] = np.where(np.arange(len(right)) % 100 == 0, (right + 1) % 6, right)
    sizes = sections.temperature_sizes(study)
    assert np.isfinite(sizes["value"]).all()
    assert "of the subsets have none" in study.missing["temperatures of some small samples"]


def test_confidence_on_strange_images_needs_no_labels(study):
    found = sections.ood_confidence(study)
    temperature = fit_temperature(*study.halves("standard-0", "id")[0])
    for suffix, t in (("", 1), ("_scaled", temperature)):
        expected = softmax(study.logits["standard-0", "strange"] / t, axis=1).max(axis=1).mean()
        one = value(found, model="standard-0", metric=f"mean_confidence{suffix}")
        assert (one.value, one.n, one.test_set) == (pytest.approx(expected, abs=1e-6), SIZES["strange"], "strange")


def test_a_factor_that_nothing_is_known_of_is_found_and_no_other(study):
    rows = sections.factor_calibration(study)
    shown = {factor: int(study.images["factors"][factor].sum()) for factor in FACTORS}
    assert rows.groupby("test_set")["n"].first().to_dict() == {f"factors/{f}": n for f, n in shown.items()}
    means = sections.means_by_group(study, rows[rows["metric"] != "ece"], same_images=True)
    means = means[means["model"] == "Standard"].set_index(["metric", "test_set"])
    for metric in ("overconfidence_scaled", "ece_excess_scaled"):
        assert means.loc[(metric, "factors/color"), "ci_low"] > 0.1
        assert means.loc[(metric, "factors/pose"), "ci_low"] < 0
        width = means.loc[metric, "ci_high"] - means.loc[metric, "ci_low"]
        assert width["factors/texture"] > 2 * width["factors/pose"], "few images show it"
    assert means.loc[("overconfidence_scaled", "factors/pose"), "ci_high"] > 0


def test_excess_is_over_equally_many_random_images(study):
    from clipsafe_utils.sections.confidence import DRAWS, _draws, _eces

    rng = np.random.default_rng(0)
    confidence, correct, draws = rng.random(400), rng.random(400) < 0.6, _draws(400, 70, 3)
    assert draws.shape == (DRAWS, 70) and all(len(set(draw)) == 70 for draw in draws)
    expected = [expected_calibration_error(confidence[draw], correct[draw], n_bins=7) for draw in draws]
    np.testing.assert_allclose(_eces(confidence, correct, draws, 7), expected, atol=1e-12)


def test_means_are_students_over_models_and_a_lone_model_keeps_its_own(study, calibration):
    rows = calibration[calibration["metric"] == "overconfidence"]
    means = sections.means_by_group(study, rows)
    own = rows[rows["model"].str.startswith("standard") & rows["test_set"].eq("id")]
    found = value(means, model="Standard", test_set="id")
    expected = stats.t.interval(0.95, 4, own["value"].mean(), stats.sem(own["value"]))
    assert (found.ci_low, found.ci_high) == pytest.approx(expected) and (found.n, found.ci_kind[:7]) == (5, "student")
    alone, lone = value(means, model="Contrastive", test_set="id"), value(rows, model="contrastive-0", test_set="id")
    columns = ["value", "ci_low", "ci_high", "ci_kind"]
    assert (alone[columns] == lone[columns]).all() and alone.n == 1
    wider = value(sections.means_by_group(study, rows, same_images=True), model="Standard", test_set="id")
    half = (own["value"] - own["ci_low"]).mean()
    assert wider.value - wider.ci_low == pytest.approx(np.hypot(found.value - found.ci_low, half))


def test_change_is_scaled_minus_plain(study, calibration):
    changes = sections.scaling_effects(study, calibration)
    wide = calibration[calibration["test_set"] == "id"].pivot_table(index="model", columns="metric", values="value")
    for metric in ("ece", "excess_aurc"):
        found = changes[changes["metric"].eq(f"{metric}_change") & changes["test_set"].eq("id")]
        found = found.set_index("model")["value"]
        expected = wide[f"{metric}_scaled"] - wide[metric]
        pd.testing.assert_series_equal(found, expected, check_names=False)


def test_risk_at_full_coverage_is_the_error_rate(study):
    risks = sections.risk_coverage_means(study, ["id"])
    errors = []
    for model in study.models.index[study.models["group"] == "standard"]:
        logits, labels = study.halves(model, "id")[1]
        errors.append(np.mean(logits.argmax(axis=1) != labels))
    found = value(risks, model="Standard", protocol="coverage 1.00")
    assert (found.value, found.n) == (pytest.approx(np.mean(errors)), 5)
    curve = risks[risks["model"] == "Standard"].sort_values("protocol")["value"].to_numpy()
    assert curve[0] < curve[-1] and set(risks["test_set"]) == {"id"}


def test_the_representative_is_the_median_model(study, calibration):
    shown = sections.reliability_by_group(study, calibration)
    assert sections.hardest_set(study, calibration) == "shifted"
    ece = calibration[calibration["metric"].eq("ece") & calibration["test_set"].eq("id")].set_index("model")["value"]
    middle = ece[ece.index.str.startswith("standard")].sort_values().index[2]
    own = [one for one in shown if one.model.startswith("standard")]
    assert [(one.model, one.test_set) for one in own] == [(middle, "id"), (middle, "shifted")]
    assert own[0].curves["as it comes"].count.sum() == len(study.halves(middle, "id")[1][1])
    assert list(own[0].curves)[1].startswith("T = ")


def test_trend_finds_what_equal_accuracy_leaves(study):
    """Standard models lie on a line; zero-shot ones 0.1 above it, and one of them is better than any standard model."""
    rng, found = np.random.default_rng(1), []
    study = Simulated(zero_shot_clip=9, standard=9)
    for model, group in study.models["group"].items():
        x = rng.uniform(0.4, 0.8) if model != "zero_shot_clip-0" else 0.95
        y = 0.3 - 0.2 * x + rng.normal(0, 0.002) + 0.1 * (group == "zero_shot_clip")
        for metric, number in {"ece_scaled": y, "overconfidence": 0.9 - x, "mean_confidence": 0.9}.items():
            found.append({"model": model, "test_set": "id", "protocol": "p", "metric": metric, "value": number, "n": 9})
    rows, lines, means = sections.accuracy_trend(study, study.table(found))
    assert set(lines) == {("zero_shot_clip", "id"), ("standard", "id")}
    assert lines["standard", "id"].slope == pytest.approx(-0.2, abs=0.02)
    beyond = value(means, model="Zero-shot CLIP")
    assert beyond.value == pytest.approx(0.1, abs=0.01) and beyond.ci_low < 0.1 < beyond.ci_high and beyond.n < 9
    assert len(rows) == 36 and set(rows["metric"]) == {"accuracy", "ece_scaled"}
