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
# # Prompts
#
# A zero-shot model is half prompt: its classifier is made of class names in templates. Does a prompt set that helps
# accuracy also help calibration and the detection of out-of-distribution images? All prompt sets are judged on the
# same image embeddings, so every difference is paired.

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
n_bins = 15
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
# ## The prompt sets

# %%
present.prompt_sets(study)

# %% [markdown]
# ## What changes
#
# Differences to the first prompt set, with paired bootstrap intervals over images.

# %%
effects = sections.prompt_effects(study)
differences = effects[effects["metric"].str.endswith("_difference")]
present.figure(
    study,
    "prompt_effects",
    plots.prompt_effects,
    differences,
    study.models,
    reference=study.main_prompts,
    what=f"Change by prompt set against {study.main_prompts}",
    direction="accuracy and AUROC: higher is better; ECE: lower is better",
)
present.results(study, effects, "prompt_effects")

# %% [markdown]
# ## Limits
#
# Prompt sets differ in size and wording at once. Class names are fixed here; duplicated names (two missiles, two
# sunglasses in the usual ImageNet list) cannot be told apart by any template, and ties go to the lower class index.
#
# ## References
#
# Radford et al. ICML 2021. Tu, Deng, Gedeon. NeurIPS 2023 (arXiv 2402.07410).

# %%
present.unreadable(study)
study.finish("04_prompts")
