"""Sentences of the pages: what they say of intervals, and of numbers that have none."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from clipsafe_utils import present
from clipsafe_utils.present import basics, sentences
from clipsafe_utils.table import tidy


@pytest.fixture
def said(monkeypatch):
    """What a page shows, as text."""
    shown = []
    for module in (basics, sentences):
        monkeypatch.setattr(module, "display", lambda markdown: shown.append(markdown.data))
    return shown


def means_of(limits, group="standard", n_models=5, n_starts=5):
    rows = [(group, test_set, *three, n_models, n_starts) for test_set, three in limits.items()]
    return pd.DataFrame(rows, columns=["group", "test_set", "mean", "low", "high", "n_models", "n_starts"])


def rows_of(limits, model="all models", **facts):
    facts = {"metric": "pearson", "protocol": "p", "n": 8, "ci_kind": "fisher"} | facts
    parts = [
        {"model": model, "test_set": test_set, "value": value, "ci_low": low, "ci_high": high, "ci_level": 0.95} | facts
        for test_set, (value, low, high) in limits.items()
    ]
    return tidy(parts)


LIMITS = {"s/up": (0.02, 0.01, 0.03), "s/down": (-0.2, -0.3, -0.1), "s/unclear": (0.01, -0.02, 0.04)}
NONE = (0.5, np.nan, np.nan)


def test_findings_sort_test_sets_by_their_interval(said):
    present.findings(means_of(LIMITS), group="standard", above="more", below="less")
    assert said == [
        "**Standard** (5 models; mean in percentage points, interval over models):\n\n"
        "- more: 1 of 3: up (+2.0, 1.0 to 3.0)\n"
        "- less: 1 of 3: down (-20, -30 to -10)\n"
        "- not distinguishable from zero: 1 of 3: unclear (+1.0, -2.0 to 4.0)"
    ]


def test_no_interval_is_not_indistinguishable_from_zero(said):
    present.findings(means_of(LIMITS | {"s/bare": NONE}), group="standard", above="more", below="less")
    assert said[0].endswith("\n- no interval: 1 of 4: bare") and "not distinguishable from zero: 1 of 3" in said[0]
    present.findings(means_of({"s/bare": NONE}, n_models=3, n_starts=2), group="standard", above="more", below="less")
    assert said[1] == "**Standard** (3 models of 2 starts): no interval over models."
    present.findings(means_of({"s": NONE}, n_models=1, n_starts=1), group="standard", above="more", below="less")
    assert said.pop() == "**Standard** (1 model): no interval over models."
    rows = rows_of({"bare": NONE} | LIMITS, model="B")
    present.strata(rows, above="more", below="less")
    assert said[2].endswith(
        "- **B** (8 models): more: up (+2.0); less: down (-20); not distinguishable from zero: 1 of 3; "
        "no interval: 1 of 4"
    )
    best = pd.DataFrame({"group": "Standard", "test_set": ["a", "b", "c"], "score": "gen", "n": 2, "ci_kind": "t"})
    best[["gain", "low", "high"]] = [(0.02, 0.01, 0.03), (0.01, -0.01, 0.03), NONE]
    present.best_scores(best, "msp")
    assert said[3].endswith(
        "- a: gen (+2.0, 1.0 to 3.0)\n- none is distinguishable from msp, or better: b\n- no interval: c"
    )


def test_starts_are_named_where_models_share_them(said):
    rows = rows_of(LIMITS, n=18, ci_kind="fisher over 8 starts")
    present.correlations(rows, what="shape and robustness", above="together", below="against")
    assert said[0].startswith("**shape and robustness, all models** (Pearson's correlation, 18 models of 8 starts):")


def test_of_several_ways_the_correlation_with_most_taken_away_is_said(said):
    ways = ["all models", "within groups", "within group, encoder and source"]
    rows = pd.concat(rows_of({"s": (r, r - 0.1, r + 0.1)}, way) for way, r in zip(ways, (0.6, 0.4, 0.0), strict=True))
    present.correlations(rows, what="x", above="together", below="against")
    assert len(said) == 1 and ways[2] in said[0] and "not distinguishable from zero: 1 of 1" in said[0]
    present.correlations(rows[rows["model"] != ways[2]], what="x", above="together", below="against")
    assert ways[1] in said[1] and "- together: 1 of 1" in said[1]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-30.0, -10.0, "-20, -30 to -10"),
        (1.0, 3.0, "+2.0, 1.0 to 3.0"),
        (0.011, 0.013, "+0.0120, 0.0110 to 0.0130"),
        (0.0002, 3.0002, "+1.5002, 0.0002 to 3.0002"),
        (0.0, 1.0, "+0.50, 0.00 to 1.00"),
    ],
)
def test_numbers_have_the_digits_that_the_interval_is_sure_of(low, high, expected):
    """Two significant digits of half the width, and more where a limit near 0 would be written as 0."""
    assert sentences.limits((low + high) / 2, low, high) == expected


def test_a_temperature_needs_the_size_from_which_on_it_is_better(said):
    changes = {"id/50 images": (-0.01, -0.03, 0.01), "id/100 images": (-0.02, -0.03, -0.01)}
    changes |= {"id/500 images": (-0.05, -0.06, -0.04)}
    never = {"id/50 images": (-0.04, -0.05, -0.03), "id/500 images": (0.0, -0.02, 0.02)}
    present.sizes_needed(pd.concat([rows_of(changes, "Standard", metric="nll_change"), rows_of(never, "Other")]))
    assert "- Standard (8 models): **100** images; with 500 the NLL changes by -0.050, -0.060 to -0.040 nats" in said[0]
    assert "- Other (8 models): none of the sizes up to 500;" in said[0], "50 was better, 500 is not: chance"


def test_sizes_are_said_in_their_order(said):
    sizes = {f"id/{n} images": (0.02, 0.01, 0.03) for n in (100, 200, 50)}
    present.group_findings(rows_of(sizes, "Standard", metric="nll"), "nll", above="worse", below="better", unit="nats")
    assert "50 images (+0.020, 0.010 to 0.030), 100 images (" in said[0]


def test_simpson_says_the_interval_of_the_difference(said):
    verdicts = pd.DataFrame({"test_set": ["near"], "overall": 0.6, "within": 0.1, "low": 0.2, "high": 0.8})
    present.simpson(verdicts.assign(verdict="over all models alone"))
    assert "- over all models alone: 1 of 1: near (+0.60, within +0.10, difference 0.20 to 0.80)" in said[0]


def test_counts_that_are_not_known_are_blank_and_sort_as_numbers(monkeypatch):
    shown = []
    monkeypatch.setattr(basics.itables, "show", lambda frame, **options: shown.append(frame))
    counts = pd.DataFrame({"n": pd.array([26, None, 3], "Int64"), "note": ["a", None, "c"], "x": [0.12346, np.nan, 1]})
    present.table(counts)
    assert shown[0]["n"].tolist() == [26, "", 3] and shown[0]["note"].tolist() == ["a", "", "c"]
    assert shown[0]["x"].iloc[0] == 0.1235


def test_one_model_is_one_model(said):
    models = pd.DataFrame({"group": ["standard"], "distinct": True}, index=["a"])
    study = SimpleNamespace(in_play=[], models=models, parameters=SimpleNamespace(suite="s"), missing={}, told=set())
    present.overview(study)
    assert said == ["**Suite s**: 1 Standard (1 model in all)."]
