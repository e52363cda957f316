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
# # Overview
#
# What this suite compares, what it found, and where each number comes from. The sections hold the arguments: [visual
# factors](01_visual_factors), [OOD detection](02_ood_detection), [calibration](03_calibration) and
# [prompts](04_prompts).

# %% tags=["parameters"]
suite = "lab"
outputs = "outputs"
published = "../shared/published"
data = "data"
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
control_sets = ["lab_resample"]
factors = [
    "pose",
    "background",
    "pattern",
    "color",
    "smaller",
    "shape",
    "partial_view",
    "subcategory",
    "texture",
    "larger",
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
n_bins = 15
ci_level = 0.95

# %%
from clipsafe_utils import present
from clipsafe_utils.study import Study

study = Study(globals())
present.overview(study, whole_suite=True)

# %% [markdown]
# ## Results by section
#
# The main numbers of all sections are rows of one table, counted here by section and metric; what the sections derive
# from them is in tables of its own, under "Tables and figures".

# %%
results = present.all_results(study)

# %% [markdown]
# ## What the study claims
#
# Each sentence of the study that a suite can decide, tested on the table above: *supported* or *contradicted* where the
# evidence suffices after correction for the number of claims, *inconclusive* where it does not, *not testable* where
# the suite lacks what it takes. Groups are compared as they are, not at equal accuracy, unless the sentence says so.
# Where no group has three models, the verdict is about these models alone and marked; test sets without a shift
# (`control_sets`) count in no claim about distribution shift.

# %%
present.claims(study, results)

# %% [markdown]
# ## Main numbers by group
#
# Means over the models of a group, where a group has more than one.

# %%
present.group_summary(study, results)

# %% [markdown]
# ## What moves safety?
#
# Groups of models differ in several things at once: in training source, quantity of data, encoder, loss, fine-tuning
# and input resolution. Here each safety property is regressed on all of these together, with a random intercept for
# each model and effects that add up, so that a term compares models that are alike in everything else that is known.
# Except for effective robustness, which holds it already, in-distribution accuracy is one of these things: what a fact
# does by way of accuracy is then not part of its effect.

# %%
found = present.regression(study, results)

# %% [markdown]
# ### What cannot be told apart
#
# A fact that always comes with another has no effect of its own in any data of this kind. Such terms carry the name of
# one and stand for both; they are found from the algebra of the design, with the models counted. A term is *hard to
# tell* from others where these make its interval at least twice as wide. Only training further models can separate
# them. Models that share a recipe, or a start, count as independent here.

# %%
present.confounding(found)

# %% [markdown]
# ## Out of line
#
# Results that fit neither a model's group, nor its near-twins, nor its training source: calibration far from the
# group's median, OOD detection that differs between models of the same encoder and source, a factor's effect against
# the sign of the source's other models. Far means farther than chance among the peers, once in twenty tables without a
# fault; a distance counts robust standard deviations of the peers, between few twins standard errors. A finding is a
# reason to look, and each list ends with where to begin.

# %%
present.signatures(study, results)

# %% [markdown]
# ## Measured against published accuracy
#
# Before a model enters the suite, its ImageNet accuracy is compared with the published one, under the protocol that
# the published one has. What differs by more than the tolerance is quarantined: it is in no table and no figure,
# unless `admit` names it.

# %%
present.golden_numbers(study)

# %% [markdown]
# ## The models

# %%
present.table(study.models.drop(columns=["name"]).reset_index())

# %% [markdown]
# ## Quarantined
#
# Published rows that cannot be a model's result, by name and reason; they are in no figure.

# %%
present.quarantine(study)

# %%
study.finish("00_overview")
