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
# Does a model know when an image belongs to none of its classes? The study says: within one training source, CLIP
# models that classify better also detect better, and fine-tuning can undo it unless it goes by way of a larger label
# set. Each score below turns what a model says of an image into one number, higher = more out-of-distribution, and is
# judged by how well it separates in-distribution (ID) from out-of-distribution (OOD) images.

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
near_ood_sets = ["lab_ood_classes", "lab_ood_superclass"]
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
fpr_positive = "id"
calibration_fraction = 0.5
ci_level = 0.95
n_bootstrap = 200
seed = 0
gate_tolerance = 0.5
admit = []
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
# ## Detection by score and OOD set
#
# *AUROC* is the probability that an OOD image scores higher than an ID one; 0.5 is chance. The false-positive rate at
# 95% has two readings, and both are in the table: `fpr_ood_at_tpr_id95` accepts 95% of the ID images and counts the OOD
# ones accepted with them (the paper's), `fpr_id_at_tpr_ood95` flags 95% of the OOD images and counts the ID ones
# flagged with them.
#
# | score | looks at | how |
# | --- | --- | --- |
# | `msp`, `max_logit`, `energy`, `gen` | logits | 1 - largest probability, - largest logit, - logsumexp, entropy-like |
# | `mcm` | cosines of zero-shot models | 1 - largest softmax probability of plain cosines |
# | `neg_label` | zero-shot models, text | probability that words which name no class take from the classes |
# | `knn` | features | distance to the 10th nearest ID feature |
# | `mahalanobis`, `rmd` | features | distance to the nearest class mean, and minus that to the mean of all |
# | `vim` | features, logits | distance from the subspace of ID features, against the logits |
#
# *Features* are what the classification is linear in: image embeddings of unit length for zero-shot models, what the
# head is applied to for classifiers. The last four are fitted on a stratified share of the ID images, and judged on the
# others alone; all other scores on every ID image, as published numbers are.

# %%
detection, gains = sections.ood_tables(study)
for metric in sections.shown_detection_metrics(study):
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
# ## Which score for which models?
#
# Each score against the first one, on the same images for both: those that no score was fitted on. Means over the
# models of a group with Student's intervals over models; bold numbers are distinguishable from zero.

# %%
main = sections.main_score(study)
choice = sections.score_choice(study, gains)
present.figure(
    study,
    "ood_score_gains",
    plots.score_gains,
    choice[choice["metric"] == "auroc_gain_mean"],
    what=f"Mean AUROC of each score minus that of {main}",
    direction="above 0 is better; no interval below three starts",
    units=("group", "models"),
)
present.best_scores(sections.best_scores(study, choice), main)
present.results(study, choice, "ood_score_choice")
present.results(study, gains, "ood_score_gains")

# %% [markdown]
# ## Near and far
#
# Images of unseen classes that resemble the known ones (`near_ood_sets`) should be harder than scenes, textures or
# noise. Means over the near and over the far sets.

# %%
sides = sections.near_and_far(study, detection)
present.figure(
    study,
    "ood_near_and_far",
    plots.ood_detection,
    sides[sides["metric"] == "auroc"].sort_values("test_set", ascending=False),
    study.models,
    what=f"AUROC on near OOD sets ({', '.join(near_ood_sets) or 'none'}) and on the others",
    direction="higher is better",
)
gaps = sides[sides["metric"] == "auroc_far_minus_near"]
means = sections.group_means(study, gaps.assign(test_set=gaps["protocol"].str.split(",").str[0]))
for group in means["group"].unique():
    present.findings(means, group=group, above="by these scores far sets are easier", below="near sets are easier")
present.results(study, sides, "ood_near_and_far")

# %% [markdown]
# ## Does better classification mean better detection?
#
# A correlation over all models can come from differences between training sources alone, or hide what holds inside
# each. So lines are drawn through the models of each source as well, and the correlation *within sources* takes each
# source's means away first. That one is distinguishable from zero and the other is not does not make them differ: it is
# said to hold "alone" only where the interval of their difference, over the same resamples of models, leaves 0 out.

# %%
with_accuracy = sections.with_id_accuracy(study, detection, main)
present.figure(
    study,
    "ood_against_accuracy",
    plots.against_id_accuracy,
    with_accuracy if len(study.models) > 2 else (),
    study.models,
    x_set=id_set,
    metric="auroc",
    strata=sections.training_strata(study.models),
    captioned=with_accuracy[with_accuracy["metric"] == "auroc"],
    what=f"AUROC of {main} against accuracy on {id_set}; lines by least squares, dashed over all models",
    direction="higher is better on both axes",
)

# %%
correlations = sections.accuracy_correlations(study, with_accuracy, main)
present.figure(
    study,
    "ood_accuracy_correlations",
    plots.accuracy_correlations,
    correlations[correlations["metric"].isin(["pearson", "spearman"])],
    what=f"Correlation of accuracy on {id_set} and AUROC of {main}",
    direction="right of 0, models that classify better detect better",
    units=("row", "models"),
)
present.simpson(sections.simpson(correlations))
present.results(study, correlations, "ood_accuracy_correlations")

# %% [markdown]
# ## Does the training source move detection?
#
# Pairs of models that differ in their training source alone.

# %%
main_auroc = sections.of_score(detection[detection["metric"] == "auroc"], main)
by_source = sections.contrasts(study, main_auroc, sections.source_pairs(study.models))
present.figure(
    study,
    "ood_by_source",
    plots.comparisons,
    by_source,
    what=f"AUROC of {main} between training sources",
    direction="right of 0, the source named first detects better",
    units=("comparison", "pairs"),
)
present.contrasts(by_source, above="the first source detects better", below="the second source detects better")
present.results(study, by_source, "ood_by_source")
present.results(study, sections.seed_means(study, main_auroc), "ood_over_seeds")

# %% [markdown]
# ## What does fine-tuning do?
#
# Each fine-tuned CLIP with the zero-shot model that it started from: trained on the benchmark directly, or on a larger
# label set first.

# %%
pairs = sections.fine_tuning_pairs(study.models)
on_paths = main_auroc[main_auroc["model"].isin([*pairs["first"], *pairs["second"]])]
present.figure(
    study,
    "ood_fine_tuning_paths",
    plots.fine_tuning_paths,
    on_paths,
    study.models,
    what=f"AUROC of {main} before (circles) and after (squares) fine-tuning",
    direction="higher is better",
)
fine_tuning = sections.fine_tuning_effects(study, with_accuracy, detection)
shown = fine_tuning[fine_tuning["metric"].isin(["accuracy_difference", "auroc_difference"])]
present.contrasts(
    shown[shown["protocol"].isin(["matched pairs", f"{main}, matched pairs"])], above="higher", below="lower"
)
present.results(study, fine_tuning, "ood_fine_tuning")

# %% [markdown]
# ## What the scores look like
#
# A single number hides how the two kinds of images overlap. Of each group the model is drawn whose mean AUROC is the
# median of the group's.

# %%
samples = sections.score_samples(study, detection)
present.figure(
    study,
    "ood_scores",
    plots.scores_by_group,
    samples,
    study.models,
    method=main,
    captioned=main_auroc[main_auroc["model"].isin([sample.model for sample in samples])],
    what=f"Scores ({main}) on {id_set} and the OOD sets; 95% of the ID images lie left of the dashed line",
    direction="further right is more out-of-distribution",
)

# %% [markdown]
# ## Limits
#
# - AUROC intervals are DeLong's, over images, those of AUPR an infinitesimal jackknife's; those of the false-positive
#   rates hold the error of their threshold. AUPR depends on the shares of images: chance is the share of the positives.
#   Intervals of groups, pairs and correlations are over models. Models of one training run (its start: checkpoints,
#   soups, and what was fine-tuned from them) count as one, with their mean, and further rows of the same weights not at
#   all: n says the models, "starts" how many are independent. A start and what was fine-tuned from it are two points of
#   a correlation, but one of its independent samples. Fisher's interval, which holds its level with few models, is
#   drawn for correlations; bootstrap intervals are in the table too.
# - The best score of a group was looked for on the images that it is reported on: its gain is a little too high.
# - The share of OOD images whose object is in fact one of the classes differs between sets and bounds what any score
#   can reach. What counts as near is a choice of the suite.
# - The number of classes moves every score: more classes leave less room between ID and OOD, and scores of different
#   label sets are not on one scale. All models of a suite are judged in the same classes, so this cannot explain
#   differences between them, but numbers of suites with other classes cannot be compared.
# - Fitted scores see some ID images of the test distribution, which the others do not. ID images of training would be
#   the usual bank; the suites do not hold them.
# - `neg_label` keeps the half of its candidate words that is farthest from the classes, without the grouping of its
#   authors; in the laboratory these are the other words of the captions.
#
# ## References
#
# Bonett, Wright. Psychometrika 65, 2000. Boyd, Eng, Page. ECML PKDD 2013. DeLong et al. Biometrics 44, 1988. Hendrycks,
# Gimpel. ICLR 2017. Hendrycks et al. ICML 2022. Jiang et al. ICLR 2024 (NegLabel). Lee et al. NeurIPS 2018. Liu et al.
# NeurIPS 2020. Liu, Lochman, Zach. CVPR 2023 (GEN). Ming et al. NeurIPS 2022. Ren et al. 2021 (arXiv 2106.09022). Sun
# et al. ICML 2022. Tu, Deng, Gedeon. NeurIPS 2023 (arXiv 2402.07410). Wang et al. CVPR 2022 (ViM).

# %%
present.unreadable(study)
study.finish("02_ood_detection")
