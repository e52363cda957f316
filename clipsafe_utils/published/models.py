"""The models behind the published numbers."""

from pathlib import Path

import pandas as pd

from clipsafe_utils.published.files import members, read_csv
from clipsafe_utils.published.readers import OPENCLIP_COLUMNS, openclip_frame, read_cue_conflict_trials, timm_frame
from clipsafe_utils.published.rules import SIZES, encoder, group_and_source, open_clip_input_size
from clipsafe_utils.zoo import load_zoo, zoo_frame


def published_models(folder=None):
    """The models of the published table, one row each.

    Parameters
    ----------
    folder : path, optional
        See `published_file`.

    Returns
    -------
    DataFrame
        - model: the id in the table; name: as its publisher writes it.
        - group: zero_shot_clip, clip_finetuned, standard, contrastive, pretrained_more, human or other.
        - source: of the pre-training data; encoder: family.
        - params_m: millions, NaN where not published; input_size: pixels a side, NaN likewise.
        - origin: the table that names it (imagenet_testbed also covers the ImageNet-X table of the same checkpoints).
        - distinct: False for further rows of weights that are already there, such as timm's other input sizes and
          the plain twins of open_clip's QuickGELU models. Count models and fit lines over the distinct ones.
        - finetune: on which labels a CLIP was fine-tuned, by its tag; else "none".
        - pretrain_size: of the pre-training data, such as "400M", empty where not known.
        - samples_seen, run, init_from: what the zoos "paper" and "extended" say of the same weights, see `ModelSpec`,
          else empty; init_from as a published id.
    """
    parts = [_openclip(folder), _timm(folder), _testbed(folder), _imagenet_x(folder), _observers(folder)]
    models = pd.concat(parts, ignore_index=True)
    rules = zip(models["origin"], models["model"].where(models["origin"] == "open_clip", models["name"]), strict=True)
    models[["group", "source"]] = [group_and_source(table, name) for table, name in rules]
    architecture = models["name"].where(models["origin"] != "timm", models["name"].str.split(".").str[0])
    models["encoder"] = architecture.map(encoder)
    tuned = models["name"].str.extract(r"_ft_(in\w+?)(?:_\d{3})?$")[0].fillna("in1k")
    models["finetune"] = tuned.where(models["group"] == "clip_finetuned", "none")
    models = models.join(_facts_of_zoos(models))
    usual = models["source"].map(SIZES).fillna("")
    models["pretrain_size"] = models["pretrain_size"].where(models["pretrain_size"].ne(""), usual)
    columns = ["model", "name", "group", "source", "encoder", "params_m", "input_size", "origin", "distinct"]
    columns += ["finetune", "pretrain_size", "samples_seen", "run", "init_from"]
    return models[columns].astype({"params_m": float, "input_size": float, "distinct": bool})


def _facts_of_zoos(models):
    """Facts that the zoos hold of the same weights: pretrain_size, samples_seen, run, init_from; "" for none."""
    zoos = pd.concat(zoo_frame(load_zoo(zoo)) for zoo in ("paper", "extended")).astype(object).fillna("")
    published = (zoos["name"] + "/" + zoos["pretrained"]).where(zoos["library"] == "open_clip", zoos["name"])
    names = models["model"].where(models["origin"] == "open_clip", models["name"])
    plain = names.str.replace("-quickgelu/", "/")  # some tables list the plain twin of a QuickGELU model alone
    ids = models["model"][models["distinct"]].groupby(plain).first()
    published = published.str.replace("-quickgelu/", "/")
    facts = zoos[["pretrain_size", "samples_seen", "run"]].assign(init_from=zoos["init_from"].map(published).map(ids))
    facts = facts.set_axis(published)[~published.duplicated().to_numpy()]
    return facts.astype(object).reindex(plain).fillna("").set_axis(models.index)


def _openclip(folder):
    frame = openclip_frame(folder)
    # Both twins print the same numbers; the QuickGELU one is what the weights were trained with.
    order = frame["name"].str.endswith("-quickgelu").sort_values(ascending=False, kind="stable").index
    twins = frame.loc[order].duplicated(["pretrained", *OPENCLIP_COLUMNS])
    sizes = frame["model"].map(open_clip_input_size)
    return _part(frame, "open_clip", distinct=~twins, params_m=frame["params (M)"], input_size=sizes)


def _timm(folder):
    frame = timm_frame("imagenet", folder)
    size = frame["img_size"]
    first = size == size.groupby(frame["name"]).transform("min")
    # levit and levit_conv are one set of weights: all numbers equal under the same tag.
    tag = frame["name"].str.split(".").str[-1]
    twins = frame.assign(tag=tag).duplicated(["tag", "img_size", "top1", "top5", "param_count"])
    return _part(frame, "timm", distinct=first & ~twins, params_m=frame["param_count"], input_size=size)


def _testbed(folder):
    names = read_csv("accuracy/imagenet_testbed_top1s.csv", ["model"], folder)["model"]
    return _part(pd.DataFrame({"model": "testbed/" + names, "name": names}), "testbed")


def _imagenet_x(folder):
    names = read_csv("imagenet_x/factor_accuracies/base.csv", ["model"], folder)["model"]
    names = [*names, *(Path(path).stem for path in members("imagenet_x/predictions", folder))]
    frame = pd.DataFrame({"name": list(dict.fromkeys(names))})
    return _part(frame.assign(model="imagenet_x/" + frame["name"]), "imagenet_x")


def _observers(folder):
    frame = pd.DataFrame({"model": read_cue_conflict_trials(folder)["model"].unique()})
    return _part(frame.assign(name=frame["model"].str.removeprefix("geirhos/")), "geirhos")


def _part(frame, origin, *, distinct=True, params_m=float("nan"), input_size=float("nan")):
    facts = {"origin": origin, "distinct": distinct, "params_m": params_m, "input_size": input_size}
    return frame[["model", "name"]].assign(**facts)
