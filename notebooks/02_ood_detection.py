# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Out-of-distribution detection
#
# Does a model know when an image belongs to none of its classes? Each score turns the outputs for an image into one
# number, higher = more out-of-distribution, and is judged by how well it separates in-distribution from out-of-
# distribution images.

# %% tags=["parameters"]
suite = "published"
outputs = "outputs"
published = "../shared/published"
data = "data"
checkpoints = "checkpoints"
zoo = "paper"
select = {}
image_sets = {}
id_set = "imagenet_val"
ood_sets = []
prompt_sets = ["imagenet_80"]
class_names = "openai"
ood_scores = ["msp", "max_logit", "energy"]
ci_level = 0.95
device = "auto"
precision = "float32"
batch_size = 64
models_per_pass = 4
workers = 2

# %%
from clipsafe_utils import plots, present, sections
from clipsafe_utils.study import Study

study = Study(globals())
present.overview(study)

# %% [markdown]
# ## Detection by score and OOD set
#
# *AUROC* is the probability that an out-of-distribution image scores higher than an in-distribution one; 0.5 is
# chance. The false-positive rate at 95% has two readings, and both are reported: `fpr_ood_at_tpr_id95` accepts 95% of
# the in-distribution images and counts the out-of-distribution ones accepted with them (the paper's),
# `fpr_id_at_tpr_ood95` flags 95% of the out-of-distribution images and counts the in-distribution ones flagged with
# them. `msp` is one minus the largest softmax probability at the model's own scale, `mcm` that of plain cosines
# (zero-shot models only), `max_logit` and `energy` use the logits.

# %%
detection = sections.ood_table(study)
for metric in ("auroc", "fpr_ood_at_tpr_id95"):
    present.figure(
        study,
        f"ood_{metric}",
        plots.ood_detection,
        detection[detection["metric"] == metric],
        study.models,
        metric=metric,
        what=f"OOD detection ({metric})",
        direction=plots.metric_style(metric).direction,
    )
present.results(study, detection, "ood_detection")

# %% [markdown]
# ## What the scores look like
#
# A single number hides how the two kinds of images overlap. Drawn for the first model and the first score.

# %%
scored = sections.score_samples(study)
present.figure(
    study,
    "ood_scores",
    plots.score_distributions,
    scored.inside,
    scored.outside,
    method=ood_scores[0],
    captioned=detection[
        (detection["model"] == scored.model)
        & detection["protocol"].eq(scored.protocol)
        & detection["metric"].eq("auroc")
    ],
    what=f"Scores of {scored.model} on {id_set} and the OOD sets",
    direction="further right is more out-of-distribution",
)

# %% [markdown]
# ## Does better classification mean better detection?

# %%
with_accuracy = sections.with_id_accuracy(study, detection, ood_scores[0])
present.figure(
    study,
    "ood_against_accuracy",
    plots.against_id_accuracy,
    with_accuracy if len(study.models) > 2 else (),
    study.models,
    x_set=id_set,
    metric="auroc",
    captioned=with_accuracy[with_accuracy["metric"] == "auroc"],
    what=f"AUROC of {ood_scores[0]} against accuracy on {id_set}",
    direction="higher is better on both axes",
)

# %% [markdown]
# ## Limits
#
# AUROC intervals are DeLong's; those of the false-positive rates take the threshold as fixed. The share of OOD images
# whose object is in fact one of the classes differs between sets and bounds what any score can reach.
#
# ## References
#
# DeLong et al. Biometrics 1988. Hendrycks, Gimpel. ICLR 2017. Hendrycks et al. ICML 2022. Liu et al. NeurIPS 2020.
# Ming et al. NeurIPS 2022. Tu, Deng, Gedeon. NeurIPS 2023 (arXiv 2402.07410).

# %%
present.unreadable(study)
study.finish("02_ood_detection")
