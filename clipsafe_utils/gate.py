"""Golden numbers: a model whose accuracy contradicts the published one is quarantined, out of every table and figure.

A published accuracy (`published_in1k_top1` of the zoo, in percent) holds for the whole ImageNet validation set and for
one protocol: of a zero-shot model, the 80 templates and names of `PROMPTS` and `NAMES`, which are those of the files
that open_clip's result table was made with, whatever prompts the suite uses; of others, their own head on images
preprocessed as the checkpoint has it, at `input_size`.

Both numbers are of the same 50,000 images, so nothing is sampled, and all that differs is the program. Two publishers
of the same weights agree within 0.04 points where they prepare images alike, and within 0.44 where they crop or
interpolate otherwise; other weights of one architecture are 0.7 and more apart, a missing QuickGELU or one prompt for
80 several points. Hence the default of `gate_tolerance`, 0.5 points.
"""

import numpy as np
import pandas as pd

from clipsafe_utils.datasets import known_image_sets
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.prompts import class_names, load_templates

SET = "imagenet_val"
PROMPTS, NAMES = "imagenet_80", "openai"
COLUMNS = ("model", "verdict", "measured", "published", "difference", "n", "protocol", "source", "why", "unit")
"""`verdict`: agrees, quarantined, admitted or not checked. `measured`, `published` and `difference` in percent and
percentage points; `n` images were read; `unit` is the key of what was measured."""


def complete_set(study):
    """Name of the in-distribution set if it is the whole ImageNet validation set, else None."""
    p = study.parameters
    images, entry = study.images.get(p.id_set), p.image_sets.get(p.id_set)
    known = known_image_sets()[SET]
    is_val = images is not None and (entry.kind or p.id_set) == known.name
    return p.id_set if is_val and len(images) == known.images else None


def golden_numbers(study):
    """Compare each model's measured accuracy with the published one, and save the table `golden_numbers`.

    A model passes if the difference is at most `gate_tolerance` points, plus the share of images that could not be
    read. What was measured on the same unit before is taken from the saved table.

    Parameters
    ----------
    study : Study

    Returns
    -------
    DataFrame
        One row a model with the columns of `COLUMNS`; empty where the in-distribution set is not the whole ImageNet
        validation set.
    """
    p = study.parameters
    tolerance, admitted, name = p.gate_tolerance, p.admit, complete_set(study)
    rows, earlier = [], _earlier(study)
    for spec in study.specs if name else []:
        try:
            unit = study.unit(spec.id, name)
        except ClipsafeError:
            continue  # named among what is missing
        row = {"model": spec.id, "n": len(unit.images), "unit": unit.key, "source": spec.source}
        row["protocol"] = f"prompts {PROMPTS}, names {NAMES}" if spec.is_zero_shot else "classifier head, own crop"
        if reason := _incomparable(spec, p):
            rows.append(row | {"verdict": "not checked", "why": reason})
            continue
        measured = earlier.get((unit.key, row["protocol"]))
        measured = 100 * _accuracy(study, spec.id, unit) if measured is None else measured
        difference = measured - spec.published_in1k_top1
        slack = tolerance + 100 * len(unit.failed) / (len(unit.failed) + row["n"])
        verdict = "agrees" if abs(difference) <= slack else "admitted" if spec.id in admitted else "quarantined"
        numbers = {"measured": measured, "published": spec.published_in1k_top1, "difference": difference}
        rows.append(row | numbers | {"verdict": verdict, "why": ""})
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    off = frame["verdict"].isin(["quarantined", "admitted"])
    many = 2 * off.sum() > frame["measured"].notna().sum() > 1
    frame.loc[off, "why"] = [_reason(row, tolerance, many) for row in frame[off].itertuples()]
    return study.save(frame, "golden_numbers")


def _incomparable(spec, parameters):
    """Why a model's accuracy has nothing to be compared with; "" if it has."""
    if spec.published_in1k_top1 is None:
        return "the zoo names no published accuracy"
    if not spec.is_zero_shot and parameters.crop != "own":
        return f"published with the checkpoint's own preprocessing, measured with crop: {parameters.crop}"
    return ""


def _accuracy(study, model, unit):
    identity = {"question": "golden number", "templates": list(load_templates(PROMPTS)), "names": NAMES}
    return float(study.answer(model, unit.record["image_set"], identity, lambda: _measured(study, model, unit)))


def _measured(study, model, unit):
    space, scores = study.id_space, unit.array
    if unit.kind == "embeddings":
        head = study.head(model, load_templates(PROMPTS), class_names(space, NAMES))
        scores = np.asarray(scores) @ head["weights"].T  # neither norm nor scale moves the largest
    return np.array(np.mean(np.argmax(space.reduce(scores), axis=1) == unit.labels))


def _earlier(study):
    path = study.folder / "tables" / "golden_numbers.parquet"
    if not path.exists():
        return {}
    rows = pd.read_parquet(path, columns=["unit", "protocol", "measured"]).dropna()
    return dict(zip(zip(rows["unit"], rows["protocol"], strict=True), rows["measured"], strict=True))


def _reason(row, tolerance, many):
    first = (
        "Most models of this suite are off, so check the labels and files of the image set first"
        if many
        else "Check the checkpoint, its preprocessing and input size, QuickGELU, and the published number"
    )
    return (
        f"quarantined: {row.measured:.2f}% of {row.n:,} ImageNet images are right, published are {row.published:.2f}% "
        f"({row.difference:+.2f} points, tolerated {tolerance:g}; {row.protocol}). {first}; `admit: [{row.model}]` "
        "lets it in all the same."
    ).replace("quarantined", row.verdict, 1)
