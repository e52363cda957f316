"""The six readers: each file in its natural grain, accuracies as tidy rows."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from clipsafe_utils.datasets.factors import ALL_FACTORS, load_factor_annotations
from clipsafe_utils.datasets.spaces import package_file
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.published.files import members, read_csv
from clipsafe_utils.published.rules import RULES
from clipsafe_utils.table import tidy

N_IMAGES = {
    **{"imagenet_val": 50_000, "imagenet_real": 46_837, "imagenet_sketch": 50_889, "imagenet_o": 2_000},
    **{f"imagenet_v2_{variant}": 10_000 for variant in ("matched_frequency", "threshold07", "top_images")},
    **{"imagenet_a": 7_500, "imagenet_r": 30_000, "imagenet_val/a_classes": 10_000, "imagenet_val/r_classes": 10_000},
    **{"objectnet": 18_574, "imagenet_val/objectnet_classes": 6_250, "stylized_imagenet": 50_000},
    **{"imagenet_vid_robust/pm0": 1_109, "imagenet_vid_robust/pm10": 1_109, "imagenet_val/vid_classes": 14_400},
}
"""Test set -> images of the complete set; every published accuracy is a multiple of 1/n within its rounding."""

OPENCLIP_COLUMNS = {
    "ImageNet 1k": "imagenet_val",
    "ImageNet v2": "imagenet_v2_matched_frequency",
    "ImageNet-A": "imagenet_a",
    "ImageNet-R": "imagenet_r",
    "ImageNet Sketch": "imagenet_sketch",
    "ObjectNet": "objectnet",
    "ImageNet-O": "imagenet_o",
}
TIMM_FILES = {
    "imagenet": "imagenet_val",
    "imagenet-real": "imagenet_real",
    "imagenetv2-matched-frequency": "imagenet_v2_matched_frequency",
    "sketch": "imagenet_sketch",
    "imagenet-a": "imagenet_a",
    "imagenet-r": "imagenet_r",
}
TESTBED_COLUMNS = {
    "val": "imagenet_val",
    "imagenetv2-matched-frequency-format-val": "imagenet_v2_matched_frequency",
    "imagenetv2-threshold-0.7-format-val": "imagenet_v2_threshold07",
    "imagenetv2-top-images-format-val": "imagenet_v2_top_images",
    "imagenet-a": "imagenet_a",
    "imagenet-r": "imagenet_r",
    "imagenet-sketch": "imagenet_sketch",
    "objectnet-1.0-beta": "objectnet",
    "stylized_imagenet": "stylized_imagenet",
    "imagenet-vid-robust_pm0": "imagenet_vid_robust/pm0",
    "imagenet-vid-robust_pm10": "imagenet_vid_robust/pm10",
    "val-on-imagenet-a-classes": "imagenet_val/a_classes",
    "val-on-imagenet-r-classes": "imagenet_val/r_classes",
    "val-on-objectnet-classes": "imagenet_val/objectnet_classes",
    "val-on-vid-robust-classes": "imagenet_val/vid_classes",
}
TESTBED_SIZES = {
    "objectnet": 18_514,  # the testbed's own copy
    "testbed/val_subsampled_class_1_8": 6_250,
    "testbed/imagenetv2-matched-frequency-format-val_subsampled_class_1_8": 1_250,
    **{"testbed/imagenetv2-matched-frequency": 10_000, "testbed/imagenetv2-topimages": 10_000},
    **{"testbed/imagenetv2-threshold0.7": 10_000, "testbed/val-on-ytbb-robust-classes": 11_550},
    **{"testbed/ytbb-robust_pm0": 2_030, "testbed/ytbb-robust_pm10": 2_030},
}

AT_CHANCE = 0.005
"""Overall accuracy on 1,000 classes below which a row is no classifier: five times chance."""


def read_imagenet_x_predictions(folder=None):
    """Top-1 predictions for every image of ImageNet's validation set.

    A further model joins as a file imagenet_x/predictions/NAME.csv with the same columns.

    Returns
    -------
    DataFrame
        50,000 rows a model: image_id (ILSVRC file name), label and predicted (index among the ImageNet outputs),
        confidence (of the prediction, in [0, 1]), correct (bool), model.

    Raises
    ------
    ClipsafeError
        A file that cannot be had, lacks a column, is cut short, or names other images than the validation set.
    """
    table = package_file("imagenet_x", "annotations", "filename_label.csv")
    labels = pd.read_csv(table, index_col="file_name")["label"]
    numbers = ["predicted_class", "predicted_probability"]
    frames = []
    for path in members("imagenet_x/predictions", folder):
        frame = read_csv(path, ["file_name", *numbers], folder, numbers=numbers, key=["file_name"])
        frame = frame.set_index("file_name")
        known = int(frame.index.isin(labels.index).sum())
        if not known == len(frame) == len(labels):
            raise ClipsafeError(
                f"{path}: column 'file_name' must list the {len(labels):,} images ILSVRC2012_val_00000001.JPEG ...; "
                f"got {len(frame):,} rows, {known:,} of them such images."
            )
        for column, top in zip(numbers, (999, 1), strict=True):
            if (outside := ~frame[column].between(0, top)).any():
                found = frame[column][outside].iloc[0]
                raise ClipsafeError(f"{path}: column {column!r} must lie in [0, {top}]; got {found}.")
        label, predicted = labels.reindex(frame.index), frame["predicted_class"].astype(np.int64)
        frames.append(
            pd.DataFrame(
                {
                    "image_id": frame.index,
                    "label": label.to_numpy(),
                    "predicted": predicted.to_numpy(),
                    "confidence": frame["predicted_probability"].to_numpy(),
                    "correct": (label == predicted).to_numpy(),
                    "model": f"imagenet_x/{Path(path).stem}",
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def read_factor_accuracies(folder=None, *, quarantine=None):
    """Accuracy per ImageNet-X factor, as printed: ImageNet-Testbed's models and the four of the paper.

    Returns
    -------
    DataFrame
        Tidy rows, protocol "imagenet_x multi" (all factors of an image count; prototypes dropped): "imagenet_x" is
        the overall accuracy over 46,110 images, "imagenet_x/FACTOR" that over the n images with the factor. The
        summaries `worst_factor` and `worst_100_classes` of the files are left out.

    Other Parameters
    ----------------
    quarantine : list, optional
        Receives a dict for each broken row or model that was taken out: model, protocol, test_set ("all" for a whole
        model), value, reason.
    """
    shows = load_factor_annotations("multi")
    n = {"imagenet_x": len(shows), **{f"imagenet_x/{f}": int(shows[f].sum()) for f in ALL_FACTORS}}
    columns = {"average": "imagenet_x", **{factor: f"imagenet_x/{factor}" for factor in ALL_FACTORS}}
    rows = []
    for prefix, name in (("testbed", "imagenet_testbed"), ("imagenet_x", "base")):
        path = f"imagenet_x/factor_accuracies/{name}.csv"
        frame = read_csv(path, ["model", *columns], folder, numbers=list(columns), key=["model"])
        frame = frame.assign(model=f"{prefix}/" + frame["model"]).rename(columns=columns)
        rows.append(frame.melt("model", list(columns.values()), var_name="test_set"))
    return _publish(pd.concat(rows), "imagenet_x multi", n, "imagenet_x", quarantine)


def read_cue_conflict_trials(folder=None):
    """Trials of the cue-conflict experiment: what humans and CNNs saw in an image of one shape and another texture.

    Returns
    -------
    DataFrame
        1,280 rows an observer: model ("geirhos/resnet50", "geirhos/subject-01"), image_id (the stimulus without
        suffix: "cat1-airplane1"), shape and texture (its cues; equal in 80 images), response (one of 16 categories,
        "" where none was given), is_human (bool).

    Raises
    ------
    ClipsafeError
        A file that cannot be had, lacks a column, is cut short, or names an image that is no stimulus.
    """
    frames = []
    for path in [*members("cue_conflict/cnns", folder), *members("cue_conflict/humans", folder)]:
        frame = read_csv(path, ["subj", "object_response", "category", "imagename"], folder, key=["imagename"])
        image_id = frame["imagename"].str.extract(r"_([a-z]+\d+-[a-z]+\d+)\.png$")[0]
        cues = image_id.str.extract(r"^([a-z]+)\d+-([a-z]+)\d+$")
        if (odd := cues[0].isna() | (cues[0] != frame["category"])).any():
            raise ClipsafeError(
                f"{path}: column 'imagename' must end in SHAPEi-TEXTUREj.png with the shape of 'category'; "
                f"got {frame.loc[odd, 'imagename'].iloc[0]!r} with {frame.loc[odd, 'category'].iloc[0]!r}."
            )
        if len(frame) != 1280:
            raise ClipsafeError(f"{path}: an observer sees 1,280 stimuli, got {len(frame):,} rows; get the file again.")
        frames.append(
            pd.DataFrame(
                {
                    "model": "geirhos/" + frame["subj"],
                    "image_id": image_id,
                    "shape": cues[0],
                    "texture": cues[1],
                    "response": frame["object_response"].replace("na", ""),
                    "is_human": path.startswith("cue_conflict/humans"),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def read_openclip_results(folder=None, *, quarantine=None):
    """Zero-shot accuracies of open_clip's models on ImageNet and its variants, as printed (4 decimals).

    Returns
    -------
    DataFrame
        Tidy rows, protocol "open_clip", model NAME/PRETRAINED. The table's other data sets are left out: many of its
        columns are no accuracies. "imagenet_o" is accuracy over 200 class names, not OOD detection.

    Other Parameters
    ----------------
    quarantine : list, optional
        See `read_factor_accuracies`.
    """
    frame = openclip_frame(folder).rename(columns=OPENCLIP_COLUMNS)
    rows = frame.melt("model", list(OPENCLIP_COLUMNS.values()), var_name="test_set")
    return _publish(rows, "open_clip", N_IMAGES, "imagenet_val", quarantine)


def read_timm_results(folder=None, *, quarantine=None):
    """Accuracies of timm's classifiers on ImageNet and five variants, as printed (3 decimals of a percent).

    The column `top1_diff` of the -A and -R tables is the accuracy minus that on the ImageNet images of the same 200
    classes, logits reduced to them (timm's `-clean` runs); so both tables also give that x axis.

    Returns
    -------
    DataFrame
        Tidy rows, protocol "timm", model NAME@SIZE, as a model appears once for each input size. `resnet50.tv_in1k`
        has no row for ImageNet-A, whose images were chosen because a ResNet-50 fails on them.

    Other Parameters
    ----------------
    quarantine : list, optional
        See `read_factor_accuracies`.
    """
    rows = []
    for name, test_set in TIMM_FILES.items():
        frame, short = timm_frame(name, folder), test_set[-1]
        rows.append(frame[["model"]].assign(test_set=test_set, value=frame["top1"]))
        if test_set in ("imagenet_a", "imagenet_r"):
            clean = (frame["top1"] - frame["top1_diff"]).round(3)
            rows.append(frame[["model"]].assign(test_set=f"imagenet_val/{short}_classes", value=clean))
    rows = pd.concat(rows)
    return _publish(rows.assign(value=rows["value"] / 100), "timm", N_IMAGES, "imagenet_val", quarantine)


def read_imagenet_testbed(folder=None, *, quarantine=None):
    """ImageNet-Testbed: 338 models under 213 test conditions, as printed.

    Returns
    -------
    DataFrame
        Tidy rows, protocol "imagenet_testbed", model testbed/NAME (the checkpoints of `read_factor_accuracies`). Test
        sets that other tables share have the common name, the others are testbed/CONDITION; conditions that were
        never run for a model (a third of the cells) have no row.

    Other Parameters
    ----------------
    quarantine : list, optional
        See `read_factor_accuracies`.
    """
    path = "accuracy/imagenet_testbed_top1s.csv"
    frame = read_csv(path, ["model", *TESTBED_COLUMNS], folder, numbers=None, key=["model"])
    names = {c: TESTBED_COLUMNS.get(c, f"testbed/{c}") for c in frame.columns if c != "model"}
    rows = frame.rename(columns=names).melt("model", var_name="test_set").dropna(subset="value")
    rows = rows.assign(model="testbed/" + rows["model"], value=rows["value"] / 100)
    full = {name: 50_000 for name in names.values() if re.match(r"testbed/(imagenet-c|pgd|greyscale)", name)}
    return _publish(rows, "imagenet_testbed", {**N_IMAGES, **full, **TESTBED_SIZES}, "imagenet_val", quarantine)


def openclip_frame(folder):
    """open_clip's table as it is, with the model ids."""
    path, numbers = "accuracy/openclip_results.csv", ["params (M)", *OPENCLIP_COLUMNS]
    key = ["name", "pretrained"]
    frame = read_csv(path, [*key, *numbers], folder, numbers=numbers, key=key)
    return frame.assign(model=frame["name"] + "/" + frame["pretrained"])


def timm_frame(name, folder):
    """One of timm's tables as it is, with the model ids; its column `model` becomes `name`."""
    path, key = f"accuracy/timm_results-{name}.csv", ["model", "img_size"]
    numbers = ["img_size", "top1", "top5", "param_count", *(["top1_diff"] if name != "imagenet" else [])]
    frame = read_csv(path, ["model", *numbers], folder, numbers=numbers, key=key).rename(columns={"model": "name"})
    return frame.assign(model=frame["name"] + "@" + frame["img_size"].map("{:.0f}".format))


def _publish(rows, protocol, n, reference, quarantine):
    """Printed accuracies as tidy rows, without those that say nothing about a trained classifier."""
    overall = rows[rows["test_set"] == reference].set_index("model")["value"]
    broken = {}
    for model in rows["model"].unique():
        if model in RULES["broken"]:
            broken[model] = RULES["broken"][model]
        elif model not in overall:
            broken[model] = f"the table of {reference} lacks this model: nothing to compare it with"
        elif overall[model] < AT_CHANCE:
            broken[model] = f"overall accuracy below {AT_CHANCE:.1%}: an untrained network"
    good = rows["value"].between(0, 1)
    if quarantine is not None:
        whole = [(model, "all", overall.get(model, np.nan), reason) for model, reason in broken.items()]
        cells = rows[~good & ~rows["model"].isin(broken)][["model", "test_set", "value"]]
        cells = [(*cell, "empty" if np.isnan(cell[-1]) else "outside [0, 1]") for cell in cells.itertuples(index=False)]
        names = ("model", "test_set", "value", "reason")
        quarantine += [{**dict(zip(names, row, strict=True)), "protocol": protocol} for row in [*whole, *cells]]
    rows = rows[good & ~rows["model"].isin(broken)]
    counts = rows["test_set"].map(n).fillna(0)
    return tidy(rows.assign(suite="published", source="published", protocol=protocol, metric="accuracy", n=counts))
