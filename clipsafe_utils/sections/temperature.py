"""Where a temperature comes from: another test set than it is used on, and few images."""

import zlib

import numpy as np

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.metrics import (
    confidence_and_correct,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from clipsafe_utils.sections.calibration import split, temperature_of_half
from clipsafe_utils.sections.rows import WITH_IMAGES, over_models, row
from clipsafe_utils.statistics import mean_interval, split_mask

NO_SHIFT = (
    "a temperature is carried from one test set to another, and only one is there: list more under `shifted_sets`."
)
SIZES = (50, 100, 200, 500, 1000, 2000, 5000, 10000)
"""Images that temperatures are fitted on, as far as the calibration share holds more."""
REPEATS = 5
"""Subsets of each size."""


def temperature_transfer(study):
    """Calibration on every test set with the temperature of every other one.

    Each set is cut in two as the in-distribution set is: temperatures are fitted on one part, and all numbers of a set
    are of its other part.

    Returns
    -------
    DataFrame
        Tidy, "ece_scaled" and "nll_scaled"; the protocol names the set of the temperature: "HOW, temperature of SET".
    """
    p = study.parameters
    names, rows = study.named(p.id_set, *p.shifted_sets), []
    if p.id_set not in names or len(names) < 2:
        study.missing["transfer of temperatures"] = WITH_IMAGES if study.is_published else NO_SHIFT
        return study.table(rows)
    for model in study.evaluate(*names):
        # Frames of one video would come to lie on both sides of a cut.
        names = [name for name in names if "anchor" not in study.unit(model, name).images]
        fits = {name: float(study.ask(temperature_of_half, model, name, **split(study))[0]) for name in names}
        if without := [name for name, temperature in fits.items() if not np.isfinite(temperature)]:
            study.missing[f"temperatures of {model} elsewhere"] = (
                f"none is best on {', '.join(without)}, so the model is left out of the matrix, whose cells are means "
                "over the same models."
            )
            continue
        for name in names:
            correct, confidences, nlls = study.ask(
                at_temperatures, model, name, temperatures=[*fits.values()], **split(study)
            )
            for source, confidence, nll in zip(fits, confidences, nlls, strict=True):
                protocol = f"{study.protocol(model)}, temperature of {source}"
                ece = expected_calibration_error(confidence, correct, n_bins=p.n_bins)
                rows.append(row(model, name, protocol, "ece_scaled", (ece, len(correct))))
                rows.append(row(model, name, protocol, "nll_scaled", (float(nll), len(correct))))
    return study.table(rows)


def at_temperatures(logits, labels, temperatures, fraction, seed):
    """Correctness (n,) of the images not fitted on; confidences (k, n) and NLL (k,) at k temperatures."""
    kept = ~split_mask(labels, fraction, seed=seed)
    logits, labels = logits[kept], labels[kept]
    correct = np.argmax(logits, axis=1) == labels
    confidences = [confidence_and_correct(logits, labels, temperature=t)[0] for t in temperatures]
    confidences = np.array(confidences).reshape(len(temperatures), len(labels))
    below_top = np.mean(logits.max(axis=1) - np.take_along_axis(logits, labels[:, None], 1)[:, 0], dtype=np.float64)
    return correct, confidences.astype(np.float32), below_top / temperatures - np.log(confidences).mean(axis=1)


def transfer_means(study, transfer):
    """Mean over all models, for each pair of sets.

    Parameters
    ----------
    transfer : DataFrame
        From `temperature_transfer`.

    Returns
    -------
    DataFrame
        Tidy, `model` is "all models", the protocol "temperature of SET"; Student's interval over models, n counts them.
    """
    found, source = [], transfer["protocol"].str.replace(r"^.*(?=temperature of )", "", regex=True)
    for (metric, test_set, protocol), part in transfer.groupby(["metric", "test_set", source]):
        interval = over_models(study, part.set_index("model")["value"])
        found.append(row("all models", test_set, protocol, metric, interval))
    return study.table(found)


def own_temperature_gains(study, transfer):
    """What a temperature of the set's own would gain over that of the in-distribution set, on the same images.

    Returns
    -------
    DataFrame
        Tidy, "ece_gain" and "nll_gain" of each model and shifted set; above 0 the own temperature is better.
    """
    key, parts = ["model", "test_set", "protocol", "metric"], transfer["protocol"].str
    how, source = (
        parts.replace(pattern, "", regex=True) for pattern in (", temperature of .*$", "^.*, temperature of ")
    )
    rows = transfer.assign(protocol=how, source=source)
    shifted = rows[rows["test_set"] != study.parameters.id_set]
    own = shifted[shifted["source"] == shifted["test_set"]]
    usual = shifted[shifted["source"] == study.parameters.id_set]
    both = own.merge(usual[[*key, "value"]], on=key, suffixes=("_own", ""))
    both = both.assign(value=both["value"] - both["value_own"], metric=both["metric"].str.replace("_scaled", "_gain"))
    return study.table(both[[*key, "value", "n"]].to_dict("records"))


def temperature_sizes(study):
    """How good a temperature of few images is: NLL on the held-out images beyond that of the whole calibration share.

    Returns
    -------
    DataFrame
        Tidy, "nll_excess", mean over seeded subsets of each size with Student's interval over subsets; the test set is
        "SET/N images", and "SET/0 images" without scaling. n counts held-out images.
    """
    p = study.parameters
    names, rows, without = study.named(p.id_set), [], 0
    if not names:
        study.missing["images that a temperature needs"] = WITH_IMAGES
        return study.table(rows)
    for model in study.evaluate(*names):
        draw = zlib.crc32(model.encode())  # each model draws its own subsets, so that models are independent
        sizes, *nlls = study.ask(_fewer, model, p.id_set, sizes=SIZES, repeats=REPEATS, draw=draw, **split(study))
        plain, whole, few = nlls
        if not np.isfinite(whole):
            continue
        n, how = int((~split_mask(study.unit(model, p.id_set).labels, **split(study))).sum()), study.protocol(model)
        rows.append(row(model, f"{p.id_set}/0 images", how, "nll_excess", (float(plain - whole), n)))
        for size, values in zip(sizes, few, strict=True):
            values, without = values[np.isfinite(values)], without + int(np.isnan(values).sum())
            if len(values):
                interval = mean_interval(values - whole, level=p.ci_level)
                interval = interval._replace(kind="student t over subsets", n=n)
                rows.append(row(model, f"{p.id_set}/{size} images", how, "nll_excess", interval))
    if without:
        study.missing["temperatures of some small samples"] = (
            f"{without:,} of the subsets have none, for instance because all their images are classified correctly; "
            "means are over the others."
        )
    return study.table(rows)


def size_effects(study, sizes):
    """What a temperature of few images changes against none: NLL on the held-out images with it, minus that without.

    Parameters
    ----------
    sizes : DataFrame
        From `temperature_sizes`.

    Returns
    -------
    DataFrame
        Tidy, "nll_change" of each model, test set "SET/N images"; below 0 the temperature is worth its labels.
    """
    plain = sizes["test_set"].str.endswith("/0 images")
    without = sizes[plain].set_index("model")["value"]
    return sizes[~plain].assign(
        value=lambda rows: rows["value"] - rows["model"].map(without).astype(float),
        metric="nll_change",
        **{"ci_low": np.nan, "ci_high": np.nan, "ci_kind": "", "ci_level": np.nan},
    )


def _fewer(logits, labels, sizes, repeats, draw, fraction, seed):
    """Sizes (s,), and held-out NLL: without scaling, scaled on the whole share, scaled on subsets (s, repeats)."""
    fit = split_mask(labels, fraction, seed=seed)
    held_out, own, own_labels = (logits[~fit], labels[~fit]), logits[fit], labels[fit]
    sizes = np.array([size for size in sizes if size < len(own)], int)

    def nll(chosen):
        try:
            temperature = fit_temperature(own[chosen], own_labels[chosen])
        except ClipsafeError:
            return np.nan
        return negative_log_likelihood(*held_out, temperature=temperature)

    few = np.empty((len(sizes), repeats))
    for (i, size), k in ((one, k) for one in enumerate(sizes) for k in range(repeats)):
        few[i, k] = nll(np.random.default_rng([seed, draw, size, k]).choice(len(own), size, replace=False))
    return sizes, np.array(negative_log_likelihood(*held_out)), np.array(nll(slice(None))), few
