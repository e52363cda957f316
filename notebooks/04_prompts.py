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
ood_sets = ["lab_ood_classes", "lab_ood_superclass", "lab_ood_textures", "lab_ood_scenes", "lab_ood_noise"]
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
ood_scores = ["msp", "mcm", "max_logit", "energy", "gen", "neg_label", "knn", "mahalanobis", "rmd", "vim"]
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
# ## The prompt sets

# %%
present.prompt_sets(study)

# %% [markdown]
# ## What changes
#
# Differences to the first prompt set, with intervals for the same images.

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
