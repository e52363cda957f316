"""Results that others published, read into clean frames and into the one tidy table.

Real models without their weights: per-image predictions and accuracies per factor (ImageNet-X), cue-conflict trials of
humans and CNNs (Geirhos et al.), and accuracy tables (open_clip, timm, ImageNet-Testbed). The files are looked for in
`folder`, else in the folder that CLIPSAFE_PUBLISHED names, else in ../shared/published; a file that is not there is
downloaded once from its origin and checked (`files.csv`). Accuracies are fractions.

**The x axis of ImageNet-A and -R.** Both cover 200 classes, so their accuracy belongs beside ImageNet accuracy on the
same classes. timm and ImageNet-Testbed publish it ("imagenet_val/a_classes", "imagenet_val/r_classes"); open_clip's
table does not: for its models only the 1,000-class "imagenet_val" exists, 13 points lower on average for timm's.

How models are grouped is data: `rules.yaml`.
"""

from clipsafe_utils.published.files import published_file
from clipsafe_utils.published.models import published_models
from clipsafe_utils.published.readers import (
    read_cue_conflict_trials,
    read_factor_accuracies,
    read_imagenet_testbed,
    read_imagenet_x_predictions,
    read_openclip_results,
    read_timm_results,
)
from clipsafe_utils.published.tables import published_table

__all__ = [
    "published_file",
    "published_models",
    "published_table",
    "read_cue_conflict_trials",
    "read_factor_accuracies",
    "read_imagenet_testbed",
    "read_imagenet_x_predictions",
    "read_openclip_results",
    "read_timm_results",
]
