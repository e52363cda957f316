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
suite = "lab"
outputs = "outputs"
published = "../shared/published"
data = "data"
checkpoints = "checkpoints"
zoo = "lab"
select = {}
image_sets = {
    "lab_id": {},
    "lab_factors": {},
    "lab_pairs": {},
    "lab_resample": {},
    "lab_art": {},
    "lab_sketch": {},
    "lab_viewpoint": {},
    "lab_hard": {},
    "lab_noise": {},
    "lab_dark": {},
    "lab_renderer": {},
    "lab_cue_conflict": {},
    "lab_ood_classes": {},
    "lab_ood_superclass": {},
    "lab_ood_textures": {},
    "lab_ood_scenes": {},
    "lab_ood_noise": {},
}
id_set = "lab_id"
shifted_sets = [
    "lab_resample",
    "lab_art",
    "lab_sketch",
    "lab_viewpoint",
    "lab_hard",
    "lab_noise",
    "lab_dark",
    "lab_renderer",
]
prompt_sets = [
    {"neutral": ["a photo of a {}"]},
    {"bare": ["{}"]},
    {
        "curated": [
            "a picture of a {}",
            "an image of a {}",
            "this is a {}",
            "a close view of a {}",
            "there is a {}",
            "the {}",
            "one {}",
            "a small picture of a {}",
        ]
    },
    {"web": ["{} buy online", "new {}", "{} hd stock", "cheap {} sale", "{} jpg", "best {}", "nice {}", "{} shop"]},
    {"absent": ["we once drew every {} from memory"]},
    {
        "random_words": [
            "{} green online",
            "{} metal best",
            "{} zigzag ringed",
            "{} sky vintage",
            "{} sea blue",
            "{} wow free",
            "{} woolly 2021",
            "{} cute rough",
        ]
    },
    {
        "scenery": [
            "a photo of the meadow with the {} behind",
            "a photo of the beach with the {} behind",
            "a photo of the wall with the {} behind",
            "a photo of the floor with the {} behind",
            "a photo of the sky with the {} behind",
            "a photo of the sea with the {} behind",
            "a photo of the night with the {} behind",
            "a photo of the snow with the {} behind",
        ]
    },
    {"synonyms": {"templates": ["a photo of a {}"], "class_names": "synonyms"}},
]
class_names = "openai"
protocol = "tu-2023"
logit_scale = None
label_space = "subset"
crop = "own"
features = True
n_bins = 15
calibration_fraction = 0.5
ci_level = 0.95
gate_tolerance = 0.5
admit = []
seed = 0
device = "auto"
precision = "float32"
batch_size = 250
models_per_pass = 64
workers = 0
engine = "local"
nodes = {}
keep = "embeddings"
store = None

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
# ECE sees the top label only and depends on its bins. Its estimate adds up absolute gaps, so noise alone makes it
# larger, the more the fewer the images; its interval is one of the error that the model has with these bins, with the
# noise removed, and a model that may be calibrated has an interval down to 0. The value can lie above its own interval.
# Published predictions carry the top-1 probability alone, so neither NLL nor a temperature can be computed from them.
#
# ## References
#
# Guo et al. ICML 2017. Minderer et al. NeurIPS 2021. Naeini et al. AAAI 2015. Tu, Deng, Gedeon. NeurIPS 2023 (arXiv
# 2402.07410).

# %%
present.unreadable(study)
study.finish("03_calibration")
