"""What each section of the study reports: one function a question, from a study to rows of the tidy table."""

from clipsafe_utils.sections.calibration import calibration, reliability_curves
from clipsafe_utils.sections.factors import cue_conflict, paired_effects, visual_factors
from clipsafe_utils.sections.ood import NO_OOD_SETS, ood_scores, ood_table, score_samples, with_id_accuracy
from clipsafe_utils.sections.prompts import NO_ZERO_SHOT, prompt_effects
from clipsafe_utils.sections.robustness import SAME_CLASSES, accuracy, robustness
from clipsafe_utils.sections.rows import CLIP_GROUPS, WITH_IMAGES, group_means, row

__all__ = [
    "CLIP_GROUPS",
    "NO_OOD_SETS",
    "NO_ZERO_SHOT",
    "SAME_CLASSES",
    "WITH_IMAGES",
    "accuracy",
    "calibration",
    "cue_conflict",
    "group_means",
    "ood_scores",
    "ood_table",
    "paired_effects",
    "prompt_effects",
    "reliability_curves",
    "robustness",
    "row",
    "score_samples",
    "visual_factors",
    "with_id_accuracy",
]
