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
from clipsafe_utils.sections.calibration import calibration, hardest_set, reliability_by_group, reliability_curves
from clipsafe_utils.sections.calibration_comparisons import accuracy_trend, means_by_group, scaling_effects
from clipsafe_utils.sections.comparisons import (
    contrasts,
    fine_tuning_pairs,
    quantity_pairs,
    seed_means,
    source_pairs,
)
from clipsafe_utils.sections.confidence import (
    factor_calibration,
    ood_confidence,
    risk_coverage_means,
)
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
from clipsafe_utils.sections.shape import category_means, cue_conflict, shape_and_robustness, shape_by_category

PER_MODEL = (
    *(accuracy, visual_factors, paired_effects, cue_conflict, ood_table, drawn_scores, calibration),
    prompt_grid,
from clipsafe_utils.sections.temperature import (
    own_temperature_gains,
    temperature_sizes,
    temperature_transfer,
    transfer_means,
)

PER_MODEL = (
    *(accuracy, visual_factors, paired_effects, cue_conflict, ood_table, drawn_scores, calibration),
    *(temperature_transfer, temperature_sizes, ood_confidence, factor_calibration),
    prompt_effects,
)
"""Those that look at a model's outputs; every question that another one asks is among theirs."""

__all__ = [
    "ALL",
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
    "accuracy_trend",
    "best_scores",
    "calibration",
    "category_means",
    "choice_costs",
    "contrasts",
    "cue_conflict",
    "drawn_scores",
    "factor_calibration",
    "fine_tuning_effects",
    "fine_tuning_pairs",
    "fitted_on",
    "group_means",
    "hardest_set",
    "main_score",
    "matched_accuracy",
    "mean_effects",
    "means_by_group",
    "near_and_far",
    "of_score",
    "ood_confidence",
    "ood_scores",
    "ood_table",
    "ood_tables",
    "own_temperature_gains",
    "paired_effects",
    "prompt_effects",
    "prompt_front",
    "prompt_grid",
    "prompt_objectives",
    "prompt_set_facts",
    "quantity_pairs",
    "reliability_curves",
    "resolution_pairs",
    "quantity_pairs",
    "reliability_by_group",
    "reliability_curves",
    "risk_coverage_means",
    "robustness",
    "row",
    "scaling_effects",
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
    "variance_decomposition",
    "temperature_sizes",
    "temperature_transfer",
    "training_strata",
    "transfer_means",
    "visual_factors",
    "with_id_accuracy",
]
