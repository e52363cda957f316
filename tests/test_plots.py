"""Figures: artists, labels and positions, never pixels."""

import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.markers import MarkerStyle

from clipsafe_utils import plots
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.metrics import fpr_ood_at_tpr_id95, reliability_curve
from clipsafe_utils.statistics import fit_accuracy_line
from clipsafe_utils.table import tidy
from clipsafe_utils.zoo import GROUPS

FACTORS = ["x/pose", "x/partial_view", "x/texture"]


@pytest.fixture(autouse=True)
def _style():
    plots.set_style()


def zoo(n):
    groups = list(plots.GROUP_STYLE)
    return pd.DataFrame({"group": [groups[i % 7] for i in range(n)]}, index=[f"m{i:04d}" for i in range(n)])


def table(models, test_sets, metrics, protocols=("p",), *, bars=True, scale=0.1, seed=0):
    rng = np.random.default_rng(seed)
    grid = itertools.product(models.index, test_sets, protocols, metrics)
    rows = pd.DataFrame(grid, columns=["model", "test_set", "protocol", "metric"])
    rows["value"] = 0.5 + scale * rng.uniform(-1, 1, len(rows))
    rows["n"] = 1000
    if bars:
        rows = rows.assign(ci_low=rows["value"] - 0.02, ci_high=rows["value"] + 0.03, ci_kind="wilson", ci_level=0.95)
    return tidy(rows)


def value(rows, **where):
    return rows.loc[np.logical_and.reduce([rows[k] == v for k, v in where.items()]), "value"].item()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def yticks(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def entries(target):
    """Texts of the legend of an axes or figure."""
    return [text.get_text() for text in legend(target).get_texts()]


def legend(target):
    return (target.get_legend() or target.figure.legends[0]) if hasattr(target, "get_legend") else target.legends[0]


def dots(ax):
    """(x, y) of every marker drawn as a line without a stroke."""
    lines = [line for line in ax.lines if line.get_marker() not in ("", "None") and line.get_linestyle() == "None"]
    return [tuple(map(float, xy)) for line in lines for xy in line.get_xydata()]


def bars(ax):
    """(low, high, y) of every horizontal interval."""
    segments = [s for c in ax.collections if hasattr(c, "get_segments") for s in c.get_segments() if len(s)]
    return [(s[0, 0], s[1, 0], s[0, 1]) for s in segments if np.isfinite(s).all()]


def points(ax):
    return sum(len(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection))


def test_style_covers_the_groups_and_differs():
    assert list(plots.GROUP_STYLE) == [*GROUPS, "human", "other"]
    assert all(plots.GROUP_STYLE[group].label == label for group, label in GROUPS.items())
    for field in ("color", "marker", "label"):
        assert len({getattr(style, field) for style in plots.GROUP_STYLE.values()}) == 7


MACHADO = {  # Machado, Oliveira, Fernandes. IEEE TVCG 15, 2009: severity 1.0, on linear RGB
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("eyes", MACHADO)
def test_colours_stay_apart_in_colour_blind_eyes(eyes):
    def lab(colour):
        rgb = np.array(to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(np.array(MACHADO[eyes]) @ linear, 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
        f = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 0.008856))
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    colours = [lab(style.color) for style in plots.GROUP_STYLE.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)) > 25


def test_svg_is_equal_byte_for_byte():
    def svg():
        plots.set_style()
        models = zoo(5)
        ax, file = plots.error_ratios(table(models, FACTORS, ["error_ratio"]), models), io.BytesIO()
        ax.figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()

    assert svg() == svg()


@pytest.mark.parametrize(("n", "scale"), [(1, None), (1, "probit"), (2, "linear"), (30, "logit"), (1500, "probit")])
def test_accuracy_on_accuracy_draws_every_model(n, scale):
    models = zoo(n)
    rows = table(models, ["a", "b"], ["accuracy"])
    x = np.linspace(0.3, 0.7, 9)
    line = scale and fit_accuracy_line(x, x**1.5, scale)
    ax = plots.accuracy_on_accuracy(rows, models, x="a", y="b", line=line)
    ax.figure.canvas.draw()
    drawn = np.concatenate([c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)])
    expected = rows.pivot_table(index="model", columns="test_set", values="value").to_numpy()
    np.testing.assert_allclose(np.sort(drawn[:, 0]), np.sort(expected[:, 0]))
    np.testing.assert_allclose(np.sort(drawn[:, 1]), np.sort(expected[:, 1]))
    assert (len(bars(ax)) > 0) == (n <= 40)
    assert (("m0000" in texts(ax)) and len(texts(ax)) == n + 2) == (n <= plots.FEW)
    assert "y = x" in entries(ax)
    assert all(label.get_text().replace(".", "").isdigit() for label in ax.get_xticklabels())
    if line:
        assert {f"Line: 9 models, {scale} axes", "95% band of the line"} <= set(entries(ax))
        curve = next(drawn for drawn in ax.lines if "9 models" in str(drawn.get_label()))
        np.testing.assert_allclose(curve.get_ydata(), line.predict(curve.get_xdata()))
        assert "above the line: more robust than the baseline" in texts(ax)


def test_accuracy_of_zero_and_one_stays_on_the_axes():
    models = zoo(3)
    rows = table(models, ["a", "b"], ["accuracy"], bars=False)
    rows.loc[0, "value"], rows.loc[1, "value"] = 0, 1
    line = fit_accuracy_line(np.array([0.2, 0.5, 0.7]), np.array([0.1, 0.4, 0.7]))
    ax = plots.accuracy_on_accuracy(rows, models, x="a", y="b", line=line)
    ax.figure.canvas.draw()
    assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()


def test_legend_counts_groups_and_keeps_their_looks():
    models = zoo(15)
    ax = plots.accuracy_on_accuracy(table(models, ["a", "b"], ["accuracy"]), models, x="a", y="b")
    assert entries(ax)[:2] == ["Zero-shot CLIP (3)", "Fine-tuned CLIP (2)"]
    handles = legend(ax).legend_handles
    looks = [(to_hex(handle.get_color()), handle.get_marker()) for handle in handles[:7]]
    assert looks == [(style.color, style.marker) for style in plots.GROUP_STYLE.values()]


def test_effective_robustness_of_few_is_named_dodged_and_sorted():
    models = zoo(3)
    models.loc["m0001", "group"] = "zero_shot_clip"
    rows = table(models, FACTORS, ["effective_robustness"])
    ax = plots.effective_robustness(rows, models)
    mean = rows.groupby("test_set")["value"].mean().sort_values(ascending=False)
    assert yticks(ax) == [name.removeprefix("x/").replace("_", " ") for name in mean.index]
    assert ax.yaxis_inverted() and entries(ax) == ["m0000", "m0001", "m0002"]
    top = sorted((y, x) for x, y in dots(ax) if y < 0.5)
    assert [x for _, x in top] == [value(rows, model=m, test_set=mean.index[0]) for m in models.index]
    assert len({y for _, y in top}) == 3
    assert sorted(low for low, _, _ in bars(ax)) == pytest.approx(sorted(rows["ci_low"]))
    first, second = legend(ax).legend_handles[:2]
    assert first.get_color() == second.get_color() and first.get_markerfacecolor() != second.get_markerfacecolor()
    assert any(list(line.get_xdata()) == [0, 0] for line in ax.lines) and "more robust →" in ax.get_xlabel()


def test_same_factor_of_two_image_sets_keeps_two_lines():
    models = zoo(2)
    ax = plots.effective_robustness(table(models, ["x/pose", "z/pose"], ["effective_robustness"]), models)
    assert sorted(label.replace(" ", "_") for label in yticks(ax)) == ["x/pose", "z/pose"]


def test_effective_robustness_of_many_is_a_strip_a_group_with_its_mean():
    models = zoo(1500)
    rows = table(models, FACTORS, ["effective_robustness"])
    ax = plots.effective_robustness(rows, models)
    assert points(ax) == 4500 and not bars(ax)
    mean = (
        rows.assign(group=models["group"].loc[rows["model"]].to_numpy()).groupby(["group", "test_set"])["value"].mean()
    )
    assert sorted(x for x, _ in dots(ax)) == pytest.approx(sorted(mean))
    assert entries(ax)[-1] == "Group mean" and entries(ax)[0] == "Zero-shot CLIP (215)"


@pytest.mark.parametrize("n", [1, 3, 20])
def test_missing_intervals_leave_the_dots(n):
    models = zoo(n)
    rows = table(models, FACTORS, ["error_ratio"], bars=False)
    ax = plots.error_ratios(rows, models)
    ax.figure.canvas.draw()
    assert not bars(ax) and len(dots(ax)) + points(ax) >= len(rows)
    assert np.isfinite(ax.get_xlim()).all()


def test_error_ratios_take_a_log_axis_once_they_spread():
    models = zoo(2)
    rows = table(models, FACTORS, ["error_ratio"])
    assert plots.error_ratios(rows, models).get_xscale() == "linear"
    rows.loc[0, "value"] = 6
    ax = plots.error_ratios(rows, models)
    assert ax.get_xscale() == "log" and any(list(line.get_xdata()) == [1, 1] for line in ax.lines)


def test_shape_bias_sorts_within_groups_and_tells_the_share_decided():
    models = zoo(20)
    rows = table(models, ["cue_conflict"], ["shape_bias", "share_decided"])
    ax = plots.shape_bias(rows, models)
    order = yticks(ax)
    rank = [list(plots.GROUP_STYLE).index(models["group"][model]) for model in order]
    assert rank == sorted(rank) and len(order) == 20
    bias = [value(rows, model=m, metric="shape_bias") for m in order]
    assert bias[:3] == sorted(bias[:3], reverse=True)
    assert [x for x, _ in sorted(dots(ax), key=lambda xy: xy[1])] == pytest.approx(bias)
    assert f"{100 * value(rows, model=order[4], metric='share_decided'):.0f}%" == texts(ax)[4]
    assert "pure texture" in ax.get_xlabel() and ax.get_xlim()[0] < 0 < 1 < ax.get_xlim()[1]


def test_shape_bias_of_many_is_by_group():
    models = zoo(210)
    ax = plots.shape_bias(table(models, ["cue_conflict"], ["shape_bias", "share_decided"]), models)
    assert yticks(ax) == [style.label for style in plots.GROUP_STYLE.values()] and points(ax) == 210


def test_names_alike_once_shortened_keep_their_own_lines():
    models = zoo(3)
    models.index = ["a" * 40 + middle + "z" * 40 for middle in "xyz"]
    ax = plots.shape_bias(table(models, ["cue_conflict"], ["shape_bias"]), models)
    assert len({y for _, y in dots(ax)}) == 3
    assert all(len(label) <= 40 and "…" in label for label in yticks(ax))


@pytest.mark.parametrize(("n", "sets"), [(1, 1), (4, 5), (40, 4)])
def test_ood_detection_has_a_panel_a_set_and_a_line_a_score(n, sets):
    models, names = zoo(n), [f"set{i}" for i in range(sets)]
    rows = table(models, names, ["auroc", "ece"], ["msp, prompts a", "energy, prompts a"])
    figure = plots.ood_detection(rows, models)
    assert [ax.get_title(loc="left") for ax in figure.axes] == names
    assert set(yticks(figure.axes[0])) == {"msp", "energy"}
    assert figure.get_supxlabel() == "AUROC\nhigher is better; dotted: chance"
    assert [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == ":"] == [0.5]
    xs = {x for x, _ in dots(figure.axes[-1])}
    first = rows[(rows["metric"] == "auroc") & (rows["test_set"] == names[-1])]
    assert (xs == set(first["value"])) == (n <= plots.FEW)


def test_ood_scores_of_two_prompt_sets_are_refused():
    models = zoo(2)
    with pytest.raises(ClipsafeError, match=r"several rows for .*'category': 'msp'"):
        plots.ood_detection(table(models, ["s"], ["auroc"], ["msp, prompts a", "msp, prompts b"]), models)


def test_given_panels_are_used_and_counted():
    models = zoo(2)
    rows = table(models, ["s", "t"], ["auroc"], ["msp"])
    figure, axes = plt.subplots(1, 2)
    assert plots.ood_detection(rows, models, panels=axes) is figure and axes[1].get_title(loc="left") == "t"
    with pytest.raises(ClipsafeError, match=r"2 panels are needed \(s, t\); got 1 axes"):
        plots.ood_detection(rows, models, panels=axes[:1])


def test_score_distributions_mark_the_threshold_of_fpr_ood_at_tpr_id95(rng):
    inside, outside = rng.normal(size=1000), rng.normal(1, 1, 500)
    ax = plots.score_distributions(inside, {"sun": outside}, method="energy")
    threshold = next(line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--")
    assert threshold in inside and np.mean(outside <= threshold) == fpr_ood_at_tpr_id95(inside, outside)
    assert entries(ax) == ["In-distribution (n = 1,000)", "sun (n = 500)"]
    for patch in ax.patches:
        heights, edges, _ = patch.get_data()
        assert np.sum(heights * np.diff(edges)) == pytest.approx(1)
    assert "higher = more out-of-distribution" in ax.get_xlabel()
    with pytest.raises(ClipsafeError, match="energy scores of 'sun' must be finite"):
        plots.score_distributions(inside, {"sun": [np.nan]}, method="energy")


def test_reliability_diagram_draws_bins_bars_and_shares(rng):
    confidence = rng.uniform(0.3, 1, 400)
    curve = reliability_curve(confidence, rng.random(400) < confidence, n_bins=10)
    ax = plots.reliability_diagram({"before": curve, "after": curve})
    line = next(line for line in ax.lines if line.get_label() == "before (n = 400)")
    full = curve.count > 0
    np.testing.assert_array_equal(line.get_xydata(), np.c_[curve.confidence, curve.accuracy][full])
    segments = np.array(ax.collections[0].get_segments())
    np.testing.assert_allclose(segments[:, :, 1], np.c_[curve.low, curve.high][full])
    shares = ax.child_axes[0]
    np.testing.assert_allclose(shares.patches[0].get_data().values, curve.count / 400)
    assert any("overconfident" in t for t in texts(ax)) and "95% Wilson" in ax.get_ylabel()
    corner = {t.get_text().split(":")[0]: t.get_position() for t in ax.texts}
    assert corner["underconfident"][1] > 0.9 and corner["overconfident"][1] < 0.1
    with pytest.raises(ClipsafeError, match="at least one curve"):
        plots.reliability_diagram({})


def test_calibration_before_after_points_from_before_to_after():
    models = zoo(3)
    rows = table(models, ["val", "sketch"], ["ece", "ece_scaled"])
    figure = plots.calibration_before_after(rows, models)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["sketch", "val"]
    arrows = {(note.xyann[0], note.xy[0]) for note in figure.axes[1].texts}
    pairs = {
        tuple(value(rows, model=m, test_set="val", metric=metric) for metric in ("ece", "ece_scaled"))
        for m in models.index
    }
    assert arrows == pairs
    assert yticks(figure.axes[0]) == list(models.index) and len(bars(figure.axes[0])) == 6
    with pytest.raises(ClipsafeError, match=r"both 'ece' and 'ece_scaled'"):
        plots.calibration_before_after(rows[rows["metric"] == "ece"], models)


def test_calibration_of_many_is_by_group():
    models = zoo(70)
    rows = table(models, ["val"], ["ece", "ece_scaled"])
    ax = plots.calibration_before_after(rows, models).axes[0]
    assert len(ax.texts) == 7 and yticks(ax)[0] == "Zero-shot CLIP"
    means = rows[rows["model"].isin(models.index[::7])].groupby("metric")["value"].mean()
    arrow = next(note for note in ax.texts if note.xy[1] < 0.5)
    assert (arrow.xyann[0], arrow.xy[0]) == pytest.approx((means["ece"], means["ece_scaled"]))


def test_against_id_accuracy_pairs_by_model():
    models = zoo(50)
    accuracy, auroc = table(models, ["val"], ["accuracy"]), table(models, ["sun", "places"], ["auroc"], seed=1)
    auroc = auroc[auroc["model"] != "m0003"]
    figure = plots.against_id_accuracy(pd.concat([accuracy, auroc]), models, x_set="val", metric="auroc")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["places", "sun"]
    drawn = {tuple(xy) for c in figure.axes[1].collections for xy in c.get_offsets().tolist()}
    expected = {(value(accuracy, model=m), value(auroc, model=m, test_set="sun")) for m in models.index if m != "m0003"}
    assert drawn == expected
    assert figure.get_supxlabel() == "Accuracy on val (%)" and "higher is better" in figure.get_supylabel()


def test_prompt_effects_say_which_way_is_better():
    models = zoo(2)
    prompts = ["prompts single", "prompts imagenet_7"]
    rows = table(models, ["val"], ["accuracy_difference", "ece_difference"], prompts)
    rows = pd.concat([rows, table(models, ["sun", "places"], ["auroc_difference"], prompts)])
    figure = plots.prompt_effects(rows, models, reference="imagenet_80")
    labels = {ax.get_title(loc="left"): ax.get_xlabel() for ax in figure.axes}
    assert list(labels) == ["Accuracy on val", "AUROC on places", "AUROC on sun", "ECE on val"]
    assert labels["Accuracy on val"].endswith("better →") and labels["ECE on val"].endswith("worse →")
    assert yticks(figure.axes[0]) == ["imagenet_7", "single"] and "imagenet_80" in figure.get_supxlabel()
    assert len(bars(figure.axes[1])) == 4


DRAWN = {
    "accuracy_on_accuracy": (["accuracy"], {"x": "a", "y": "b"}),
    "effective_robustness": (["effective_robustness"], {}),
    "error_ratios": (["error_ratio"], {}),
    "shape_bias": (["shape_bias"], {}),
    "ood_detection": (["auroc"], {}),
    "calibration_before_after": (["ece", "ece_scaled"], {}),
    "against_id_accuracy": (["accuracy", "auroc"], {"x_set": "a", "metric": "auroc"}),
    "prompt_effects": (["accuracy_difference"], {}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_to_draw_is_an_error_that_names_it(name):
    metrics, options = DRAWN[name]
    models = zoo(2)
    rows = table(models, ["a"] if name == "shape_bias" else ["a", "b"], metrics)
    draw = getattr(plots, name)
    with pytest.raises(ClipsafeError, match=f"no rows of metric.*{metrics[0]}.*nothing to draw"):
        draw(rows.iloc[:0], models, **options)
    with pytest.raises(ClipsafeError, match="models has no row 'm0001'"):
        draw(rows, models.iloc[:1], **options)
    with pytest.raises(ClipsafeError, match="unknown group 'martian'"):
        draw(rows, models.assign(group="martian"), **options)
    with pytest.raises(ClipsafeError, match="several rows for"):
        draw(pd.concat([rows, rows]), models, **options)


@pytest.mark.parametrize("name", DRAWN)
def test_text_stays_inside_the_figure(name, n=6):
    metrics, options = DRAWN[name]
    models = zoo(n)
    models.index = [f"{i}-" + "a_very_long_model_name_" * 4 for i in range(n)]
    result = getattr(plots, name)(
        table(models, ["a"] if name == "shape_bias" else ["a", "b"], metrics), models, **options
    )
    figure = result if hasattr(result, "savefig") else result.figure
    figure.canvas.draw()
    box, inner = figure.bbox, figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert inner.x0 >= box.x0 - 2 and inner.x1 <= box.x1 + 2 and inner.y0 >= box.y0 - 2 and inner.y1 <= box.y1 + 2


def test_caption_is_made_from_the_rows():
    models = zoo(3)
    rows = table(models, ["a", "b"], ["accuracy"])
    rows.loc[0, "n"] = 50_000
    text = plots.caption(rows, what="Accuracy", direction="higher is better", models=models)
    assert text == (
        "Accuracy: 3 models (1 Zero-shot CLIP, 1 Fine-tuned CLIP, 1 Standard), n = 1,000 to 50,000 images each. "
        "Intervals: wilson at 95%; protocol: p; higher is better."
    )
    bare = tidy([{"model": "m", "test_set": "a", "metric": "nll", "value": 1.0, "source": "published"}])
    assert plots.caption(bare, what="NLL", direction="") == (
        "NLL: 1 model, numbers of images not published, published by others. No intervals."
    )
    with pytest.raises(ClipsafeError, match="no rows to caption 'NLL'"):
        plots.caption(bare.iloc[:0], what="NLL", direction="")


def test_markers_are_known_to_matplotlib():
    assert all(MarkerStyle(style.marker).is_filled() for style in plots.GROUP_STYLE.values())
