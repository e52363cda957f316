"""The model tables, selection from them, and tables of the user."""

from collections import Counter

import numpy as np
import open_clip
import pandas as pd
import pytest
import timm
import yaml

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.models import load_model
from clipsafe_utils.sections import fine_tuning_pairs
from clipsafe_utils.zoo import GROUPS, ModelSpec, available_zoos, find_model, load_zoo, origins, quantity, zoo_frame


def test_the_paper_zoo_has_the_models_of_the_study():
    zoo = load_zoo("paper")
    counts = Counter(model.group for model in zoo)
    assert counts == {
        "zero_shot_clip": 51,
        "clip_finetuned": 32,
        "standard": 72,
        "contrastive": 8,
        "pretrained_more": 47,
    }
    assert set(counts) == set(GROUPS) and len(zoo) == 83 + 127
    sources = Counter(model.pretrain_source for model in zoo if model.is_zero_shot)
    assert sources == {"wit": 9, "laion": 39, "laion_aesthetic": 3}
    assert len({m.id for m in zoo + load_zoo("extended")}) == 210 + 152


def test_every_name_is_known_to_its_library():
    clip = set(open_clip.list_pretrained())
    classifiers = set(timm.list_pretrained())
    for model in load_zoo("paper") + load_zoo("extended"):
        if model.library == "open_clip":
            assert (model.name, model.pretrained) in clip, model.id
        elif model.library == "timm":
            assert model.name in classifiers, model.id
        else:
            assert ":" in model.pretrained or "/" in model.pretrained, model.id


@pytest.mark.parametrize("zoo", ["paper", "extended"])
def test_every_model_knows_its_preprocessing_without_a_network(zoo):
    for spec in load_zoo(zoo):
        config = load_model(spec, device="cpu").preprocessing
        size = config.get("size") or config["input_size"][-1]
        assert (size if isinstance(size, int) else size[0]) == spec.input_size, spec.id


def test_fine_tuned_clips_start_from_a_zero_shot_row_of_their_architecture_and_source():
    """The libraries write architectures differently: "vit_base_patch16_clip_384" is an image tower of "ViT-B-16"."""
    zoo = load_zoo("paper")
    frame = zoo_frame(zoo)
    started = {model: start for model, start in frame["init_from"].items() if start}
    assert set(frame.loc[list(started), "group"]) == {"clip_finetuned"}
    sizes = {"base": "b", "large": "l", "huge": "h"}
    for model, start in started.items():
        tuned, clip = frame.loc[model], frame.loc[start]
        assert clip["group"] == "zero_shot_clip", model
        same = ["encoder_family", "pretrain_source", "pretrain_size"]
        assert tuned[same].tolist() == clip[same].tolist(), model
        if tuned["encoder_family"] == "vit":
            _, size, patch = tuned["name"].split("_")[:3]
            shared = f"vit-{sizes[size]}-{patch.removeprefix('patch')}"
            assert clip["name"].lower().startswith(shared), model
        else:  # the tag carries the recipe of pre-training: "clip_laion2b_augreg_ft_in1k"
            recipe = tuned["name"].partition("_ft_")[0].rsplit("_", 1)[1]
            assert clip["name"].startswith("_".join(tuned["name"].split(".")[0].split("_")[:2])), model
            assert clip["pretrained"].endswith(recipe), model
        gap = tuned["params_m"] / clip["params_m"]
        assert 0.4 < gap < 0.75, f"{model}: the image tower is a part of {start}"
    blank = set(frame.index[frame["group"] == "clip_finetuned"]) - set(started)
    assert blank == {"vit-large-patch14-clip-336-openai-ft-in12k-in1k"}, "OpenAI's L/14 was released at 224 and at 336"
    pairs = fine_tuning_pairs(frame)
    sizes = frame.loc[pairs["first"], "input_size"].to_numpy(), frame.loc[pairs["second"], "input_size"].to_numpy()
    assert (np.abs(sizes[0] - sizes[1]) <= 64).sum() >= 16, "of several sizes, that of the start"
    assert len(pairs) == 19 and not pairs.duplicated(["second", "comparison"]).any()
    assert set(pairs["comparison"]) == {"in1k minus zero-shot", "in12k, then in1k minus zero-shot"}


def test_weights_of_one_training_run_have_one_origin():
    zoos = {name: zoo_frame(load_zoo(name)) for name in ("paper", "extended")}
    both = pd.concat(zoos.values())
    said = both["run"][both["run"].fillna("").ne("")]
    assert set(said) <= set(both.index)
    for run, part in both.loc[said.index].groupby(said):
        assert part[["encoder_family", "pretrain_source"]].nunique().eq(1).all(), run
    of = origins(zoos["paper"])
    zero_shot = zoos["paper"]["group"].eq("zero_shot_clip")
    assert zero_shot.sum() == 51 and of[zero_shot].nunique() == 41
    checkpoints = of[of.index.str.contains("laion400m-e3[12]")]
    assert len(checkpoints) == 8 and checkpoints.nunique() == 4
    assert len(set(of[of.index.str.startswith("convnext-xxlarge-laion2b")])) == 1, "a soup and what it is made of"
    assert of["vit-large-patch14-clip-336-openai-ft-in12k-in1k"] == of["vit-l-14-336-openai"] == of["vit-l-14-openai"]
    assert set(of[zoos["paper"]["group"].eq("clip_finetuned")]) <= set(of[zero_shot])


def test_samples_seen_are_those_of_the_tags():
    both = pd.concat(zoo_frame(load_zoo(name)) for name in ("paper", "extended"))
    both = both[both["library"] == "open_clip"]
    tags = both["pretrained"].str.extract(r"(?:_s|Samples-)(\d+)([bmBM])(?:_|$)")
    in_tag = (tags[0] + tags[1].str.upper()).dropna()
    assert len(in_tag) > 60 and both.loc[in_tag.index, "samples_seen"].equals(in_tag)
    epochs = both["pretrained"].str.extract(r"^laion(\d+)([mb])_e(\d+)$").dropna().astype({0: float, 2: float})
    expected = epochs[0] * epochs[1].map({"m": 1e6, "b": 1e9}) * epochs[2]
    assert len(expected) == 9 and both.loc[expected.index, "samples_seen"].map(quantity).tolist() == expected.tolist()


def test_selection():
    zoo = load_zoo("paper", group="zero_shot_clip", source="wit", encoder=["resnet", "vit"], id=["rn50*", "vit-b-*"])
    assert {m.id for m in zoo} == {"rn50-openai", "rn50x4-openai", "rn50x16-openai", "rn50x64-openai"} | {
        m.id for m in load_zoo("paper") if m.id.startswith("vit-b") and m.pretrain_source == "wit" and m.is_zero_shot
    }
    assert len(zoo) > 5
    assert len(load_zoo("paper", group=[], id=[])) == 210


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            {"group": ["standard", "zero_shot"]},
            "unknown group to select 'zero_shot'; did you mean 'zero_shot_clip'? valid: clip_finetuned, contrastive, "
            "pretrained_more, standard, zero_shot_clip. Zoo: paper.",
        ),
        ({"encoder": "vitt"}, "unknown encoder_family to select 'vitt'; did you mean 'vit'?"),
        ({"id": ["rn50*", "nothing*"]}, "unknown id to select 'nothing*'; 210 are known. Zoo: paper."),
        (
            {"group": "standard", "source": "wit"},
            "no model of zoo 'paper' is all of {'group': ['standard'], 'pretrain_source': ['wit']}; select less at "
            "once.",
        ),
    ],
)
def test_a_selection_without_a_match_is_refused(selection, message):
    with pytest.raises(ClipsafeError) as error:
        load_zoo("paper", **selection)
    assert str(error.value).startswith(message)


def test_a_table_of_the_user_csv_and_yaml(tmp_path):
    header = "id,group,library,name,checkpoint,input_size,augmentation,outputs"
    (tmp_path / "mine.csv").write_text(
        f"{header}\nmine,standard,timm,resnet18,weights/mine.pt,64,strong,\nlab,standard,timm,resnet18,,,,lab\n",
        encoding="utf-8-sig",
    )
    rows = [
        {"id": "mine", "group": "standard", "library": "timm", "name": "resnet18"}
        | {"checkpoint": "weights/mine.pt", "input_size": 64, "augmentation": "strong"},
        {"id": "lab", "group": "standard", "library": "timm", "name": "resnet18", "augmentation": ""}
        | {"outputs": "lab"},
    ]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(rows))
    csv, from_yaml = load_zoo(tmp_path / "mine.csv"), load_zoo(str(tmp_path / "mine.yaml"))
    assert csv == from_yaml and [m.facts for m in csv] == [m.facts for m in from_yaml]
    mine, lab = csv
    assert mine.checkpoint == str(tmp_path / "weights/mine.pt") and mine.input_size == 64
    assert mine.facts == {"augmentation": "strong"} and mine.outputs == "imagenet1k" and lab.outputs == "lab"
    assert lab.checkpoint == "" and lab.input_size is None
    frame = zoo_frame(csv)
    assert frame.loc["mine", "augmentation"] == "strong" and frame.loc["mine", "pretrain_source"] == ""


ROW = "id,group,library,name\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv must hold a list of models, each with id, group, library and name."),
        (ROW + "a,standard,timm\n", "t.csv: the row of model 'a' has the wrong number of cells."),
        (ROW + "a,standard,timm,resnet18,x\n", "t.csv: the row of model 'a' has the wrong number of cells."),
        (
            "id,group,name\na,standard,x\n",
            "t.csv: no column 'library'; a model table needs id, group, library and name.",
        ),
        (ROW + "a,standard,timm,\n", "model 'a' has no name; every model needs one."),
        (ROW + ",standard,timm,x\n", "model '(without id)' has no id; every model needs one."),
        (
            ROW + "a,standard,timm,x\na,standard,timm,y\n",
            "t.csv: model id 'a' appears more than once; ids must be unique.",
        ),
        (
            ROW + "a,standart,timm,x\n",
            "unknown group of model 'a' 'standart'; did you mean 'standard'? valid: clip_finetuned, contrastive, "
            "pretrained_more, standard, zero_shot_clip.",
        ),
        (
            ROW + "a,standard,tim,x\n",
            "unknown library of model 'a' 'tim'; did you mean 'timm'? valid: hf_hub, open_clip, timm.",
        ),
        (
            "id,group,library,name,params_m\na,standard,timm,x,many\n",
            "t.csv: params_m of model 'a' must be a number; got 'many'.",
        ),
        (
            "id,group,library,name,pretrain_sourc\na,standard,timm,x,wit\n",
            "t.csv: column 'pretrain_sourc' looks like 'pretrain_source' misspelt; rename it.",
        ),
    ],
)
def test_mistakes_in_a_table(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ClipsafeError) as error:
        load_zoo(tmp_path / "t.csv")
    assert str(error.value).removeprefix(f"{tmp_path}/") == message


@pytest.mark.parametrize("text", ["a: 1", "[1, 2]", "{", "- id: [a\n"])
def test_yaml_that_is_no_table(tmp_path, text):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ClipsafeError, match=r"t\.yaml (must hold a list of models|cannot be read as a model table)"):
        load_zoo(tmp_path / "t.yaml")


def test_unknown_zoo_and_model():
    with pytest.raises(ClipsafeError) as error:
        load_zoo("papers")
    assert str(error.value) == (
        f"unknown zoo 'papers'; did you mean 'paper'? valid: {', '.join(sorted(available_zoos()))}. A path to a CSV or "
        "YAML file works too."
    )
    with pytest.raises(ClipsafeError, match=r"^unknown model 'rn50-openia'; did you mean 'rn50-openai'\?"):
        find_model("rn50-openia")
    assert find_model("rn50-openai").name == "RN50-quickgelu"


def test_a_spec_needs_no_table():
    spec = ModelSpec("mine", "standard", "timm", "resnet18")
    assert not spec.is_zero_shot and hash(spec) == hash(ModelSpec("mine", "standard", "timm", "resnet18"))
