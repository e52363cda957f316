"""Figures of the study: tidy rows in, axes out. Nothing is measured here, no file is written.

`table` holds tidy rows (see `clipsafe_utils.table`), `models` is a DataFrame indexed by model id with a column `group`.
Functions of one axes take `ax=None` and return it; those with one panel a test set or metric take `panels=None`, a list
of all axes of a figure, and return the figure. Up to `FEW` models are drawn by name with their intervals, more as one
strip a group with its mean. A value of NaN is not drawn; no rows at all, several for one point and a model without a
known group are a `ClipsafeError`.
"""

from clipsafe_utils.plots.base import (
    FEW,
    FEW_IMAGES,
    FEW_MARK,
    GROUP_STYLE,
    METRICS,
    caption,
    legend,
    metric_style,
    set_style,
)
from clipsafe_utils.plots.calibration import (
    calibration_before_after,
    ece_against_accuracy,
    means_by_group,
    reliability_by_group,
    reliability_diagram,
    risk_coverage,
    temperature_sizes,
    temperature_transfer,
)
from clipsafe_utils.plots.comparisons import comparisons
from clipsafe_utils.plots.ood import (
    accuracy_correlations,
    against_id_accuracy,
    fine_tuning_paths,
    ood_detection,
    score_distributions,
    score_gains,
    scores_by_group,
)
from clipsafe_utils.plots.prompts import (
    OBJECTIVES,
    mean_prompt_effects,
    prompt_effects,
    prompt_front,
    variance_shares,
)
from clipsafe_utils.plots.regression import regression
from clipsafe_utils.plots.robustness import (
    accuracy_on_accuracy,
    effective_robustness,
    error_ratios,
    paired_effects,
    shrinkage,
    stratum_means,
)
from clipsafe_utils.plots.shape import (
    model_pairs,
    shape_and_robustness,
    shape_bias,
    shape_by_category,
    share_decided,
)

__all__ = [
    "FEW",
    "FEW_IMAGES",
    "FEW_MARK",
    "GROUP_STYLE",
    "METRICS",
    "OBJECTIVES",
    "accuracy_correlations",
    "accuracy_on_accuracy",
    "against_id_accuracy",
    "calibration_before_after",
    "caption",
    "comparisons",
    "ece_against_accuracy",
    "effective_robustness",
    "error_ratios",
    "fine_tuning_paths",
    "legend",
    "mean_prompt_effects",
    "means_by_group",
    "metric_style",
    "model_pairs",
    "ood_detection",
    "paired_effects",
    "prompt_effects",
    "prompt_front",
    "regression",
    "reliability_by_group",
    "reliability_diagram",
    "risk_coverage",
    "score_distributions",
    "score_gains",
    "scores_by_group",
    "set_style",
    "shape_and_robustness",
    "shape_bias",
    "shape_by_category",
    "share_decided",
    "shrinkage",
    "stratum_means",
    "temperature_sizes",
    "temperature_transfer",
    "variance_shares",
]
