"""OOD scores against independent implementations, the features they need, and what the section says of them."""

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from scipy import stats
from scipy.special import logsumexp, ndtr, softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from tiny import classifier_spec, noise_images
from torch import nn

from clipsafe_utils import plots, sections, statistics
from clipsafe_utils.datasets import LabelSpace, imagenet_space
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.inference import evaluate, unit_identity
from clipsafe_utils.lab.image_sets import SPACE
from clipsafe_utils.lab.world import BENCHMARK_NAMES, CLASS_NAMES, CLASSES
from clipsafe_utils.metrics import (
    fit_ood_score,
    is_fitted,
    mine_negatives,
    negative_label_score,
    ood_detection,
    ood_score,
)
from clipsafe_utils.metrics.ood_features import principal_dimensions
from clipsafe_utils.models import load_model
from clipsafe_utils.params import load_parameters
from clipsafe_utils.prompts import class_names, negative_words
from clipsafe_utils.store import Store
from clipsafe_utils.study import Study
from clipsafe_utils.table import tidy

LOGIT_SCORES = ("msp", "max_logit", "energy", "gen")
FITTED = ("knn", "mahalanobis", "rmd", "vim")
WIDTH, N_CLASSES = 12, 5


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(rng):
    """Bank, its labels, two samples and a linear head: features whose classes lie apart, in skewed directions."""
    skew = rng.normal(size=(WIDTH, WIDTH))
    centres = 2 * rng.normal(size=(N_CLASSES, WIDTH))

    def draw(n, far=0.0):
        labels = rng.integers(N_CLASSES, size=n)
        return (centres[labels] + rng.normal(size=(n, WIDTH)) @ skew + far).astype(np.float32), labels

    weights, bias = rng.normal(size=(N_CLASSES, WIDTH)).astype(np.float32), rng.normal(size=N_CLASSES)
    (bank, labels), (inside, _), (outside, _) = draw(200), draw(60), draw(50, far=6)
    return {"bank": bank, "labels": labels, "inside": inside, "outside": outside, "weights": weights, "bias": bias}


def logits_of(data, features):
    return features @ data["weights"].T + data["bias"] + 20  # ViM needs a largest logit above 0


def fitted(data, method):
    head = {"weights": data["weights"], "bias": data["bias"] + 20}
    return fit_ood_score(method, data["bank"], labels=data["labels"], logits=logits_of(data, data["bank"]), **head)


def scored(data, method, which="outside"):
    return fitted(data, method)(data[which], logits_of(data, data[which]))


# -- independent implementations ---------------------------------------------------------------------------------------


def by_scikit_learn(data, method):
    """The scores as their authors' code has them, from scikit-learn's parts."""
    bank, test, labels = (data[name].astype(np.float64) for name in ("bank", "outside", "labels"))
    if method == "knn":
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, test)]
        return NearestNeighbors(n_neighbors=10).fit(unit[0]).kneighbors(unit[1])[0][:, -1]
    if method in ("mahalanobis", "rmd"):
        means = {label: bank[labels == label].mean(axis=0) for label in np.unique(labels)}
        centred = bank - np.array([means[label] for label in labels])
        within = EmpiricalCovariance(assume_centered=True).fit(centred)
        nearest = np.min([within.mahalanobis(test - mean) for mean in means.values()], axis=0)
        return nearest - EmpiricalCovariance().fit(bank).mahalanobis(test) * (method == "rmd")
    weights, bias = data["weights"].astype(np.float64), data["bias"] + 20
    origin = -np.linalg.pinv(weights) @ bias
    values, vectors = np.linalg.eig(EmpiricalCovariance(assume_centered=True).fit(bank - origin).covariance_)
    residual = vectors[:, np.argsort(-values)[WIDTH // 2 :]]
    norms = [np.linalg.norm((x - origin) @ residual, axis=1) for x in (bank, test)]
    alpha = logits_of(data, data["bank"]).max(axis=1).sum() / norms[0].sum()
    return alpha * norms[1] - logsumexp(logits_of(data, data["outside"]), axis=1)


@pytest.mark.parametrize("method", FITTED)
def test_scikit_learn_agrees(data, method):
    np.testing.assert_allclose(scored(data, method), by_scikit_learn(data, method), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [*FITTED, "knn_k3", "gen"])
def test_pytorch_ood_agrees(data, method):
    detector = pytest.importorskip("pytorch_ood.detector")
    bank, labels, test = (torch.from_numpy(data[name]) for name in ("bank", "labels", "outside"))
    logits = logits_of(data, data["outside"])
    if method == "gen":
        mild = logits / 20  # they round probabilities below 1e-7
        theirs = N_CLASSES * detector.GEN.score(torch.from_numpy(mild))
        np.testing.assert_allclose(ood_score(mild, "gen"), theirs, rtol=1e-4)
        return
    weights, bias = torch.from_numpy(data["weights"]), torch.from_numpy(data["bias"] + 20)
    made = {
        "knn": lambda: detector.KNN(None, k=10),
        "knn_k3": lambda: detector.KNN(None, k=3),
        "mahalanobis": lambda: detector.Mahalanobis(None),
        "rmd": lambda: detector.RMD(None),
        "vim": lambda: detector.ViM(None, d=WIDTH // 2, w=weights, b=bias),
    }[method]()
    theirs = made.fit_features(bank, labels).predict_features(test).numpy()
    # Their covariances are sums over the bank, and their Mahalanobis distance is half the square.
    theirs = theirs * {"mahalanobis": 2 * len(bank), "rmd": len(bank)}.get(method, 1)
    np.testing.assert_allclose(scored(data, method), theirs, rtol=2e-3, atol=2e-3)


def test_gen_takes_the_hundred_largest_and_keeps_its_digits(rng):
    logits = 3 * rng.normal(size=(40, 250))
    p = np.sort(softmax(logits, axis=1), axis=1)[:, -100:]
    np.testing.assert_allclose(ood_score(logits, "gen"), np.sum((p * (1 - p)) ** 0.1, axis=1), rtol=1e-10)
    sure = np.float32([[40, 0], [41, 0], [42, 0]])
    assert (np.diff(ood_score(sure, "gen")) < 0).all(), "1 - p rounds to 0 in all three"
    assert ood_score([[3.0]], "gen") == 0


# -- properties --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", FITTED)
def test_strange_features_score_higher_and_order_does_not_matter(data, method, rng):
    inside, outside = scored(data, method, "inside"), scored(data, method)
    assert roc_auc_score([0] * len(inside) + [1] * len(outside), [*inside, *outside]) > 0.8
    order, bank = rng.permutation(len(outside)), rng.permutation(len(data["bank"]))
    shuffled = data | {"bank": data["bank"][bank], "labels": data["labels"][bank], "outside": data["outside"][order]}
    np.testing.assert_allclose(scored(shuffled, method), outside[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", FITTED)
def test_turning_all_features_changes_nothing(data, method, rng):
    turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    turned = {name: data[name] @ turn for name in ("bank", "inside", "outside", "weights")}
    np.testing.assert_allclose(scored(data | turned, method), scored(data, method), rtol=1e-4, atol=1e-5)


def test_what_each_score_does_not_see(data, rng):
    stretched = data | {name: data[name] * 3 for name in ("bank", "outside")}
    np.testing.assert_allclose(scored(stretched, "knn"), scored(data, "knn"), rtol=1e-5)
    mixed = rng.normal(size=(WIDTH, WIDTH))
    skewed = data | {name: data[name] @ mixed + 4 for name in ("bank", "outside")}
    for method in ("mahalanobis", "rmd"):
        np.testing.assert_allclose(scored(skewed, method), scored(data, method), rtol=1e-3, atol=1e-3)
    own = fit_ood_score("mahalanobis", data["bank"], labels=data["labels"])
    other = fit_ood_score("mahalanobis", data["bank"], labels=7 * data["labels"] - 3)
    np.testing.assert_array_equal(own(data["outside"]), other(data["outside"]))


@pytest.mark.parametrize("method", ["mahalanobis", "rmd"])
def test_directions_without_variance_carry_no_distance(data, method, rng):
    """A dead unit, and the direction that layer normalisation takes away but for rounding."""
    plane = rng.normal(size=WIDTH)
    plane /= np.linalg.norm(plane)
    flat = {name: data[name] - (data[name] @ plane)[:, None] * plane for name in ("bank", "outside")}
    basis = np.linalg.svd(plane[None])[2][1:].T
    small, padded = (
        fit_ood_score(method, of(flat["bank"]), labels=data["labels"])(of(flat["outside"]))
        for of in (lambda x: x @ basis, lambda x: np.pad(x, ((0, 0), (0, 1))).astype(np.float32))
    )
    np.testing.assert_allclose(padded, small, rtol=1e-3, atol=1e-3)


def test_vim_reads_its_origin_from_the_head(data):
    moved = data | {"bias": data["bias"] + np.arange(N_CLASSES)}
    assert np.abs(scored(moved, "vim") - scored(data, "vim")).max() > 1
    bank, logits = data["bank"], logits_of(data, data["bank"])
    none, zero = (
        fit_ood_score("vim", bank, logits=logits, weights=data["weights"], bias=bias)
        for bias in (None, np.zeros(N_CLASSES))
    )
    np.testing.assert_array_equal(none(bank, logits), zero(bank, logits))
    assert [principal_dimensions(width) for width in (64, 767, 768, 2047, 2048)] == [32, 383, 512, 512, 1000]


def test_blocks_of_neighbours_are_one(data, monkeypatch):
    whole = scored(data, "knn")
    monkeypatch.setattr("clipsafe_utils.metrics.ood_features._BLOCK", 7 * len(data["bank"]))
    np.testing.assert_allclose(scored(data, "knn"), whole, rtol=1e-12)


@pytest.mark.parametrize(
    ("method", "changed", "message"),
    [
        ("knn_k500", {}, r"neighbour 500 needs at least 500 and got 200 in-distribution features.*larger ID set"),
        ("knn_k0", {}, "unknown fitted OOD score 'knn_k0'"),
        ("mahala", {}, "unknown fitted OOD score 'mahala'; did you mean 'mahalanobis'"),
        ("rmd", {"n": 16}, r"rmd needs at least as many as the features are wide \(12\) and one a class and got 16"),
        ("vim", {"n": 12}, r"vim needs more than the features are wide \(12\) and got 12"),
        ("vim", {"shift": -100}, "largest logit, whose mean is -.*logits above 0"),
        ("knn", {"value": np.nan}, "features must be finite; got nan at sample 3, column 2"),
        ("knn", {"n": 0}, r"features must have shape .* got \(0, 12\)"),
    ],
)
def test_what_cannot_be_fitted_says_why(data, method, changed, message):
    n = changed.get("n", len(data["bank"]))
    bank, labels = data["bank"][:n].copy(), data["labels"][:n]
    logits = logits_of(data, bank) + changed.get("shift", 0)
    if "value" in changed:
        bank[3, 2] = changed["value"]
    with pytest.raises(ClipsafeError, match=message) as caught:
        fit_ood_score(method, bank, labels=labels, logits=logits, weights=data["weights"], bias=data["bias"])
    assert "\n" not in str(caught.value)


def test_fitted_scores_by_name():
    assert all(is_fitted(name) for name in (*FITTED, "knn_k50"))
    assert not any(is_fitted(name) for name in (*LOGIT_SCORES, "mcm", "neg_label", "energy_t2"))


# -- negative labels ---------------------------------------------------------------------------------------------------


def test_negatives_are_the_candidates_farthest_from_the_classes(rng):
    candidates, classes = rng.normal(size=(31, 8)), rng.normal(size=(9, 8))
    found = mine_negatives(candidates, classes, share=0.3, quantile=0.05)
    distances = [np.quantile([-np.dot(one, c) for c in classes], 0.05) for one in candidates]
    assert (
        sorted(found, key=lambda i: -distances[i]) == list(np.argsort(distances)[::-1][:9])
        and (np.diff(found) > 0).all()
    )
    near = np.vstack([classes[0], -classes[0], rng.normal(size=8) / 100])
    assert 0 not in mine_negatives(near, classes[:1], share=0.67), "a class itself is no negative"


def test_negative_labels_take_their_share_of_the_softmax(rng):
    logits, negatives = 30 * rng.normal(size=(20, 4)), 30 * rng.normal(size=(20, 6))
    both = torch.softmax(torch.from_numpy(np.hstack([logits, negatives])), dim=1).numpy()
    np.testing.assert_allclose(negative_label_score(logits, negatives), both[:, 4:].sum(axis=1), rtol=1e-9, atol=1e-300)
    assert negative_label_score([[1000.0]], [[900.0]]) < negative_label_score([[1000.0]], [[901.0]])


def test_negative_words_name_no_class():
    words = negative_words(SPACE)
    never_met = {CLASS_NAMES[c] for kind in ("held_out", "unseen") for c in CLASSES[kind]}
    assert len(words) == len(set(words)) == 77 and {"castle", "meadow", "striped"} <= set(words)
    assert set(words).isdisjoint(BENCHMARK_NAMES) and set(words).isdisjoint(never_met)
    for space in (imagenet_space(), LabelSpace("", ("Dog", "benthos"))):
        words = negative_words(space)
        assert 1000 < len(words) == len(set(words)) <= 2000 and words == negative_words(space)
        assert {word.lower() for word in words}.isdisjoint(name.lower() for name in class_names(space))


# -- features beside logits --------------------------------------------------------------------------------------------


ARCHITECTURES = {
    "resnet18": {"channels": [8, 8, 8, 8]},
    "vit_tiny_patch16_224": {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "mobilenetv3_small_050": {},
    "test_convnext": {},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_make_the_logits_and_leave_them_alone(tmp_path, name, rng):
    model, pixels = load_model(classifier_spec(tmp_path), device="cpu", features=True), noise_pixels(rng)
    torch.manual_seed(0)
    model.network = timm.create_model(name, num_classes=10, **ARCHITECTURES[name]).eval()
    logits, features = model.encode_with_features(pixels)
    np.testing.assert_array_equal(logits, model.encode_images(pixels))
    head = model.linear_head
    np.testing.assert_allclose(features @ head["weights"].T + head["bias"], logits, rtol=1e-4, atol=1e-5)
    assert features.dtype == np.float32 and np.ptp(features) > 0


def noise_pixels(rng):
    return torch.from_numpy(rng.random((3, 3, 32, 32), np.float32))


def test_a_head_that_is_not_one_linear_map_has_no_features(tmp_path, rng):
    model = load_model(classifier_spec(tmp_path), device="cpu", features=True)
    pixels = noise_pixels(rng)
    model.network.fc = nn.Sequential(nn.Linear(8, 10))
    assert model.encode_with_features(pixels)[1] is None and model.linear_head is None
    np.testing.assert_array_equal(model.encode_with_features(pixels)[0], model.encode_images(pixels))


def test_units_hold_features_where_they_are_asked_for(tmp_path):
    spec, images, store = classifier_spec(tmp_path), noise_images(tmp_path / "images"), Store(tmp_path / "store")
    options = {"workers": 0, "progress": False, "batch_size": 5}
    plain, rich = (load_model(spec, device="cpu", features=features) for features in (False, True))
    without = evaluate([plain], [images], store, **options)[spec.id, "noise"]
    unit = evaluate([rich], [images], store, **options)[spec.id, "noise"]
    assert unit.key != without.key and unit_identity(rich, images)["model"] != unit_identity(plain, images)["model"]
    np.testing.assert_array_equal(unit.array, without.array)
    assert without.features is None and unit.features.shape == (12, 8)
    head = rich.linear_head
    np.testing.assert_allclose(unit.features @ head["weights"].T + head["bias"], unit.array, rtol=1e-4, atol=1e-5)
    assert store.verify().empty and len(store) == 2
    sizes = store.frame().set_index("key")["bytes"]
    for one in (unit, without):
        assert sizes[one.key] == sum(path.stat().st_size for path in one.path.glob("*.safetensors"))
    (unit.path / "features.safetensors").write_bytes(b"cut")
    assert list(store.verify()["key"]) == [unit.key]
    with pytest.raises(ClipsafeError, match=r"is damaged: .*features\.safetensors cannot be read"):
        _ = store.load(unit.key).features


def test_zero_shot_units_are_the_same_with_and_without(tmp_path):
    from tiny import clip_spec

    spec = clip_spec(tmp_path)
    plain, rich = (load_model(spec, device="cpu", features=features) for features in (False, True))
    assert plain.identity == rich.identity


# -- the section on a few models of the laboratory ---------------------------------------------------------------------

OOD_SETS = ["lab_ood_classes", "lab_ood_noise"]
CLASSIFIER, ZERO_SHOT = "vit-small-s0", "clip-vit-A-small-s0"


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    return {
        **{"outputs": str(folder), "select": {"id": [CLASSIFIER, ZERO_SHOT]}, "device": "cpu"},
        **{"image_sets": {name: {} for name in ("lab_id", *OOD_SETS)}, "shifted_sets": [], "cue_conflict_set": None},
        **{"ood_sets": OOD_SETS, "near_ood_sets": OOD_SETS[:1], "control_sets": []},
        **{"factor_set": None, "paired_set": None},
        **{"n_bootstrap": 20},
    }


@pytest.fixture(scope="module")
def study(values):
    return Study(load_parameters("params/lab.yaml", values))


@pytest.fixture(scope="module")
def tables(study):
    return sections.ood_tables(study)


def one(rows, **where):
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1, f"{len(rows)} rows of {where}"
    return rows.iloc[0]


def test_every_model_has_the_scores_that_it_can_have(study, tables):
    detection, gains = tables
    found = {
        model: sorted({p.partition(",")[0] for p in rows["protocol"]}) for model, rows in detection.groupby("model")
    }
    assert found == {
        CLASSIFIER: sorted(set(study.parameters.ood_scores) - {"mcm", "neg_label"}),
        ZERO_SHOT: sorted(study.parameters.ood_scores),
    }
    assert len(detection) == (8 + 10) * 2 * 5 and len(gains) == (7 + 9) * 2 and not study.missing
    assert detection["value"].between(0, 1).all() and set(gains["metric"]) == {"auroc_gain"}


def test_fitted_scores_are_judged_on_images_that_they_have_not_seen(study, tables):
    detection, _ = tables
    bank = sections.fitted_on(study, CLASSIFIER)
    labels = study.unit(CLASSIFIER, "lab_id").labels
    assert bank.sum() == 1000 and np.ptp(np.bincount(labels[bank])) <= 1
    rows = detection[detection["metric"] == "fpr_id_at_tpr_ood95"]
    fitted = rows["protocol"].str.endswith("fitted on 50% of ID")
    assert set(rows.loc[fitted, "n"]) == {1000} and set(rows.loc[~fitted, "n"]) == {2000}
    # Nearest neighbours once more, from the files and by scikit-learn.
    bank_features, others, outside = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (
            np.array(study.unit(CLASSIFIER, "lab_id").features)[bank],
            np.array(study.unit(CLASSIFIER, "lab_id").features)[~bank],
            np.array(study.unit(CLASSIFIER, "lab_ood_noise").features),
        )
    )
    nearest = NearestNeighbors(n_neighbors=10).fit(bank_features)
    distances = [nearest.kneighbors(x)[0][:, -1] for x in (others, outside)]
    expected = roc_auc_score([0] * 1000 + [1] * 1000, np.concatenate(distances))
    row = one(sections.of_score(detection, "knn"), model=CLASSIFIER, test_set="lab_ood_noise", metric="auroc")
    assert row["value"] == pytest.approx(expected, abs=2e-5)


def test_gains_are_on_the_same_images(study, tables):
    _, gains = tables
    half = ~sections.fitted_on(study, ZERO_SHOT)

    def auroc(method):
        inside = sections.ood_scores(study, ZERO_SHOT, "lab_id", method)[half]
        return ood_detection(inside, sections.ood_scores(study, ZERO_SHOT, "lab_ood_noise", method)).auroc

    for method in ("max_logit", "rmd", "neg_label"):
        row = one(gains, model=ZERO_SHOT, test_set="lab_ood_noise", protocol=f"{method} against msp, prompts neutral")
        assert row["value"] == pytest.approx(auroc(method) - auroc("msp"), abs=1e-12)
        assert row["ci_low"] < row["value"] < row["ci_high"] and row["ci_kind"] == "delong, paired"


def test_features_and_heads_make_the_logits_of_both_kinds(study):
    for model in (CLASSIFIER, ZERO_SHOT):
        head = study.linear_head(model)
        logits = study.features(model, "lab_id") @ head["weights"].T + head["bias"]
        np.testing.assert_allclose(logits, study.outputs(model, "lab_id"), rtol=1e-3, atol=1e-3)


def test_without_features_classifiers_say_what_is_missing(values):
    study = Study(load_parameters("params/lab.yaml", values | {"features": False, "ood_scores": ["msp", "knn"]}))
    study.images = {name: images.subset(np.arange(0, len(images), 10)) for name, images in study.images.items()}
    detection = sections.ood_table(study)
    assert {p.partition(",")[0] for p in detection[detection["model"] == CLASSIFIER]["protocol"]} == {"msp"}
    assert {p.partition(",")[0] for p in detection[detection["model"] == ZERO_SHOT]["protocol"]} == {"msp", "knn"}
    assert study.missing == {"fitted OOD scores of standard models": sections.ood.NO_FEATURES}


def test_a_bank_that_is_too_small_leaves_the_score_out_with_the_reason(values):
    changed = {"ood_scores": ["msp", "mahalanobis"], "calibration_fraction": 0.02, "select": {"id": [ZERO_SHOT]}}
    study = Study(load_parameters("params/lab.yaml", values | changed))
    assert set(sections.ood_table(study)["protocol"]) == {"msp, prompts neutral"}
    assert "mahalanobis needs at least" in study.missing["OOD score mahalanobis"]


def test_representative_models_are_the_medians_of_their_groups(study, tables):
    samples = {sample.model: sample for sample in sections.score_samples(study, tables[0])}
    assert set(samples) == {CLASSIFIER, ZERO_SHOT} and samples[CLASSIFIER].protocol == "msp, classifier head"
    models = pd.DataFrame({"group": ["standard"] * 4}, index=list("abcd"))
    stub = type("Stub", (), {"parameters": study.parameters, "models": models, "named": lambda self, *names: []})()
    stub.protocol = lambda model: "x"
    rows = tidy(
        [
            {"model": m, "test_set": "s", "protocol": "msp, x", "metric": "auroc", "value": v}
            for m, v in zip("abcd", (0.9, 0.5, 0.7, 0.6), strict=True)
        ]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipsafe_utils.sections.ood.ood_scores", lambda *arguments: np.zeros(3))
        assert [sample.model for sample in sections.score_samples(stub, rows)] == ["d"]


# -- correlations, differences -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "theirs"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_scipy_agrees_on_correlations(rng, method, theirs):
    x = rng.normal(size=30).round(1)
    y = (x + rng.normal(size=30)).round(1)
    interval = statistics.correlation_interval(x, y, method)
    assert interval.value == pytest.approx(theirs(x, y).statistic, abs=1e-12)
    if method == "pearson":
        assert interval[1:3] == pytest.approx(tuple(pearsonr(x, y).confidence_interval()), abs=1e-9)
    assert np.isnan(statistics.correlation(np.ones(5), x[:5], method))
    assert np.isnan(statistics.correlation_interval(x[:3], y[:3], method).low)


def test_correlation_within_groups_is_that_of_what_is_left_of_their_means(rng):
    groups = rng.integers(4, size=60)
    x, y = rng.normal(size=60) + 5 * groups, rng.normal(size=60) - 5 * groups
    left = [v - pd.Series(v).groupby(groups).transform("mean") for v in (x, y)]
    assert statistics.correlation(x, y, groups=groups) == pytest.approx(pearsonr(*left).statistic, abs=1e-12)
    assert statistics.correlation(x, y) < -0.8
    assert statistics.correlation(x, y, "spearman", groups) == pytest.approx(
        statistics.correlation(np.exp(x), y**3, "spearman", groups), abs=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 13, 40])
@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_intervals_of_correlations_hold_their_level(n, rho):
    rng, groups, held = np.random.default_rng(n), np.arange(n) % 2, {"all": 0, "within": 0, "ranks": 0}
    runs, truth = 2000, 6 / np.pi * np.arcsin(rho / 2)
    for _ in range(runs):
        x = rng.normal(size=n)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=n)
        for name, interval, true in (
            ("all", statistics.correlation_interval(x, y), rho),
            ("within", statistics.correlation_interval(x + 9 * groups, y - 9 * groups, groups=groups), rho),
            ("ranks", statistics.correlation_interval(x, y, "spearman"), truth),
        ):
            held[name] += interval.low <= true <= interval.high
    for name, count in held.items():
        assert 0.93 < count / runs < (0.985 if name == "ranks" else 0.97), (name, count / runs)


@pytest.mark.slow
def test_interval_of_a_paired_difference_holds_its_level():
    rng, held, runs = np.random.default_rng(3), 0, 1500
    truth = ndtr(1.5 / 2) - ndtr(1 / 2)  # an OOD score minus an ID score is normal with variance 4
    for _ in range(runs):
        shared = rng.normal(size=300)
        first, second = shared + rng.normal(size=300), shared + rng.normal(size=300)
        first[100:] += 1.5
        second[100:] += 1
        interval = statistics.auroc_difference_interval(first[:100], first[100:], second[:100], second[100:])
        held += interval.low <= truth <= interval.high
    assert 0.93 < held / runs < 0.97


def test_paired_difference_knows_that_the_images_are_the_same(rng):
    inside, outside = rng.normal(size=80), rng.normal(1, 1, 60)
    same = statistics.auroc_difference_interval(inside, outside, 2 * inside, 2 * outside)
    assert same.value == same.low == same.high == 0
    noise = 0.1 * rng.normal(size=80)
    near = statistics.auroc_difference_interval(inside, outside, inside + noise, outside)
    alone = statistics.auroc_interval(inside, outside)
    assert near.high - near.low < 0.3 * (alone.high - alone.low)
    with pytest.raises(ClipsafeError, match="got 80 and 79 ID scores, 60 and 60 OOD scores"):
        statistics.auroc_difference_interval(inside, outside, inside[1:], outside)


# -- what the section says ---------------------------------------------------------------------------------------------


class Zoo:
    """As much of a study as comparisons need."""

    def __init__(self, models, **changed):
        values = {"ood_scores": ["msp", "rmd"], "ood_sets": ["near", "far"], "near_ood_sets": ["near"]}
        self.parameters = load_parameters("params/published.yaml", {"n_bootstrap": 50} | values | changed)
        self.models = models

    def table(self, rows):
        return tidy([{"suite": "s"} | row for row in rows])


def rows_of(metric, values, test_set="near", protocol="msp, x"):
    return tidy(
        [
            {"model": m, "test_set": test_set, "protocol": protocol, "metric": metric, "value": v, "n": 10}
            for m, v in values.items()
        ]
    )


@pytest.fixture
def paradox(rng):
    """Within each source more accurate models detect worse, over all of them better."""
    models = pd.DataFrame({"group": "zero_shot_clip", "pretrain_source": ["laion"] * 10 + ["wit"] * 10 + ["yfcc"]})
    models.index = [f"m{i}" for i in range(21)]
    step, source = np.tile(np.linspace(0, 0.1, 10), 2), np.repeat([0.0, 1.0], 10)
    accuracy = dict(zip(models.index, [*(0.3 + 0.4 * source + step), 0.5], strict=True))
    auroc = dict(zip(models.index, [*(0.5 + 0.3 * source - step + 0.01 * rng.random(20)), 0.7], strict=True))
    return Zoo(models), pd.concat([rows_of("accuracy", accuracy, "id", "x"), rows_of("auroc", auroc)])


def test_simpsons_paradox_is_found(paradox):
    study, rows = paradox
    found = sections.accuracy_correlations(study, rows, "msp")
    strata = ["Zero-shot CLIP, laion", "Zero-shot CLIP, wit"]
    ways = {"all models", "within sources", "all models minus within sources"}
    assert set(found["model"]) == {*ways, *strata}, "one model of yfcc is no stratum"
    pearson = found[found["metric"] == "pearson"].set_index("model")
    assert pearson.loc["all models", "ci_low"] > 0 > pearson.loc["within sources", "ci_high"]
    assert (pearson.loc[strata, "ci_high"] < 0).all() and pearson["n"].to_dict()["within sources"] == 20
    assert set(found["metric"]) == {f"{kind}{how}" for kind in ("pearson", "spearman") for how in ("", "_bootstrap")}
    verdict = sections.simpson(found)
    assert list(verdict["verdict"]) == ["reversed"] and verdict["overall"][0] > 0 > verdict["within"][0]
    assert 0 < verdict["low"][0] < verdict["overall"][0] - verdict["within"][0] < verdict["high"][0]


def test_verdicts_of_simpson_follow_the_intervals():
    """ "Alone" needs an interval of the difference that leaves 0 out: of two, one may be clear by chance."""
    names = ("all models", "within sources", "all models minus within sources")
    rows = [
        {"model": m, "test_set": s, "metric": "pearson" + "_bootstrap" * (m == names[2])}
        | {"value": (a + b) / 2, "ci_low": a, "ci_high": b}
        for s, limits in {
            "both": ((0.1, 0.5), (0.2, 0.6), (-0.3, 0.1)),
            "all": ((0.3, 0.7), (-0.4, 0.3), (0.1, 0.9)),
            "all?": ((0.1, 0.5), (-0.2, 0.6), (-0.5, 0.5)),
            "inside": ((-0.3, 0.1), (0.2, 0.6), (-0.9, -0.1)),
            "inside?": ((-0.1, 0.5), (0.2, 0.6), (-0.6, 0.2)),
            "few": ((0.1, 0.5), (-0.2, 0.6)),
            "neither": ((-0.1, 0.5), (-0.2, 0.6), (-0.3, 0.3)),
            "turned": ((0.1, 0.5), (-0.6, -0.2), (0.3, 1.0)),
        }.items()
        for m, (a, b) in zip(names, limits, strict=False)
    ]
    assert sections.simpson(tidy(rows)).set_index("test_set")["verdict"].to_dict() == {
        "both": "in both",
        "all": "over all models alone",
        "all?": "over all models, undecided within sources",
        "inside": "within sources alone",
        "inside?": "within sources, undecided over all models",
        "few": "over all models, undecided within sources",
        "neither": "in neither",
        "turned": "reversed",
    }


def test_correlations_count_starts(rng):
    """Three models fine-tuned from each of eight starts are eight points, not 24, with their means."""
    starts = [f"s{k}" for k in range(8)]
    tuned = pd.DataFrame([(f"{s}-{k}", s) for s in starts for k in range(3)], columns=["id", "init_from"])
    models = tuned.set_index("id").assign(group="clip_finetuned", pretrain_source="laion")
    accuracy, auroc = (dict(zip(models.index, rng.uniform(size=24), strict=True)) for _ in range(2))
    rows = pd.concat([rows_of("accuracy", accuracy, "id", "x"), rows_of("auroc", auroc)])
    found = sections.accuracy_correlations(Zoo(models), rows, "msp").set_index(["model", "metric"])
    means = [pd.Series(v).groupby(models["init_from"]).mean() for v in (accuracy, auroc)]
    expected, row = stats.pearsonr(*means), found.loc["all models", "pearson"]
    assert (row["value"], row["n"]) == (pytest.approx(expected.statistic), 24) and row["ci_kind"].endswith("8 starts")
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (
        "8 starts"
        in found.loc[
            "all models",
            "pearson_bootstrap",
        ]["ci_kind"]
    )


def test_a_start_and_what_came_of_it_are_two_points_and_one_sample(rng):
    starts = [f"s{k}" for k in range(8)]
    facts = [(s, "zero_shot_clip", "") for s in starts] + [(f"{s}-ft", "clip_finetuned", s) for s in starts]
    models = pd.DataFrame(facts, columns=["id", "group", "init_from"]).set_index("id").assign(pretrain_source="laion")
    accuracy, auroc = (dict(zip(models.index, rng.uniform(size=16), strict=True)) for _ in range(2))
    rows = pd.concat([rows_of("accuracy", accuracy, "id", "x"), rows_of("auroc", auroc)])
    found = sections.accuracy_correlations(Zoo(models), rows, "msp").set_index(["model", "metric"])
    row = found.loc["all models", "pearson"]
    r = stats.pearsonr([*accuracy.values()], [*auroc.values()]).statistic
    half = stats.norm.ppf(0.975) / np.sqrt(8 - 3)
    assert row["value"] == pytest.approx(r)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(
        (np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half))
    )


def test_score_choice_counts_starts_and_no_copies():
    models = pd.DataFrame(
        {"init_from": ["s", "s", "t", "u", "u"], "distinct": [True] * 4 + [False]}, index=list("abcde")
    )
    models["group"] = "clip_finetuned"
    gains = {"a": 0.1, "b": 0.3, "c": -0.1, "d": 0.2, "e": 9.0}
    choice = sections.score_choice(Zoo(models), rows_of("auroc_gain", gains, protocol="rmd against msp, x"))
    mean = one(choice, metric="auroc_gain_mean", protocol="rmd against msp")
    each = np.array([0.2, -0.1, 0.2])  # of s, t and u
    half = stats.t.ppf(0.975, 2) * stats.sem(each)
    assert (mean["value"], mean["n"]) == (pytest.approx(each.mean()), 4) and mean["ci_kind"].endswith("3 starts")
    assert (mean["ci_low"], mean["ci_high"]) == pytest.approx((each.mean() - half, each.mean() + half))
    share = one(choice, metric="best_share", protocol="rmd")
    assert (share["value"], share["n"]) == (pytest.approx(2 / 3), 3)


def test_few_models_have_no_correlation(paradox):
    study, rows = paradox
    assert sections.accuracy_correlations(study, rows[rows["model"].isin(["m0", "m1", "m2"])], "msp").empty


def test_score_choice_by_hand():
    models = pd.DataFrame({"group": ["standard"] * 3 + ["zero_shot_clip"]}, index=list("abcd"))
    gains = pd.concat(
        [
            rows_of("auroc_gain", {"a": 0.1, "b": 0.2, "c": -0.3, "d": 0.1}, protocol="rmd against msp, x"),
            rows_of("auroc_gain", {"a": 0.15, "b": 0.1, "c": -0.1, "d": 0.2}, protocol="gen against msp, x"),
        ]
    )
    choice = sections.score_choice(Zoo(models), gains)
    share = choice[(choice["metric"] == "best_share") & (choice["model"] == "Standard")].set_index("protocol")["value"]
    assert share.to_dict() == pytest.approx({"gen": 1 / 3, "msp": 1 / 3, "rmd": 1 / 3})
    gen = one(choice, metric="auroc_gain_mean", model="Standard", protocol="gen against msp")
    assert (gen["value"], gen["n"]) == (pytest.approx(0.05), 3) and gen["ci_low"] < 0 < gen["ci_high"]
    best = sections.best_scores(None, choice).set_index("group")
    assert best["score"].to_dict() == {"Standard": "gen", "Zero-shot CLIP": "gen"}
    assert np.isnan(best.loc["Zero-shot CLIP", "low"]), "one model has no interval"


def test_near_and_far_are_means_of_sets():
    models = pd.DataFrame({"group": ["standard"]}, index=["a"])
    rows = pd.concat([rows_of("auroc", {"a": v}, s) for s, v in {"near": 0.6, "far": 0.8, "farther": 0.9}.items()])
    sides = sections.near_and_far(Zoo(models), rows).set_index("test_set")
    assert sides["value"].to_dict() == pytest.approx({"near": 0.6, "far": 0.85, "far minus near": 0.25})
    assert sides["n"].to_dict() == {"near": 10, "far": 20, "far minus near": 30}
    assert sections.near_and_far(Zoo(models, near_ood_sets=[]), rows).empty


@pytest.fixture
def tuned():
    """Two zero-shot models, and what became of each on both paths."""
    rows = {"a": ("", ""), "b": ("", ""), "a1": ("in1k", "a"), "b1": ("in1k", "b")}
    rows |= {"a2": ("in12k_in1k", "a"), "b2": ("in12k_in1k", "b")}
    models = pd.DataFrame(rows, index=["finetune", "init_from"]).T
    models["group"] = ["zero_shot_clip"] * 2 + ["clip_finetuned"] * 4
    auroc = {"a": 0.8, "b": 0.7, "a1": 0.6, "b1": 0.6, "a2": 0.75, "b2": 0.75}
    return Zoo(models), rows_of("accuracy", {m: v / 2 for m, v in auroc.items()}, "id", "x"), rows_of("auroc", auroc)


def test_fine_tuning_paths_by_hand(tuned):
    study, accuracy, auroc = tuned
    effects = sections.fine_tuning_effects(study, accuracy, auroc).set_index(["model", "metric"])
    expected = {
        "in1k minus zero-shot": (-0.2 - 0.1) / 2,
        "in12k, then in1k minus zero-shot": (-0.05 + 0.05) / 2,
        "detour minus direct": 0.15,
    }
    found = effects.xs("auroc_difference", level=1)
    assert found["value"].to_dict() == pytest.approx(expected) and set(found["protocol"]) == {"msp, matched pairs"}
    found = effects.xs("accuracy_difference", level=1)
    assert found["value"].to_dict() == pytest.approx({k: v / 2 for k, v in expected.items()}) and set(found["n"]) == {2}


# -- figures -----------------------------------------------------------------------------------------------------------


def lines_of(ax, style):
    return [line for line in ax.lines if line.get_linestyle() == style]


def test_accuracy_figure_draws_a_line_a_source_and_one_over_all(paradox):
    study, rows = paradox
    strata = sections.training_strata(study.models)
    figure = plots.against_id_accuracy(rows, study.models, x_set="id", metric="auroc", strata=strata)
    (ax,) = figure.axes
    slopes = {s: [np.diff(line.get_ydata())[0] for line in lines_of(ax, s)] for s in ("-", ":", "--")}
    assert slopes["-"][0] < 0 and slopes[":"][0] < 0 < slopes["--"][0] and sum(map(len, slopes.values())) == 3
    points = [point for line in lines_of(ax, "None") for point in line.get_xydata()]
    assert len(points) == 21
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Zero-shot CLIP, laion (10)", "Zero-shot CLIP, wit (10)", "Zero-shot CLIP, yfcc (1)"]


def test_correlation_figure_draws_both_kinds_with_intervals(paradox):
    study, rows = paradox
    found = sections.accuracy_correlations(study, rows, "msp")
    figure = plots.accuracy_correlations(found)
    (ax,) = figure.axes
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels[:2] == ["all models (21)", "within sources (20)"] and len(labels) == 4
    drawn = sorted(line.get_xdata()[0] for line in lines_of(ax, "None"))
    expected = found[found["metric"].isin(["pearson", "spearman"])]["value"]
    assert drawn == pytest.approx(sorted(expected)) and len(ax.collections) == 8
    with pytest.raises(ClipsafeError, match="no rows of metric pearson or spearman"):
        plots.accuracy_correlations(found.iloc[:0])


def test_gains_figure_frames_the_best_score():
    models = pd.DataFrame({"group": ["standard"] * 3 + ["zero_shot_clip"] * 3}, index=list("abcdef"))
    gains = pd.concat(
        [
            rows_of(
                "auroc_gain", dict.fromkeys("abc", 0.1) | dict.fromkeys("def", -0.2), protocol="rmd against msp, x"
            ),
            rows_of(
                "auroc_gain", dict.fromkeys("abc", 0.05) | dict.fromkeys("def", -0.1), protocol="gen against msp, x"
            ),
        ]
    )
    figure = plots.score_gains(sections.score_choice(Zoo(models), gains))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Zero-shot CLIP (3)", "Standard (3)"]
    numbers = [sorted(text.get_text() for text in ax.texts) for ax in figure.axes]
    assert numbers == [["-10", "-20"], ["+10", "+5"]]
    assert {text.get_weight() for ax in figure.axes for text in ax.texts} == {"bold"}, "no interval holds 0"
    frames = [[patch.get_xy() for patch in ax.patches] for ax in figure.axes]
    rows = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert frames == [[], [(0, rows.index("rmd"))]], "msp is the best of zero-shot models: no other has a frame"
    assert "minus that of msp" in figure.get_supxlabel()


def test_fine_tuning_figure_starts_in_the_middle(tuned):
    study, _, auroc = tuned
    (ax,) = plots.fine_tuning_paths(auroc, study.models).axes
    paths = sorted(tuple(map(tuple, line.get_xydata().tolist())) for line in lines_of(ax, "-"))
    assert paths == [
        ((1, 0.7), (0, 0.6)),
        ((1, 0.7), (2, 0.75)),
        ((1, 0.8), (0, 0.6)),
        ((1, 0.8), (2, 0.75)),
    ]
    with pytest.raises(ClipsafeError, match="no fine-tuned model and the model that it started from"):
        plots.fine_tuning_paths(auroc, study.models.assign(init_from="z"))


def test_distributions_have_a_panel_a_group(study, tables):
    samples = sections.score_samples(study, tables[0])
    figure = plots.scores_by_group(samples, study.models, method="msp")
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        f"Zero-shot CLIP: {ZERO_SHOT}",
        f"Standard: {CLASSIFIER}",
    ]
    assert all(len(ax.patches) == 3 for ax in figure.axes) and "msp" in figure.get_supxlabel()


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ood_scores": ["msp", "mahalanobi"]}, "unknown OOD score 'mahalanobi'; did you mean 'mahalanobis'"),
        ({"ood_scores": ["msp", "knn_k0"]}, "unknown OOD score 'knn_k0'"),
        ({"ood_scores": ["knn", "vim"]}, "all of them are fitted; add one that is not, such as msp"),
        ({"near_ood_sets": ["lab_ood_noize"]}, "unknown .*'lab_ood_noize'; did you mean 'lab_ood_noise'"),
        ({"features": "yes"}, "features = 'yes': it should be a valid boolean"),
    ],
)
def test_parameters_that_do_not_fit(changed, message):
    with pytest.raises(ClipsafeError, match=message):
        load_parameters("params/lab.yaml", changed)
