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
# # Calibration
#
# Does a confidence of 80% mean that 80% of such predictions are right? Measured as models come, and after the one
# repair that everybody can afford: a single temperature, fitted on in-distribution images.

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
shifted_sets = ["imagenet_v2_matched_frequency", "imagenet_a", "imagenet_r", "imagenet_sketch"]
prompt_sets = ["imagenet_80"]
class_names = "openai"
n_bins = 15
calibration_fraction = 0.5
ci_level = 0.95
n_bootstrap = 1000
seed = 0
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
# ## Calibration error and likelihood
#
# *ECE* is the gap between confidence and accuracy, averaged over equal-width bins of top-label confidence, closed on
# the right. It grows with the number of bins and shrinks with n even for a calibrated model, so compare it at equal
# n. *NLL* and *Brier* judge the whole distribution. The temperature minimises the NLL on a stratified, seeded share
# of the in-distribution images; every number below is of images that the fit never saw. `overconfidence` is mean
# confidence minus accuracy: positive means too sure.

# %%
calibration = sections.calibration(study)
present.results(study, calibration, "calibration")

# %%
present.figure(
    study,
    "calibration_before_after",
    plots.calibration_before_after,
    calibration if calibration["metric"].eq("ece_scaled").any() else (),
    study.models,
    captioned=calibration[calibration["metric"].isin(["ece", "ece_scaled"])],
    what="ECE before (open) and after (filled) temperature scaling",
    direction="lower is better",
)

# %% [markdown]
# ## Reliability
#
# Points below the diagonal are overconfident. Bars are Wilson intervals of the accuracy in a bin.

# %%
curves = sections.reliability_curves(study)
present.figure(
    study,
    "reliability",
    plots.reliability_diagram,
    curves,
    captioned=calibration[calibration["metric"].isin(["ece", "ece_scaled"]) & calibration["test_set"].eq(id_set)],
    what=f"Reliability on {id_set}",
    direction="on the diagonal is calibrated",
)

# %% [markdown]
# ## Limits
#
# ECE sees the top label only and depends on its bins; its bootstrap interval inherits the estimator's upward bias.
# Published predictions carry the top-1 probability alone, so neither NLL nor a temperature can be computed from them.
#
# ## References
#
# Guo et al. ICML 2017. Minderer et al. NeurIPS 2021. Naeini et al. AAAI 2015. Tu, Deng, Gedeon. NeurIPS 2023 (arXiv
# 2402.07410).

# %%
present.unreadable(study)
study.finish("03_calibration")
