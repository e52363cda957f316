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
suite = "published"
outputs = "outputs"
published = "../shared/published"
data = "data"
zoo = "paper"
select = {}
image_sets = {}
n_bins = 15
ci_level = 0.95
n_bootstrap = 1000
seed = 0

# %%
from clipsafe_utils import present
from clipsafe_utils.study import Study

study = Study(globals())
present.overview(study)

# %% [markdown]
# ## Results by section
#
# Every number of the suite is a row of one table; the sections wrote them. Counted here by section and metric.

# %%
results = present.all_results(study)

# %% [markdown]
# ## Main numbers by group
#
# Means over the models of a group, where a group has more than one.

# %%
present.group_summary(study, results)

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
