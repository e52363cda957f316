"""What each section of the study reports: one function a question, from a study to rows of the tidy table."""

from clipsafe_utils.sections.calibration import calibration, reliability_curves
from clipsafe_utils.sections.comparisons import contrasts, fine_tuning_pairs, seed_means, source_pairs
from clipsafe_utils.sections.factors import cue_conflict, paired_effects, visual_factors
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
from clipsafe_utils.sections.prompts import (
    ALL,
    NO_ZERO_SHOT,
    choice_costs,
    mean_effects,
    prompt_effects,
    prompt_front,
    prompt_grid,
    prompt_objectives,
    prompt_set_facts,
    variance_decomposition,
)
from clipsafe_utils.sections.robustness import SAME_CLASSES, accuracy, robustness
from clipsafe_utils.sections.rows import CLIP_GROUPS, WITH_IMAGES, group_means, row

PER_MODEL = (
    *(accuracy, visual_factors, paired_effects, cue_conflict, ood_table, drawn_scores, calibration),
    prompt_grid,
)
"""Those that look at a model's outputs; every question that another one asks is among theirs."""

__all__ = [
    "ALL",
    "CLIP_GROUPS",
    "NO_OOD_SETS",
    "NO_ZERO_SHOT",
    "PER_MODEL",
    "SAME_CLASSES",
    "WITH_IMAGES",
    "accuracy",
    "accuracy_correlations",
    "best_scores",
    "calibration",
    "choice_costs",
    "contrasts",
    "cue_conflict",
    "drawn_scores",
    "fine_tuning_effects",
    "fine_tuning_pairs",
    "fitted_on",
    "group_means",
    "main_score",
    "mean_effects",
    "near_and_far",
    "of_score",
    "ood_scores",
    "ood_table",
    "ood_tables",
    "paired_effects",
    "prompt_effects",
    "prompt_front",
    "prompt_grid",
    "prompt_objectives",
    "prompt_set_facts",
    "reliability_curves",
    "robustness",
    "row",
    "score_choice",
    "score_samples",
    "seed_means",
    "shown_detection_metrics",
    "simpson",
    "source_pairs",
    "training_strata",
    "variance_decomposition",
    "visual_factors",
    "with_id_accuracy",
]
