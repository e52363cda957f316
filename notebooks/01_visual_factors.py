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
# # Visual factors
#
# Are CLIP models more robust than ImageNet classifiers, and to what? An image can differ from its class in ten ways:
# pose, background, pattern, colour, size, shape, partial view, subcategory, texture. A single accuracy hides which of
# these a model handles, so this section looks at each, and at the question behind them: does shape or texture decide?

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
cue_conflict_set = "lab_cue_conflict"
factor_set = "lab_factors"
paired_set = "lab_pairs"
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
ci_level = 0.95
gate_tolerance = 0.5
admit = []
line_scale = "probit"
baseline_group = "standard"
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
# ## Accuracy under distribution shift
#
# One row a model, one column a test set, accuracies as fractions. In the file behind the table one row is one number:
# `value` with its interval (`ci_low` to `ci_high`, of the kind `ci_kind`),
# measured on `n` images of `test_set` under the conventions of `protocol`. Accuracies are fractions.

# %%
accuracy = sections.accuracy(study)
present.results(study, accuracy, "accuracy", wide=True)

# %% [markdown]
# ## Effective robustness under shift
#
# A model that is better in distribution is usually better under shift too. *Effective robustness* is what a model has
# beyond that: its accuracy under shift minus what a line through the baseline models predicts for its in-distribution
# accuracy (Taori et al. 2020), both on a probit or logit scale. ImageNet-A and -R have 200 classes; their x axis is
# the accuracy on the same classes where all models have it. Published tables of zero-shot models do not, so these
# then use all 1,000.

# %%
robustness, lines, axes = sections.robustness(study, accuracy, study.parameters.shifted_sets, x_set=id_set)
for name, line in lines.items():
    present.figure(
        study,
        f"accuracy_{name}",
        plots.accuracy_on_accuracy,
        accuracy[accuracy["test_set"].isin([name, axes[name]])],
        study.models,
        x=axes[name],
        y=name,
        line=line,
        level=ci_level,
        captioned=accuracy[accuracy["test_set"] == name],
        what=f"Accuracy on {name} against accuracy on {axes[name]}; line and band: {line.n} {baseline_group} models",
        direction="above the line is more robust than the baseline",
    )

# %%
present.figure(
    study,
    "effective_robustness_shifts",
    plots.effective_robustness,
    robustness,
    study.models,
    what="Effective robustness under shift",
    direction="right of zero is more robust than the baseline",
)
shift_means = sections.group_means(study, robustness, accuracy, lines, axes)
for group in sections.CLIP_GROUPS:
    present.findings(
        shift_means, group=group, above="more robust than the baseline line", below="less robust than the baseline line"
    )

# %%
present.results(study, robustness, "effective_robustness_shifts", wide=True)

# %% [markdown]
# ## Which factors hurt
#
# Factor accuracy is the accuracy on images that show a factor. The *error ratio*, (1 - factor accuracy) / (1 -
# overall accuracy), says how many times more errors that makes: below 1 the factor is easy. Captions name the
# annotation. For ImageNet images it is ImageNet-X (Idrissi et al. 2023; the class prototypes are dropped): `imagenet_x
# top` gives each image its most salient factor only, `imagenet_x multi` all that apply, and `factor_annotation`
# chooses. A set with factor columns of its own has `factors exact`, all that apply to an image. Published accuracies
# are by `multi` whatever is chosen, so that error ratios by `top` speak for fewer images than effective robustness.

# %%
factor_table = sections.visual_factors(study)
error_ratios = factor_table[factor_table["metric"] == "error_ratio"]
present.figure(
    study,
    "error_ratios",
    plots.error_ratios,
    error_ratios,
    study.models,
    what="Error ratio by visual factor",
    direction="lower is better; 1 is no harder than the average image",
)
ratio_means = sections.group_means(study, error_ratios.assign(value=error_ratios["value"] - 1))
for group in ratio_means["group"].unique():
    present.findings(
        ratio_means,
        group=group,
        above="harder than the average image",
        below="easier than the average image",
        unit="error ratio minus 1",
    )
present.results(study, factor_table, "visual_factors")

# %% [markdown]
# ## Factor-level effective robustness
#
# The same line, factor by factor: accuracy with the factor against overall accuracy on the annotated images. A model
# above it handles this factor better than its overall accuracy explains. The line depends on who the baseline is: the
# baseline group, or all models but CLIP, whatever they were trained on.

# %%
factor_accuracy = factor_table[factor_table["metric"] == "accuracy"]
overall = next(iter(factor_accuracy["test_set"].str.split("/").str[0]), "")
factor_sets = [f"{overall}/{factor}" for factor in study.parameters.factors]
robustness_of, lines_of = {}, {}
for baseline, name in ((baseline_group, "effective_robustness_factors"), ("rest", "effective_robustness_factors_rest")):
    robustness, lines, axes = sections.robustness(study, factor_accuracy, factor_sets, x_set=overall, baseline=baseline)
    robustness_of[baseline], lines_of[baseline] = robustness, (lines, axes)
    is_clip = robustness["model"].map(study.models["group"]).isin(sections.CLIP_GROUPS)
    present.figure(
        study,
        name,
        plots.effective_robustness,
        robustness[is_clip],
        study.models,
        what=f"Factor-level effective robustness of CLIP models; baseline: {baseline}",
        direction="right of zero is more robust than the baseline",
    )
    means = sections.group_means(study, robustness, factor_accuracy, lines, axes)
    for group in sections.CLIP_GROUPS:
        present.findings(
            means, group=group, above="more robust than the baseline line", below="less robust than the baseline line"
        )
    present.results(study, robustness, name, wide=True)

# %% [markdown]
# ## What few images can tell
#
# Where few images show a factor, models spread because of these images, not because they differ. The models of a group
# say how much of the spread is more than that, and each model is drawn towards its group's mean by the rest (empirical
# Bayes, Morris 1983, on the scale of the line; groups of four models and more). Models mostly fail on the same images:
# what these images do to all is no spread. Published counts do not tell, and models then count as judged on images of
# their own, which draws too far. Models of one start count as independent here. Factors with fewer than 100 images
# carry a mark, here and in wide tables.

# %%
robustness, (lines, axes) = robustness_of[baseline_group], lines_of[baseline_group]
shrunken = sections.shrunken(study, factor_accuracy, lines, axes)
others = shrunken[shrunken["model"].map(study.models["group"]) != baseline_group]
present.figure(
    study,
    "effective_robustness_shrunken",
    plots.shrinkage,
    others,
    robustness,
    study.models,
    captioned=others[others["metric"] == "effective_robustness_shrunken"],
    what="Factor-level effective robustness as measured and drawn towards the mean of the group",
    direction="right of zero is more robust than the baseline",
)
present.shrinkage(others, study.models)
present.results(study, shrunken, "effective_robustness_shrunken")

# %% [markdown]
# ## By training source, encoder family and data size
#
# Means over the models of a group that share one fact, of three different starts and more. They differ in other things
# as well: the pairs below hold these fixed, where the zoo has such pairs.

# %%
facts = {"pretrain_source": "training source", "encoder_family": "encoder family", "pretrain_size": "data size"}
for fact, words in facts.items():
    means = sections.stratum_means(study, robustness, fact, factor_accuracy, lines, axes)
    present.figure(
        study,
        f"effective_robustness_{fact}",
        plots.stratum_means,
        means,
        what=f"Mean factor-level effective robustness by {words}",
        direction="above zero is more robust than the baseline",
        units=("subgroup", "models"),
    )
    present.strata(means, above="more robust than the baseline", below="less robust")
    present.results(study, means, f"effective_robustness_{fact}")

# %% [markdown]
# ## Does the training source move robustness?
#
# Pairs of models that differ in their training source alone: same group, architecture, quantity of data, fine-tuning
# and seed. The mean of their differences in factor-level effective robustness (against the baseline group) is what the
# source does; its interval covers the pairs.

# %%
by_source = sections.contrasts(study, robustness, sections.source_pairs(study.models))
present.figure(
    study,
    "effective_robustness_by_source",
    plots.comparisons,
    by_source,
    what="Factor-level effective robustness by training source, matched pairs",
    direction="right of zero: the first source is more robust",
    units=("comparison", "pairs"),
)
present.contrasts(by_source, above="more robust with the first source", below="more robust with the second")
present.results(study, by_source, "effective_robustness_by_source")

# %% [markdown]
# ## Does more training data move robustness?
#
# Zero-shot CLIPs of one architecture, source, input size and seed: the one with the most training data minus the one
# with the least; of several of one quantity, those nearest in images seen, repeats included. Where the suite has no
# such twins, as in the laboratory (ten epochs whatever the quantity), more data is also more training. A model that is
# better overall is expected to be better on a factor too, and effective robustness has taken that away.

# %%
by_size = sections.contrasts(study, robustness, sections.quantity_pairs(study.models))
present.figure(
    study,
    "effective_robustness_by_size",
    plots.comparisons,
    by_size,
    what="Factor-level effective robustness, most minus least training data, matched pairs",
    direction="right of zero: more data makes more robust",
    units=("comparison", "pairs"),
)
present.contrasts(by_size, above="more robust with more data", below="less robust with more data")
present.results(study, by_size, "effective_robustness_by_size")

# %% [markdown]
# ## At matched accuracy
#
# The same question without a line: each model beside a model of the baseline group with nearly the same overall
# accuracy (within 1 percentage point; each model in one pair at most, as many pairs as possible, then the nearest).
# Their mean difference on a factor, over pairs, needs no assumption about how accuracies go together; but it speaks
# for the models that have a match, and is given for groups with five pairs and more. "Overall" is what matching left
# of the difference itself.

# %%
matched = sections.matched_accuracy(study, factor_accuracy, overall)
present.figure(
    study,
    "matched_accuracy",
    plots.comparisons,
    matched,
    what=f"Factor accuracy at matched overall accuracy, each group minus {baseline_group}",
    direction=f"right of zero: the group is better; caliper {100 * sections.CALIPER:g} percentage point",
    units=("comparison", "pairs"),
)
present.contrasts(matched, above="better at equal overall accuracy", below="worse")
present.results(study, matched, "matched_accuracy")

# %% [markdown]
# ## How much is the seed?
#
# The same recipe trained again with other seeds, mean and interval over seeds: two recipes whose intervals overlap may
# differ by chance of training alone, however many images they are judged on.

# %%
over_seeds = sections.seed_means(study, robustness)
present.figure(
    study,
    "effective_robustness_over_seeds",
    plots.comparisons,
    over_seeds,
    what="Factor-level effective robustness over training seeds",
    direction="right of zero is more robust than the baseline",
    units=("recipe", "seeds"),
)
present.strata(over_seeds, above="more robust than the baseline, whatever the seed", below="less robust", units="seeds")
present.results(study, over_seeds, "effective_robustness_over_seeds")

# %% [markdown]
# ## The effect of one factor alone
#
# Images that show a factor differ from others in more than that factor. Where the same image exists with and without
# it, the difference of accuracies over such pairs is the effect of the factor itself.

# %%
effects = sections.paired_effects(study)
present.figure(
    study,
    "paired_effects",
    plots.paired_effects,
    effects,
    study.models,
    what="Effect of each factor on the same images",
    direction="left of zero is a loss of accuracy",
)
effect_means = sections.group_means(study, effects)
for group in effect_means["group"].unique():
    present.findings(effect_means, group=group, above="accuracy gained by the factor", below="accuracy lost")
present.results(study, effects, "paired_effects", wide=True)

# %% [markdown]
# ## Shape or texture
#
# On cue-conflict images (Geirhos et al. 2019) shape and texture belong to different classes. Shape bias is the share
# of shape decisions among decisions for either; it says little where few images are decided by either, so that share
# stands beside it. Images with equal cues are dropped. ImageNet outputs are mapped to the 16 categories by the mean
# over their member classes.

# %%
cues = sections.cue_conflict(study)
present.figure(
    study,
    "shape_bias",
    plots.shape_bias,
    cues,
    study.models,
    captioned=cues[cues["metric"] == "shape_bias"],
    what="Shape bias on cue-conflict images",
    direction="1 is pure shape, 0 pure texture",
)
present.results(study, cues, "shape_bias")

# %%
present.figure(
    study,
    "share_decided",
    plots.share_decided,
    cues[cues["metric"] == "share_decided"],
    study.models,
    what="Share of cue-conflict images decided by shape or texture",
    direction="shape bias speaks for these images alone",
)

# %% [markdown]
# Shape bias by group, then what the training source, fine-tuning and the resolution of the input change: matched pairs
# as above, each fine-tuned CLIP against the zero-shot model it started from, and fine-tuned CLIPs that differ in the
# size of their input alone.

# %%
present.group_summary(study, cues)
shape = cues[cues["metric"] == "shape_bias"]
tuned, resized = sections.fine_tuning_pairs(study.models), sections.resolution_pairs(study.models)
for name, pairs, labels, what in (
    ("fine_tuning", tuned, ("fine-tuned", "where it started"), "before and after fine-tuning"),
    ("resolution", resized, ("larger input", "smaller input"), "of fine-tuned CLIP at two sizes of input"),
):
    both = pairs[pairs["first"].isin(shape["model"]) & pairs["second"].isin(shape["model"])]
    present.figure(
        study,
        f"shape_bias_{name}",
        plots.model_pairs,
        shape[shape["model"].isin([*both["first"], *both["second"]])],
        both,
        study.models,
        labels=labels,
        what=f"Shape bias {what}",
        direction="1 is pure shape, 0 pure texture",
    )
cue_contrasts = sections.contrasts(study, cues, pd.concat([sections.source_pairs(study.models), tuned, resized]))
present.contrasts(cue_contrasts, above="higher", below="lower")
present.results(study, cue_contrasts, "shape_bias_contrasts")

# %% [markdown]
# The same recipes trained with other seeds:

# %%
present.results(study, sections.seed_means(study, cues), "shape_bias_over_seeds")

# %% [markdown]
# ## Shape or texture, category by category
#
# The same decisions by the category of the shape. A bias over all images can hide categories whose shape alone is
# telling, and says nothing about those that neither cue decides.

# %%
by_category = sections.shape_by_category(study)
category_means = sections.category_means(study, by_category)
present.figure(
    study,
    "shape_by_category",
    plots.shape_by_category,
    category_means,
    what="Shape bias and share decided by a cue, by category of the shape",
    direction="1 is pure shape, 0 pure texture",
    units=("group", "models"),
)
present.shape_by_category(category_means)
present.results(study, category_means, "shape_by_category_means")
study.save(by_category, "shape_by_category")
# %% [markdown]
# ## Does shape bias explain robustness?
#
# If shape made models robust, those with more shape bias would lie higher above the line. But groups, encoder families
# and training sources differ in both for reasons of their own: the correlation over all models mixes in all three, and
# within groups (their means taken away) it still holds encoders against each other and sources. The sentences are of
# the correlation with most taken away, within models of one group, encoder family and training source, where the suite
# has enough of them.

# %%
explained = sections.shape_and_robustness(study, cues, robustness)
present.figure(
    study,
    "shape_and_robustness",
    plots.shape_and_robustness,
    explained,
    robustness,
    cues,
    study.models,
    captioned=explained[explained["metric"] == "pearson"],
    what="Factor-level effective robustness against shape bias, with Pearson's correlation",
    direction="above 0: more shape bias, more robust",
    units=("correlation", "models"),
)
present.correlations(
    explained,
    what="Effective robustness with shape bias",
    above="more robust with more shape bias",
    below="less robust with more shape bias",
)
present.results(study, explained, "shape_and_robustness")

# %% [markdown]
# ## Limits
#
# Effective robustness depends on the baseline models and the scale of the axes. Intervals of single models
# cover the sampling of images and of baseline models; those of groups, strata and pairs cover models, for the images at
# hand. Neither covers the choice of images or models. ImageNet-X annotations are one person's judgement an image; exact
# ones belong to a rendered world. Models of one training run (its start: checkpoints, soups, and what was fine-tuned
# from them) count as one, with their mean, in every mean, correlation and interval over models, and further rows of the
# same weights not at all: n says the models, "starts" how many are independent. Groups differ in size, data and
# architecture at once: a difference between groups is no effect of one of them. Seeds of one recipe count as models of
# their own. Each interval stands for itself: of twenty, one errs.
#
# ## References
#
# Geirhos et al. ICLR 2019. Idrissi et al. ICLR 2023. Miller et al. ICML 2021. Morris. JASA 1983. Rosenbaum. JASA 1989.
# Taori et al. NeurIPS 2020. Tu, Deng, Gedeon. NeurIPS 2023 (arXiv 2402.07410).

# %%
present.unreadable(study)
study.finish("01_visual_factors")
