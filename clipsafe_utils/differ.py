"""Why do these two differ? What made two rows of the tidy table, side by side, and what of it can move the number."""

import json
from pathlib import Path

import pandas as pd

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.params import Parameters, resolve
from clipsafe_utils.prompts import load_templates
from clipsafe_utils.store import Store
from clipsafe_utils.table import KEY

VALUE, ROUNDING, INTERVAL, NOTHING = "the value", "its rounding", "its interval", "nothing"

FAMILIES = {
    "detection": ("auroc", "auroc_gain", "fpr_ood_at_tpr_id95", "fpr_id_at_tpr_ood95", "aupr_in", "aupr_out"),
    "calibration": ("ece", "nll", "brier", "overconfidence", "temperature"),
    "decisions": ("shape_bias", "share_decided"),
    "robustness": ("effective_robustness",),
}
"""Family -> metrics, without the suffixes _scaled and _difference; all others count correct images."""

_SOFTMAX = ("detection", "calibration", "decisions")
EFFECTS = {
    **dict.fromkeys(("model", "test_set", "protocol", "metric", "source", "n"), VALUE),
    **dict.fromkeys(("weights", "architecture", "configuration", "preprocessing", "images", "ID images"), VALUE),
    **dict.fromkeys(("prompts", "class_names", "ood_scores", "factor_annotation"), VALUE),
    **dict.fromkeys(("precision", "library", "python", "torch", "device"), ROUNDING),
    **dict.fromkeys(("ci_level", "n_bootstrap"), INTERVAL),
    "logit_scale": dict.fromkeys(_SOFTMAX, VALUE),
    "label_space": {"detection": NOTHING, "": VALUE},
    "n_bins": {"ece": VALUE},
    "calibration_fraction": {"calibration": VALUE, "detection": VALUE},
    "seed": {"calibration": VALUE, "detection": VALUE, "": INTERVAL},  # it splits the ID set for what is fitted on it
    **{key: {"robustness": VALUE} for key in ("line_scale", "baseline_group", "zoo", "select", "admit")},
}
"""Fact -> what it can move, by metric or family where that depends ("": the others); all other facts move nothing."""


def explain_difference(row_a, row_b, folder_a=None, folder_b=None):
    """Compare what made two rows of the tidy table.

    Parameters
    ----------
    row_a, row_b : Series or dict
        With the columns of the table.
    folder_a, folder_b : str or Path, optional
        The suites' folders; by default outputs/SUITE of the project.

    Returns
    -------
    DataFrame
        One row a fact that differs, those that move most first: fact; first, second (None where a row has no such
        fact); `can_move`: "the value", "its rounding", "its interval" or "nothing", for the metric of the first row.
        Empty where all that is known is the same.

    Raises
    ------
    ClipsafeError
        A row without one of the key columns.
    """
    a, b = row_facts(row_a, folder_a), row_facts(row_b, folder_b)
    rows = [
        {"fact": fact, "first": a.get(fact), "second": b.get(fact), "can_move": _effect(fact, row_a["metric"])}
        for fact in dict.fromkeys([*a, *b])
        if a.get(fact) != b.get(fact)
    ]
    frame = pd.DataFrame(rows, columns=["fact", "first", "second", "can_move"], dtype=object)
    order = [VALUE, ROUNDING, INTERVAL, NOTHING].index
    return frame.sort_values("can_move", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def compare(folders, wanted):
    """Find two rows and explain in words why they differ.

    Parameters
    ----------
    folders : list of str
        One or two folders outputs/SUITE.
    wanted : dict
        Column -> list of one value (of both rows), of two (of the first and the second row), or None (any).

    Returns
    -------
    str

    Raises
    ------
    ClipsafeError
        More than two values, or what `find_row` raises.
    """
    for name, values in {"folder": folders, **wanted}.items():
        if values and len(values) > 2:
            raise ClipsafeError(f"two rows are compared; got {len(values)} values of {name}: {', '.join(values)}.")
    rows = [find_row(folders[k], **{name: v[k] if v else None for name, v in wanted.items()}) for k in (0, -1)]
    frame = explain_difference(*rows, folders[0], folders[-1])
    first, second = (f"{r['model']}, {r['test_set']}: {r['metric']} {r['value']:.4f} (n = {r['n']:,})" for r in rows)
    text = frame.to_string(index=False, justify="left") if len(frame) else "nothing that is known of them differs"
    return f"{first}\n{second}\n\n{text}"


def row_facts(row, folder=None):
    """What is known of how a row came about: fact -> value, from its suite's provenance and store.

    Returns
    -------
    dict
        Facts that cannot matter to the row are left out: prompts of a classifier, scores that the row itself names.
    """
    if lacking := [column for column in KEY if column not in row]:
        raise ClipsafeError(f"the row has no {lacking[0]!r}; give a row of the tidy table, with {', '.join(KEY)}.")
    folder = Path(folder) if folder else resolve("outputs") / row["suite"]
    facts = {column: row[column] for column in ("model", "test_set", "protocol", "metric", "source")}
    facts |= {"n": int(row["n"])} | ({} if pd.isna(row["ci_level"]) else {"ci_level": row["ci_level"]})
    record = _provenance(row, folder)
    if record is None:
        return facts | {"provenance": f"none in {folder}"}
    values = record["parameters"]
    facts |= {key: values[key] for key in EFFECTS if key in values and key not in facts}
    units = {unit["image_set"]: unit["key"] for unit in record["units"] if unit["model"] == row["model"]}
    roles, identity = {"images": _image_set(row, values, units)}, None
    if _family(row["metric"]) in ("detection", "calibration"):
        roles["ID images"] = values.get("id_set")
    elsewhere = values.get("store")
    if units:
        store = Store(elsewhere if "://" in str(elsewhere) else resolve(elsewhere) if elsewhere else folder / "store")
    for role, name in roles.items():
        if name in units and units[name] in store:
            unit = store.load(units[name])
            identity = unit.record["identity"]
            facts[role] = f"{name}, {unit.record['n']:,} read, manifest {identity['images']['manifest'][:12]}"
    if identity is None:
        return facts
    model, versions = identity["model"], unit.record["versions"]
    facts |= {"weights": model["checkpoint"][:12], "architecture": model["name"], "precision": model["precision"]}
    facts |= {"configuration": json.dumps(model["config"])} if model["config"] else {}
    facts |= {f"preprocessing: {key}": value for key, value in model["preprocessing"].items()}
    facts |= {"library": model["library"], "device": unit.record["device"], **versions}
    if unit.kind == "logits":
        return {fact: facts[fact] for fact in facts if fact not in ("logit_scale", "class_names", "ood_scores")}
    how = row["protocol"].rpartition("prompts ")[2].split(", ")[0]
    parameters = Parameters(**{key: values[key] for key in ("prompt_sets", "class_names") if key in values})
    if how in parameters.prompts:
        templates = load_templates(parameters.prompts[how])
        facts["class_names"] = parameters.prompt_names[how]
        facts["prompts"] = f"{how}: {len(templates)} of {templates[0]!r} ..." if len(templates) > 1 else templates[0]
    if not row["protocol"].startswith("prompts "):  # then it names its score
        facts.pop("ood_scores", None)
    return facts


def find_row(folder, **where):
    """The one row of a suite's tables with these values.

    Parameters
    ----------
    folder : str or Path
        outputs/SUITE.
    **where : str
        Column -> value; None for any.

    Returns
    -------
    Series

    Raises
    ------
    ClipsafeError
        No table, no row, or several: what they differ in.
    """
    paths = sorted(Path(folder).glob("tables/*.parquet"))
    if not paths:
        raise ClipsafeError(f"{folder} has no tables; give outputs/SUITE of a suite that was run.")
    frames = [frame for frame in map(pd.read_parquet, paths) if set(KEY) <= set(frame.columns)]
    rows = pd.concat(frames).drop_duplicates(KEY)
    for column, value in where.items():
        known = sorted(set(rows[column]))
        rows = rows[rows[column] == value] if value is not None else rows
        if rows.empty:
            raise ClipsafeError(f"no row of {folder} with {column} {value!r}; there are {', '.join(known[:12])}.")
    if len(rows) > 1:
        open_columns = [column for column in KEY if len(set(rows[column])) > 1]
        options = "; ".join(f"{c}: {', '.join(sorted(set(rows[c]))[:8])}" for c in open_columns)
        raise ClipsafeError(f"{len(rows):,} rows of {folder} fit; say which ({options}).")
    return rows.iloc[0]


def _effect(fact, metric):
    effect = EFFECTS.get(fact.partition(":")[0], NOTHING)
    if isinstance(effect, str):
        return effect
    base = metric.removesuffix("_difference").removesuffix("_scaled")
    return effect.get(base) or effect.get(_family(metric)) or effect.get("", NOTHING)


def _family(metric):
    base = metric.removesuffix("_difference").removesuffix("_scaled")
    return next((family for family, metrics in FAMILIES.items() if base in metrics), "")


def _provenance(row, folder):
    """Record of the notebook that wrote the row; None if there is none."""
    wanted = pd.Series({column: row[column] for column in KEY})
    for path in sorted(folder.glob("provenance/*.json"), reverse=True):  # the overview gathers rows of the others
        record = json.loads(path.read_text())
        for name in record["files"]:
            if name.endswith(".parquet") and "parameters" in record and (folder / name).is_file():
                table = pd.read_parquet(folder / name)
                if set(KEY) <= set(table.columns) and table[KEY].eq(wanted).all(axis=1).any():
                    return record
    return None


def _image_set(row, values, units):
    """The image set behind a row: imagenet_val/a_classes and imagenet_x/pose are parts of others."""
    name = row["test_set"].partition("/")[0]
    return name if name in units else values.get("factor_set") or values.get("id_set")
