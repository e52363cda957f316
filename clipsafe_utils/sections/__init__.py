"""What each section of the study reports: one function a question, from a study to rows of the tidy table."""

from clipsafe_utils.sections.calibration import calibration, reliability_curves
from clipsafe_utils.sections.comparisons import (
    CALIPER,
    accuracy_pairs,
    contrasts,
    fine_tuning_pairs,
    matched_accuracy,
    quantity_pairs,
    resolution_pairs,
    seed_means,
    source_pairs,
    strata,
    stratum_means,
)
from clipsafe_utils.sections.factors import paired_effects, shrunken, visual_factors
from clipsafe_utils.sections.ood import (
    NO_OOD_SETS,
    drawn_scores,
    fitted_on,
    main_score,
    of_score,
    ood_scores,
    ood_table,
    ood_tables,
    score_samples,
    shown_detection_metrics,
    with_id_accuracy,
)
from clipsafe_utils.sections.ood_comparisons import (
    accuracy_correlations,
    best_scores,
    fine_tuning_effects,
    near_and_far,
    score_choice,
    simpson,
    training_strata,
)
from clipsafe_utils.sections.prompts import NO_ZERO_SHOT, prompt_effects
from clipsafe_utils.sections.robustness import SAME_CLASSES, accuracy, robustness
from clipsafe_utils.sections.rows import CLIP_GROUPS, WITH_IMAGES, group_means, row
from clipsafe_utils.sections.shape import category_means, cue_conflict, shape_and_robustness, shape_by_category

PER_MODEL = (
    *(accuracy, visual_factors, paired_effects, cue_conflict, ood_table, drawn_scores, calibration),
    prompt_effects,
)
"""Those that look at a model's outputs; every question that another one asks is among theirs."""

__all__ = [
    "CALIPER",
    "CLIP_GROUPS",
    "NO_OOD_SETS",
    "NO_ZERO_SHOT",
    "PER_MODEL",
    "SAME_CLASSES",
    "WITH_IMAGES",
    "accuracy",
    "accuracy_correlations",
    "accuracy_pairs",
    "best_scores",
    "calibration",
    "category_means",
    "contrasts",
    "cue_conflict",
    "drawn_scores",
    "fine_tuning_effects",
    "fine_tuning_pairs",
    "fitted_on",
    "group_means",
    "main_score",
    "matched_accuracy",
    "near_and_far",
    "of_score",
    "ood_scores",
    "ood_table",
    "ood_tables",
    "paired_effects",
    "prompt_effects",
    "quantity_pairs",
    "reliability_curves",
    "resolution_pairs",
    "robustness",
    "row",
    "score_choice",
    "score_samples",
    "seed_means",
    "shape_and_robustness",
    "shape_by_category",
    "shown_detection_metrics",
    "shrunken",
    "simpson",
    "source_pairs",
    "strata",
    "stratum_means",
    "training_strata",
    "visual_factors",
    "with_id_accuracy",
]
