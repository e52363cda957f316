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
# accuracy also help calibration and the detection of out-of-distribution images? How much of what is measured lies in
# the prompts, how much in the model and the test set, and does choosing prompts for one objective cost another? All
# prompt sets are judged on the same image embeddings, so every difference is paired.

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
n_bootstrap = 200
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
#
# What is known of each: how many templates it has, which list of class names fills them, how many texts a model embeds
# for it, how many tokens these have with start and end, and where it is from. The first is the one that the others are
# compared with, and the one of all other sections.

# %%
present.prompt_sets(*sections.prompt_set_facts(study))

# %% [markdown]
# ## What changes
#
# Differences of each model to its numbers with the first prompt set, with intervals for the same images. With
# `reference="bare"`, `prompt_effects` and `mean_effects` compare with another set of the suite.

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
# ## On average over models, and by training source
#
# The same differences as means over models, with intervals over models: what to expect of models of the kind on
# average. ECE after scaling is of the images that no temperature was fitted on; AUROC is the mean over the OOD sets,
# for the main score and for MCM, which takes plain cosines and is made for prompts.

# %%
grid = sections.prompt_grid(study, effects)
objectives = sections.prompt_objectives(study, grid)
means = sections.mean_effects(study, objectives)
present.figure(
    study,
    "prompt_means",
    plots.mean_prompt_effects,
    means,
    reference=study.main_prompts,
    what=f"Mean change by prompt set against {study.main_prompts}",
    direction="accuracy and AUROC: higher is better; ECE: lower is better",
    units=("group", "models"),
)
present.prompt_means(means)
present.results(study, means, "prompt_means")
# %% [markdown]
# ## Where the variance lies
#
# Every model meets every prompt set on every test set, so the variance of an objective can be split without remainder:
# how far models, prompt sets and test sets differ on average, and how far the effect of one depends on another. ID and
# shifted sets for accuracy and ECE, OOD sets for AUROC. The last share, of all three together, holds the sampling error
# of the images too.

# %%
shares = sections.variance_decomposition(study, grid)
present.figure(
    study,
    "prompt_variance",
    plots.variance_shares,
    shares,
    what="Share of the variance by effect",
    units=("objective", "models"),
)
present.variance_shares(shares)
study.save(grid, "prompt_grid")
present.results(study, shares, "prompt_variance")
# %% [markdown]
# ## Which prompt sets no other beats
#
# A prompt set is on the Pareto front if no other is at least as good in accuracy, ECE and AUROC and better in one. Full
# marks are on it, hollow ones are beaten.

# %%
front = sections.prompt_front(study, objectives)
present.figure(
    study,
    "prompt_front",
    plots.prompt_front,
    front,
    captioned=means[means["model"] == sections.ALL],
    what="Means over models by prompt set; bars from paired differences to the first; lines join fronts of two",
    units=("group", "models"),
)
present.prompt_front(front)

# %% [markdown]
# ## What choosing by one objective costs another
#
# For each model the best set by one objective and the best by another are chosen on all *other* models: chosen on the
# model itself, the best would look better than it is.

# %%
present.choice_costs(sections.choice_costs(study, objectives))

# %% [markdown]
# ## Limits
#
# Prompt sets differ in size and wording at once; of the sets named `imagenet_5` and `imagenet_30` only the sizes are
# the paper's, the templates are a reconstruction. Intervals over models are of these prompt sets and these test sets:
# other templates of the same kind would give other numbers, by an amount that one set of a kind cannot show, and how
# much of the variance lies in the prompt set depends on how far apart the sets were chosen. Models that share a
# training set are not independent. Names that several classes share cannot be told apart by any template, and ties go
# to the lower class index. Nothing here is optimised: learned prompts are another study.
#
# ## References
#
# Radford et al. ICML 2021. Tu, Deng, Gedeon. NeurIPS 2023 (arXiv 2402.07410). Roth et al. ICCV 2023 (random words).
# Ming et al. NeurIPS 2022 (MCM). Searle, Casella, McCulloch. Variance Components, 1992.

# %%
present.unreadable(study)
study.finish("04_prompts")
