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
# repair that everybody can afford: a single temperature, fitted on in-distribution images. Then: which way models err,
# what moves it, where a temperature may come from and how many images it needs, and what confidence is good for.

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
ood_sets = [
    "lab_ood_classes",
    "lab_ood_superclass",
    "lab_ood_textures",
    "lab_ood_scenes",
    "lab_ood_noise",
]
factor_set = "lab_factors"
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
factor_annotation = "top"
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
baseline_group = "standard"
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
import pandas as pd

from clipsafe_utils import plots, present, sections
from clipsafe_utils.study import Study

study = Study(globals())
present.overview(study)

# %% [markdown]
# ## Calibration error and likelihood
#
# *ECE* is the gap between confidence and accuracy, averaged over equal-width bins of top-label confidence, closed on
# the right. It grows with the number of bins and shrinks with n even for a calibrated model, so compare it at equal
# n. *Equal-mass* ECE cuts the bins at quantiles instead; *classwise* ECE averages the errors of all classes'
# probabilities (always 15 bins). *NLL* and *Brier* judge the whole distribution. The temperature minimises the NLL on
# a stratified, seeded share of the in-distribution images; every number below is of images that the fit never saw.
# `overconfidence` is mean confidence minus accuracy: positive means too sure. `_scaled` is after scaling.

# %%
calibration = sections.calibration(study)
present.results(study, calibration, "calibration")

# %% [markdown]
# ## What scaling changes
#
# Few models have a line each; of more, the mean of each group has one. The change is that of each model, so the
# intervals of a group may overlap and all of its models may still have gained.

# %%
errors = ["ece", "ece_scaled"]
group_errors = sections.means_by_group(study, calibration[calibration["metric"].isin(errors)])
if calibration["model"].nunique() > plots.FEW:
    present.figure(
        study,
        "calibration_by_group",
        plots.means_by_group,
        group_errors,
        errors,
        what="Mean ECE of each group, as models come and after temperature scaling",
        direction="lower is better",
        units=("group", "models"),
    )
else:
    present.figure(
        study,
        "calibration_before_after",
        plots.calibration_before_after,
        calibration if calibration["metric"].eq("ece_scaled").any() else (),
        study.models,
        captioned=calibration[calibration["metric"].isin(errors)],
        what="ECE before (open) and after (filled) temperature scaling",
        direction="lower is better",
    )
changes = sections.scaling_effects(study, calibration[calibration["metric"].isin(errors)])
present.group_findings(
    sections.means_by_group(study, changes),
    "ece_change",
    above="ECE rises with scaling",
    below="ECE falls with scaling",
)
present.results(study, group_errors, "calibration_by_group")

# %% [markdown]
# ## Too sure, or not sure enough
#
# The sign that ECE leaves out: mean confidence minus accuracy.

# %%
signs = ["overconfidence", "overconfidence_scaled"]
group_signs = sections.means_by_group(study, calibration[calibration["metric"].isin(signs)])
present.figure(
    study,
    "overconfidence_by_group",
    plots.means_by_group,
    group_signs,
    signs,
    what="Mean confidence minus accuracy of each group, as models come and after temperature scaling",
    direction="above 0 is overconfident",
    units=("group", "models"),
)
present.results(study, group_signs, "overconfidence_by_group")
present.group_findings(
    group_signs,
    "overconfidence_scaled",
    above="overconfident after scaling",
    below="underconfident after scaling",
)

# %% [markdown]
# ## Training source and quantity
#
# Pairs of models that differ in their training source alone, and pairs of zero-shot models that differ in the quantity
# of their training data: those nearest in images seen, repeats included, but in the laboratory (ten epochs whatever the
# quantity) more data is also more training.

# %%
judged = study.models[study.models.index.isin(calibration["model"])]
pairs = pd.concat([sections.source_pairs(judged), sections.quantity_pairs(judged)])
differences = sections.contrasts(study, calibration[calibration["metric"].isin([*errors, *signs])], pairs)
present.figure(
    study,
    "ece_by_source",
    plots.comparisons,
    differences[differences["metric"] == "ece_difference"],
    what="ECE by training source and quantity of data, matched pairs, as models come",
    direction="right of zero: the first of the two is worse calibrated",
    units=("comparison", "pairs"),
)
present.contrasts(
    differences[differences["metric"].isin(["ece_difference", "ece_scaled_difference"])],
    above="worse calibrated with the first",
    below="better calibrated with the first",
)
present.results(study, differences, "calibration_contrasts")

# %% [markdown]
# The same recipes trained with other seeds:

# %%
over_seeds = sections.seed_means(study, calibration[calibration["metric"].isin([*errors, "nll", "nll_scaled"])])
present.results(study, over_seeds, "calibration_over_seeds")

# %% [markdown]
# ## Reliability
#
# Points below the diagonal are overconfident; bars and bands are Wilson intervals of the accuracy in a bin. Where there
# are shifted sets: in distribution and on the hardest of them (the lowest mean accuracy), the model whose ECE is the
# median of its group, in grey as it comes and in colour with the temperature that the panel names; bins of five images
# or more.

# %%
shown = sections.reliability_by_group(study, calibration)
drawn = pd.MultiIndex.from_tuples([(one.model, one.test_set) for one in shown], names=["model", "test_set"])
of_ece = calibration[calibration["metric"].isin(errors)].assign(ci_kind="wilson, of the accuracy in a bin")
if shown:
    present.figure(
        study,
        "reliability",
        plots.reliability_by_group,
        shown,
        study.models,
        captioned=of_ece[pd.MultiIndex.from_frame(of_ece[drawn.names]).isin(drawn)],
        what=f"Reliability on {' and '.join(drawn.unique('test_set'))}, the median model of each group",
        direction="on the diagonal is calibrated",
    )
else:
    present.figure(
        study,
        "reliability",
        plots.reliability_diagram,
        sections.reliability_curves(study),
        captioned=of_ece[of_ece["test_set"] == id_set],
        what=f"Reliability on {id_set}",
        direction="on the diagonal is calibrated",
    )

# %% [markdown]
# ## Does a temperature travel?
#
# Each set is cut in two as the in-distribution set is, a temperature is fitted on one part of each, and all of them are
# judged on the other parts. The first row is what everybody does; the diagonal is a temperature of the set's own.

# %%
transfer = sections.temperature_transfer(study)
transfer_means = sections.transfer_means(study, transfer)
present.figure(
    study,
    "temperature_transfer",
    plots.temperature_transfer,
    transfer_means,
    id_set=id_set,
    captioned=transfer_means[transfer_means["metric"] == "ece_scaled"].assign(protocol=""),
    what=f"Mean ECE with temperatures of other sets; frame: of {id_set}; bold: the best of a column",
    direction="lower is better",
    units=("row", "models"),
)
study.save(transfer, "temperature_transfer")
present.results(study, transfer_means, "temperature_transfer_means")

# %% [markdown]
# What a temperature of the set's own would gain over the one of the in-distribution set, on the same images. It
# minimises the NLL: where the ECE gets worse although the NLL gets better, no single temperature repairs both.

# %%
gains = sections.own_temperature_gains(study, transfer)
gain_means = sections.means_by_group(study, gains)
present.group_findings(
    gain_means, "ece_gain", above="an own temperature lowers ECE further", below="an own temperature raises ECE"
)
present.group_findings(
    gain_means,
    "nll_gain",
    above="an own temperature lowers NLL further",
    below="an own temperature raises NLL",
    unit="nats",
)
present.results(study, gains, "own_temperature_gains")

# %% [markdown]
# ## How many images does a temperature need?
#
# Temperatures of seeded subsets of the calibration share, against that of the whole share: the NLL on the held-out
# images. Left, without any scaling: a subset is worth its labels where the group's mean lies below that.

# %%
sizes = sections.temperature_sizes(study)
size_means = sections.means_by_group(study, sizes)
present.figure(
    study,
    "temperature_sizes",
    plots.temperature_sizes,
    size_means,
    what=f"NLL on the held-out part of {id_set} beyond that with the temperature of the whole calibration share",
    direction="0 is as good as the whole share",
    units=("group", "models"),
)
present.sizes_needed(sections.means_by_group(study, sections.size_effects(study, sizes)))
present.group_findings(
    size_means[~size_means["test_set"].str.endswith("/0 images")],
    "nll_excess",
    above="worse than with the whole share",
    below="better than with the whole share",
    unit="nats",
)
present.results(study, sizes, "temperature_sizes")

# %% [markdown]
# ## Calibration at equal accuracy
#
# ECE after scaling against accuracy on the same images. A line goes through each group of five models or more. The
# sentences compare with the line of the baseline group, over the models whose accuracy lies within the baseline's; the
# intervals hold the error of that line.

# %%
trend, trend_lines, beyond = sections.accuracy_trend(study, calibration)
present.figure(
    study,
    "ece_against_accuracy",
    plots.ece_against_accuracy,
    trend,
    study.models,
    trend_lines,
    level=ci_level,
    captioned=trend[trend["metric"] == "ece_scaled"],
    what="ECE after scaling against accuracy; lines and bands: groups of five models or more",
    direction="lower is better",
)
present.group_findings(
    beyond,
    "ece_scaled_beyond",
    above=f"worse calibrated than {baseline_group} models of equal accuracy",
    below=f"better calibrated than {baseline_group} models of equal accuracy",
)
present.results(study, beyond, "calibration_at_equal_accuracy")

# %% [markdown]
# ## Knowing when to keep silent
#
# Selective prediction answers only the images that a model is most confident of. *AURC* is the error rate averaged
# over all shares of images answered; *excess AURC* leaves out what the error rate itself explains: 0 means that every
# error is less confident than every correct answer. Images of equal confidence are taken in random order, in
# expectation. A temperature keeps a model's decisions but may change the order of its images.

# %%
risks = sections.risk_coverage_means(study, [id_set, sections.hardest_set(study, calibration)])
present.figure(
    study,
    "risk_coverage",
    plots.risk_coverage,
    risks,
    captioned=risks.assign(protocol=""),
    what="Errors among the images answered, mean of each group",
    direction="lower is better",
    units=("group", "models"),
)
areas = calibration[calibration["metric"].str.contains("aurc")]
group_areas = sections.means_by_group(study, areas)
present.results(study, group_areas, "selective_prediction")
present.group_findings(
    sections.means_by_group(study, sections.scaling_effects(study, areas)),
    "excess_aurc_change",
    above="excess AURC rises with scaling",
    below="excess AURC falls with scaling",
)

# %% [markdown]
# ## Confidence on images of nothing it knows
#
# The smallest confidence that a model can have is 1 / number of classes; there is no right one on out-of-distribution
# images, but it should be lower than in distribution.

# %%
strange = sections.ood_confidence(study)
confidences = ["mean_confidence", "mean_confidence_scaled"]
known = calibration[calibration["metric"].isin(confidences) & calibration["test_set"].eq(id_set)]
ood_means = sections.means_by_group(study, pd.concat([strange, known]) if len(strange) else strange)
present.figure(
    study,
    "ood_confidence",
    plots.means_by_group,
    ood_means,
    confidences,
    what=f"Mean confidence on OOD sets and on {id_set}",
    direction="lower is better on OOD sets",
    units=("group", "models"),
)
present.group_findings(
    sections.means_by_group(study, sections.scaling_effects(study, strange)),
    "mean_confidence_change",
    above="more confident with scaling",
    below="less confident with scaling",
)
present.results(study, strange, "ood_confidence")

# %% [markdown]
# ## Calibration by visual factor
#
# On the images that show a factor. The fewer images, the larger any ECE, so it is compared with that of equally many
# images drawn at random. All models see the same few images: intervals of a group hold the sampling of images beside
# that of models.

# %%
by_factor = sections.factor_calibration(study)
factor_means = sections.means_by_group(study, by_factor[~by_factor["metric"].isin(errors)], same_images=True)
present.figure(
    study,
    "calibration_by_factor",
    plots.means_by_group,
    factor_means,
    ["overconfidence", "overconfidence_scaled", "ece_excess_scaled"],
    counts=by_factor.groupby("test_set")["n"].max(),
    what="Calibration on images that show a factor",
    direction="right of zero: overconfident, or worse calibrated than on random images",
    units=("group", "models"),
)
present.group_findings(
    factor_means,
    "ece_excess_scaled",
    above="worse calibrated than on random images, after scaling",
    below="better calibrated than on random images, after scaling",
)
present.results(study, by_factor, "calibration_by_factor")

# %% [markdown]
# ## Limits
#
# ECE sees the top label only and depends on its bins. Its estimate adds up absolute gaps, so noise alone makes it
# larger, the more the fewer the images; its interval is one of the error that the model has with these bins, with the
# noise removed, and a model that may be calibrated has an interval down to 0. The value can lie above its own interval.
# Equal-mass ECE has an interval of the same kind where at least as many images are wrong, and right, as there are bins;
# that of AURC is a jackknife's. Classwise errors have none for a single model: most of their many gaps are noise, and
# what remains without it cannot be told from so few images a class; intervals of groups are over models. Models of one
# training run (its start: checkpoints, soups, and what was fine-tuned from them) count as one there, with their mean,
# and further rows of the same weights not at all: n says the models, "starts" how many are independent. Published
# predictions carry the top-1 probability alone, so neither NLL nor a temperature can be computed from them. A line
# through models of different size and training is no effect of accuracy.
#
# ## References
#
# El-Yaniv, Wiener. JMLR 2010. Geifman, Uziel, El-Yaniv. ICLR 2019. Guo et al. ICML 2017. Idrissi et al. ICLR 2023.
# Minderer et al. NeurIPS 2021. Naeini et al. AAAI 2015. Nixon et al. CVPR workshops 2019. Tu, Deng, Gedeon. NeurIPS
# 2023 (arXiv 2402.07410).

# %%
present.unreadable(study)
study.finish("03_calibration")
