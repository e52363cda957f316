"""Figures of the calibration section: artists, labels and positions."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from test_plots import bars, dots, entries, texts, yticks

from clipsafe_utils import plots
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.metrics import reliability_curve
from clipsafe_utils.sections.calibration import GroupReliability
from clipsafe_utils.statistics import fit_accuracy_line
from clipsafe_utils.table import tidy

GROUPS = {"Zero-shot CLIP": 26, "Standard": 14, "Contrastive": 1}
COLOR = {style.label: style.color for style in plots.GROUP_STYLE.values()}


@pytest.fixture(autouse=True)
def _style():
    plots.set_style()


def means(metrics, test_sets, protocols=("mean over models",)):
    """Rows as the sections' means have them, all of different value."""
    rows = [
        {"model": group, "test_set": name, "protocol": protocol, "metric": metric, "n": n}
        for metric in metrics
        for name in test_sets
        for protocol in protocols
        for group, n in GROUPS.items()
    ]
    value = np.linspace(0.1, 0.9, len(rows))
    bounds = {"ci_low": value - 0.02, "ci_high": value + 0.03, "ci_kind": "t", "ci_level": 0.95}
    return tidy(pd.DataFrame(rows).assign(value=value, **bounds))


def test_means_have_a_panel_a_metric_and_a_lane_a_group():
    rows = means(["ece", "ece_scaled"], ["id", "sketch"])
    figure = plots.means_by_group(rows, ["ece", "ece_scaled"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["ECE", "ECE after scaling"]
    assert yticks(figure.axes[0]) == ["sketch", "id"], "the largest on top"
    for ax, metric in zip(figure.axes, ("ece", "ece_scaled"), strict=True):
        assert sorted(x for x, _ in dots(ax)) == pytest.approx(sorted(rows.loc[rows["metric"] == metric, "value"]))
        assert len(bars(ax)) == 6 and len({y for _, y in dots(ax)}) == 6
    assert entries(figure) == ["Zero-shot CLIP (26)", "Standard (14)", "Contrastive (1)"]
    handles = figure.legends[0].legend_handles
    assert [to_hex(handle.get_color()) for handle in handles] == [COLOR[group] for group in GROUPS]
    assert figure.get_supxlabel() == "ECE (%)\nlower is better"


def test_signed_means_show_zero_and_the_number_of_images():
    rows = means(["overconfidence", "ece_excess_scaled"], ["x/pose", "x/partial_view"])
    counts = pd.Series({"x/pose": 1234, "x/partial_view": 7})
    figure = plots.means_by_group(rows, ["overconfidence", "overconfidence_scaled", "ece_excess_scaled"], counts=counts)
    assert len(figure.axes) == 2, "a metric without rows has no panel"
    assert yticks(figure.axes[0]) == ["partial view (n = 7)", "pose (n = 1,234)"]
    assert all(any(list(line.get_xdata()) == [0, 0] for line in ax.lines) for ax in figure.axes)
    with pytest.raises(ClipsafeError, match="no rows of metric nll; nothing to draw"):
        plots.means_by_group(rows, ["nll"])


def test_reliability_has_a_column_a_group_and_a_row_a_set(rng):
    models = pd.DataFrame({"group": ["standard", "zero_shot_clip"]}, index=["r50", "clip"])
    confidence = rng.uniform(0.3, 1, 900)
    curves = [reliability_curve(confidence**power, rng.random(900) < confidence, n_bins=10) for power in (1, 2)]
    shown = [
        GroupReliability(model, name, dict(zip(["as it comes", "T = 1.50"], curves, strict=True)))
        for model in models.index
        for name in ("id", "sketch")
    ]
    figure = plots.reliability_by_group(shown, models)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Zero-shot CLIP\nclip", "Standard\nr50", "", ""]
    assert [ax.get_ylabel() for ax in figure.axes] == ["id", "", "sketch", ""]
    for ax, label in zip(figure.axes, ("Zero-shot CLIP", "Standard") * 2, strict=True):
        scaled = [line for line in ax.lines if to_hex(line.get_color()) == COLOR[label]]
        full = curves[1].count >= 5
        np.testing.assert_allclose(scaled[0].get_xydata(), np.c_[curves[1].confidence, curves[1].accuracy][full])
        assert len(ax.collections) == 2, "two bands"
    assert texts(figure.axes[0]) == ["T = 1.50"]
    with pytest.raises(ClipsafeError, match="at least one curve"):
        plots.reliability_by_group([], models)


def test_transfer_frames_the_row_that_is_used_and_marks_the_best_of_each_column():
    names = ["art", "id", "sketch"]
    rows = means(["ece_scaled"], names, [f"temperature of {name}" for name in names])
    rows = rows[rows["model"] == "Standard"]
    ax = plots.temperature_transfer(rows, id_set="id")
    order = yticks(ax)
    assert order[0] == "id" and [t.get_text() for t in ax.get_xticklabels()] == order
    frame = next(patch for patch in ax.patches if isinstance(patch, Rectangle))
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((0, 0), 3, 1)
    assert len(ax.texts) == 9 and ax.get_xlabel().startswith("ECE after scaling (%)")
    for text in ax.texts:
        x, y = (int(at) for at in text.get_position())
        column = rows[rows["test_set"] == order[x]].set_index("protocol")["value"]
        assert text.get_text() == f"{100 * column[f'temperature of {order[y]}']:.1f}"
        assert (text.get_fontweight() == "bold") == (column.idxmin() == f"temperature of {order[y]}")


def test_sizes_stand_in_their_order_after_no_temperature_at_all():
    rows = means(["nll_excess"], ["id/1000 images", "id/0 images", "id/50 images"])
    ax = plots.temperature_sizes(rows)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["none:\nas it comes", "50", "1,000"]
    sizes = rows[rows["model"] == "Standard"].set_index("test_set")["value"]
    drawn = {round(x): y for x, y in dots(ax) if y in set(sizes)}
    assert drawn == {0: sizes["id/0 images"], 1: sizes["id/50 images"], 2: sizes["id/1000 images"]}
    joined = [line for line in ax.lines if line.get_linestyle() == "-" and min(line.get_xdata()) > 0.5]
    assert len(joined) == 3, "no line comes from where there is no temperature"


def test_risk_grows_along_the_share_of_images():
    rows = means(["risk"], ["id", "sketch"], ["coverage 0.50", "coverage 1.00", "coverage 0.02"])
    figure = plots.risk_coverage(rows)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["id", "sketch"]
    for ax in figure.axes:
        assert len(ax.lines) == 3 and len(ax.collections) == 3, "a line and a band a group"
        assert all(list(line.get_xdata()) == [0.02, 0.5, 1.0] for line in ax.lines)
    assert figure.axes[0].get_ylim()[0] == 0 and "most confident first" in figure.get_supxlabel()


def test_trend_has_a_point_a_model_and_a_line_a_group(rng):
    models = pd.DataFrame({"group": ["standard"] * 6 + ["zero_shot_clip"] * 6}, index=[f"m{k}" for k in range(12)])
    rows = tidy(
        {"model": m, "test_set": name, "metric": metric, "value": rng.uniform(0.1, 0.9), "n": 9}
        for m in models.index
        for name in ("id", "sketch")
        for metric in ("accuracy", "ece_scaled")
    )
    x = np.linspace(0.2, 0.8, 6)
    lines = {("standard", "id"): fit_accuracy_line(x, 0.5 - 0.3 * x + rng.normal(0, 0.01, 6), "linear")}
    figure = plots.ece_against_accuracy(rows, models, lines)
    for ax in figure.axes:
        drawn = {tuple(xy) for c in ax.collections if isinstance(c, PathCollection) for xy in c.get_offsets().tolist()}
        part = rows[rows["test_set"] == ax.get_title(loc="left")]
        wide = part.pivot_table(index="model", columns="metric", values="value")
        assert drawn == set(wide[["accuracy", "ece_scaled"]].itertuples(index=False, name=None))
    (line,) = figure.axes[0].lines
    assert to_hex(line.get_color()) == COLOR["Standard"] and not figure.axes[1].lines
    np.testing.assert_allclose(line.get_ydata(), lines["standard", "id"].predict(line.get_xdata()))
    assert figure.axes[0].get_ylim()[1] >= rows.loc[rows["metric"] == "ece_scaled", "value"].max()


def test_thin_lines_of_many_models_join_before_and_after():
    models = pd.DataFrame({"group": ["standard"] * 20}, index=[f"m{k}" for k in range(20)])
    rows = tidy(
        {"model": m, "test_set": "id", "metric": metric, "value": 0.01 * k + shift, "n": 9}
        for k, m in enumerate(models.index)
        for metric, shift in (("ece", 0.3), ("ece_scaled", 0.1))
    )
    ax = plots.calibration_before_after(rows, models).axes[0]
    ends = next(
        np.array(c.get_segments())
        for c in ax.collections
        if isinstance(c, LineCollection) and len(c.get_segments()) == 20
    )
    np.testing.assert_allclose(ends[:, 0, 0] - ends[:, 1, 0], 0.2)
    assert ax.get_xlim()[0] < 0.1 and ax.get_xlim()[1] > 0.48


LONG = ["set" * 12, "other" * 9]
DRAWN = {
    "means_by_group": (["ece"], LONG, ["p"], {"metrics": ["ece"]}),
    "temperature_sizes": (["nll_excess"], ["id/0 images", "id/10000 images"], ["p"], {}),
    "temperature_transfer": (["ece_scaled"], LONG, [f"temperature of {name}" for name in LONG], {"id_set": LONG[0]}),
    "risk_coverage": (["risk"], LONG, ["coverage 0.50", "coverage 1.00"], {}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_text_stays_inside_the_figure(name):
    *content, options = DRAWN[name]
    rows = means(*content)
    rows = rows[rows["model"] == "Standard"] if name == "temperature_transfer" else rows
    result = getattr(plots, name)(rows, **options)
    figure = result if hasattr(result, "savefig") else result.figure
    figure.canvas.draw()
    box, inner = figure.bbox, figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert inner.x0 >= box.x0 - 2 and inner.x1 <= box.x1 + 2 and inner.y0 >= box.y0 - 2 and inner.y1 <= box.y1 + 2
    with pytest.raises(ClipsafeError, match=r"no rows of metric .*; nothing to draw"):
        getattr(plots, name)(rows.iloc[:0], **options)
