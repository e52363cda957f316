"""The laboratory: exact factors, the same bytes always, captions at their stated rates, training that resumes."""

import gzip
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torchvision.transforms.v2.functional import InterpolationMode, resize

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.lab import (
    DEV_SEEDS,
    LAB_SETS,
    TEST_SEEDS,
    World,
    atlas,
    captions,
    load_lab_images,
    surfaces,
    training,
)
from clipsafe_utils.lab import world as worlds
from clipsafe_utils.lab.captions import SOURCES
from clipsafe_utils.lab.world import CLASS_NAMES, CLASSES, FACTORS, RATES, STREAMS
from clipsafe_utils.sections import fine_tuning_pairs, resolution_pairs

DEV = World(DEV_SEEDS[0])


@pytest.fixture
def threads():
    """Give the number of threads back after a test that changes it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("stream", STREAMS)
def test_bytes_depend_on_the_image_alone(stream, threads):
    torch.set_num_threads(1)
    whole = DEV.images(stream, 0, 40)
    assert torch.equal(whole[13:27], DEV.images(stream, 13, 27))
    assert torch.equal(whole[39:], DEV.images(stream, 39, 40))
    facts = DEV.facts(stream, np.arange(40))
    torch.set_num_threads(3)
    assert torch.equal(whole, DEV.render(stream, facts, chunk=17))


def test_images_are_unique_between_seeds_streams_and_indices():
    sets = [DEV.images("id", 0, 300), World(DEV_SEEDS[1]).images("id", 0, 300), DEV.images("train", 0, 300)]
    assert len({image.numpy().tobytes() for image in torch.cat(sets)}) == 900
    assert len({training.TRAIN_SEED, *DEV_SEEDS, *TEST_SEEDS}) == 1 + len(DEV_SEEDS) + len(TEST_SEEDS)


def test_factors_occur_at_their_stated_rates():
    n = 8000
    for stream in ("id", "A", "B", "hard"):
        facts = DEV.facts(stream, np.arange(n))
        for factor, rate in zip(FACTORS, RATES[STREAMS[stream].rates], strict=True):
            assert facts[factor].mean() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / n) ** 0.5), (stream, factor)
    assert RATES[STREAMS["factors"].rates] == RATES[STREAMS["id"].rates]


def test_factor_labels_say_what_is_in_the_image():
    f = DEV.facts("id", np.arange(2000))
    label, scenes = f["label"], worlds.TYPICAL_SCENES[f["label"]]
    assert np.array_equal(f["color"], f["paint"] != worlds.TYPICAL_COLOR[label])
    assert np.array_equal(f["pattern"], f["motif"] != worlds.TYPICAL_PATTERN[label])
    assert np.array_equal(f["texture"], f["material"] != worlds.TYPICAL_MATERIAL[label])
    assert np.array_equal(f["background"], ~(f["scene"][:, None] == scenes).any(1))
    assert np.array_equal(f["subcategory"], f["variant"] == 2)
    assert np.array_equal(f["pose"], np.abs(f["angle"]) > np.radians(30))
    assert np.array_equal(f["smaller"], f["scale"] < 0.5)
    assert np.array_equal(f["larger"], f["scale"] > 1)
    assert np.array_equal(f["shape"], np.abs(np.log(f["stretch"])) > 0.15)
    assert np.array_equal(f["partial_view"], np.maximum(np.abs(f["x"]), np.abs(f["y"])) > 0.5 * (1 - 0.25 * f["scale"]))


@pytest.mark.parametrize("factor", FACTORS)
def test_forcing_a_factor_changes_nothing_else(factor):
    index = np.arange(64)
    before, after = DEV.facts("typical", index), DEV.forcing(**{factor: True}).facts("typical", index)
    moved = {
        "pose": {"angle"}, "background": {"scene"}, "pattern": {"motif"}, "color": {"paint"}, "texture": {"material"},
        "smaller": {"scale", "x", "y"}, "larger": {"scale", "x", "y"}, "shape": {"stretch", "shear"},
        "partial_view": {"x", "y"}, "subcategory": {"variant"},
    }[factor]  # fmt: skip
    derived = {"xx", "xy", "yx", "yy"}
    assert {name for name in before if not np.array_equal(before[name], after[name])} - derived == moved | {factor}
    assert after[factor].all() and not before[factor].any()
    pixels = [DEV.images("typical", 0, 64), DEV.forcing(**{factor: True}).images("typical", 0, 64)]
    assert (pixels[0] != pixels[1]).flatten(1).any(1).all()


def test_every_class_has_a_surface_of_its_own_and_cues_conflict():
    pairs = set(zip(worlds.TYPICAL_COLOR, worlds.TYPICAL_PATTERN, strict=True))
    assert len(pairs) == len(CLASS_NAMES) == 52
    assert [len(CLASSES[c]) for c in ("benchmark", "more", "held_out", "unseen")] == [32, 40, 8, 4]
    conflict = load_lab_images("lab_cue_conflict", seed=DEV_SEEDS[0]).annotations
    assert (conflict["shape"] != conflict["texture"]).all()
    assert len(conflict[:992].drop_duplicates()) == 992


def test_no_outline_in_texture_images():
    """A texture's statistics do not depend on where an object would be: no silhouette is consulted."""
    facts = DEV.facts("ood_textures", np.arange(32))
    other = facts | {"label": np.roll(facts["label"], 1), "variant": (facts["variant"] + 1) % 3}
    assert torch.equal(DEV.render("ood_textures", facts), DEV.render("ood_textures", other))


@pytest.mark.parametrize("name", LAB_SETS)
def test_image_sets_have_the_attributes_of_any_image_set(name):
    images = load_lab_images(name, seed=DEV_SEEDS[0])
    assert len(images) == len(set(images.image_ids)) == len(images.labels) >= 1000
    assert images.space.outputs == "lab" and len(images.space) == 32
    assert (images.labels == -1).all() if images.is_ood else len(np.unique(images.labels)) == 32
    assert images.annotations is None or len(images.annotations) == len(images)
    some = images.render(5, 9)
    assert some.shape == (4, 32, 32, 3) and some.dtype == np.uint8
    assert np.array_equal(np.asarray(images.image(6)), some[1])
    assert np.array_equal(images.subset([6, 7]).render(0, 2), some[1:3])
    assert images.manifest() == load_lab_images(name, seed=DEV_SEEDS[0]).manifest() != images.subset([1]).manifest()
    assert images.manifest() != load_lab_images(name).manifest()


def test_pairs_differ_in_their_factor_alone():
    images = load_lab_images("lab_pairs", seed=DEV_SEEDS[0])
    table = images.annotations
    assert (table.groupby("pair")["forced"].nunique() == 11).all()
    assert np.array_equal(images.labels[:500], images.labels[1500:2000])
    at = table.index[(table["forced"] == "color") & (table["pair"] == 3)][0]
    forced = images.world.forcing(color=True).images("typical", 3, 4)[0].permute(1, 2, 0)
    assert np.array_equal(np.asarray(images.image(at)), forced.numpy())
    spanning = images.render(499, 502)
    assert np.array_equal(spanning[0], np.asarray(images.image(499)))


def test_halves_of_the_validation_set_hold_every_class_equally():
    images = load_lab_images("lab_id", seed=DEV_SEEDS[0])
    counts = [np.bincount(images.labels[images.annotations["half"] == half], minlength=32) for half in (0, 1)]
    assert np.abs(counts[0] - counts[1]).max() <= 1


@pytest.mark.parametrize("source", captions.SOURCES)
def test_captions_follow_the_stated_rates(source):
    n, index = 4000, np.arange(4000)
    lines, rates = captions.captions(DEV, source, index), captions.SOURCES[source]
    facts = DEV.facts(source, index)
    neutral = np.array([line.startswith("a photo of a ") for line in lines])
    near = {"abs": 5 * (0.25 / n) ** 0.5}
    assert neutral.mean() == pytest.approx(rates["neutral"], **near)
    rest = [set(line.split()) for line, is_neutral in zip(lines, neutral, strict=True) if not is_neutral]
    assert all(len(line.split()) == 5 for line, is_neutral in zip(lines, neutral, strict=True) if is_neutral)
    for part, names in (("color", surfaces.COLORS), ("pattern", surfaces.PATTERNS), ("material", surfaces.MATERIALS)):
        assert np.mean([bool(words & set(names)) for words in rest]) == pytest.approx(rates[part], **near), part
    assert np.mean([bool(words & set(surfaces.SCENES)) for words in rest]) == pytest.approx(rates["scene"], **near)
    assert np.mean([bool(words & set(captions.JUNK)) for words in rest]) == pytest.approx(rates["junk"], **near)
    colors = np.array(list(surfaces.COLORS))[facts["paint"]]
    told = [(c, line) for c, line in zip(colors, lines, strict=True) if set(line.split()) & set(surfaces.COLORS)]
    assert all(color in line.split() for color, line in told)


def test_vocabulary_is_the_one_committed_and_fits_every_caption(tmp_path):
    captions.write_vocabulary(tmp_path / "vocabulary.gz")
    committed = gzip.decompress(captions.VOCABULARY.read_bytes())
    assert gzip.decompress((tmp_path / "vocabulary.gz").read_bytes()) == committed
    tokenizer = captions.tokenizer()
    assert all(len(tokenizer.encode(word)) == 1 for word in captions.words() if word.isalpha())
    ids = tokenizer(["zebra quilt", "a photo of a star"])
    assert (ids.argmax(1) == (ids == tokenizer.eot_token_id).int().argmax(1)).all()


def _recipe(id, **changes):
    return training.read_recipes().loc[id].to_dict() | {"size": 256, "batch_size": 32, "epochs": 2} | changes


@pytest.mark.parametrize("id", ["clip-vit-B-large-s0", "resnet-large-s0"])
def test_training_learns_repeats_itself_and_round_trips(id, tmp_path, threads):
    torch.set_num_threads(1)
    recipe = _recipe(id)
    run = training.Run(recipe, progress=False)
    model = training.TASKS[recipe["task"]](recipe, run)
    assert np.mean(run.losses[-4:]) < np.mean(run.losses[:4]) - 0.1
    again = training.fit(recipe, progress=False)
    training.save(model.state_dict(), tmp_path / "one.safetensors", {"id": id})
    training.save(again, tmp_path / "two.safetensors", {"id": id})
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    loaded = training.load(recipe, tmp_path / "one.safetensors")
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("id", "agree"), [("ft-vit-A", 0.97), ("ft-vit-A-24px", 0.4)])
def test_fine_tuning_starts_near_the_zero_shot_model(id, agree):
    """On smaller images it starts as far as their missing pixels and its coarser grid of patches leave it."""
    recipe = _recipe(id)
    source = training.read_recipes().loc[recipe["init_from"]].to_dict()
    if not (training.FOLDER / source["checkpoint"]).exists():
        pytest.skip("the zoo is not trained yet")
    clip = training.load(source, training.FOLDER / source["checkpoint"])
    names = [CLASS_NAMES[c] for c in CLASSES["benchmark"]]
    images = training.normalise(DEV.images("id", 0, 256))
    with torch.inference_mode():
        text = clip.encode_text(captions.tokenizer()([captions.NEUTRAL.format(n) for n in names]), normalize=True)
        zero_shot = (clip.encode_image(images) @ text.T).argmax(1)
        images = resize(images, [recipe["input_size"]] * 2, InterpolationMode.BICUBIC)
        start = training.clip_to_classifier(recipe, names).eval()(images).argmax(1)
    assert (zero_shot == start).float().mean() > agree


def test_train_skips_what_is_finished_and_refuses_unknown_recipes(tmp_path, monkeypatch):
    recipe = _recipe("resnet-small-s0", epochs=1, size=128)
    path = tmp_path / recipe["checkpoint"]
    table = training.read_recipes().loc[[recipe["id"]]]
    monkeypatch.setattr(training, "FOLDER", tmp_path)
    monkeypatch.setattr(training, "read_recipes", lambda: table)
    path.parent.mkdir()
    path.write_bytes(b"finished")
    assert training._train_one(recipe, table, wait=True, progress=False) == path
    assert path.read_bytes() == b"finished" and list(path.parent.iterdir()) == [path]
    with pytest.raises(ClipsafeError, match="unknown recipe 'resnet-smal-s0'; did you mean 'resnet-small-s0'"):
        training.train("resnet-smal-s0")


def test_errors_name_the_cause():
    with pytest.raises(ClipsafeError, match="unknown factor 'colour'; did you mean 'color'"):
        World(force={"colour": True})
    with pytest.raises(ClipsafeError, match="unknown image set of the laboratory 'lab_ids'; did you mean 'lab_id'"):
        load_lab_images("lab_ids")
    with pytest.raises(ClipsafeError, match="trained on"):
        load_lab_images("lab_id", seed=training.TRAIN_SEED)


def test_training_fills_in_its_costs(tmp_path, monkeypatch):
    shutil.copy(training.FOLDER / "zoo.csv", tmp_path)
    monkeypatch.setattr(training, "FOLDER", tmp_path)
    for recipe in training.read_recipes().to_dict("records"):
        path = tmp_path / recipe["checkpoint"]
        path.parent.mkdir(exist_ok=True)
        training.save({"weight": torch.ones(1)}, path, {"id": recipe["id"], "core_seconds": 12.5})
    before = training.read_recipes().drop(columns="core_seconds")
    for _ in range(2):
        training.train(progress=False)
        assert set(training.read_recipes()["core_seconds"]) == {"12.5"}
    assert training.read_recipes().drop(columns="core_seconds").equals(before)


def test_recipes_and_checkpoints():
    """The committed zoo is whole, small, what its table says, and holds what comparisons need."""
    recipes = training.read_recipes()
    paths = [training.FOLDER / checkpoint for checkpoint in recipes["checkpoint"]]
    assert len(recipes) >= 44 and recipes.index.is_unique and sum(path.stat().st_size for path in paths) < 35e6
    for recipe, path in zip(recipes.to_dict("records"), paths, strict=True):
        training.load(recipe, path)
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"id": recipe["id"], "core_seconds": recipe["core_seconds"]}
    clips, standard = (recipes[recipes["group"] == group] for group in ("zero_shot_clip", "standard"))
    assert (clips.groupby(["encoder_family", "stream"])["size"].nunique() == 3).all()
    largest = clips[clips["size"].eq(clips["size"].max()) & clips["encoder_family"].isin(["vit", "convnext"])]
    assert (largest.groupby(["encoder_family", "stream"])["seed"].nunique() >= 3).all()
    assert len(standard) >= 10 and standard["name"].nunique() >= 5
    assert (standard.groupby("name")["seed"].nunique() >= 3).sum() >= 2
    counts = recipes["group"].value_counts()
    assert len(fine_tuning_pairs(recipes)) == 12 and len(resolution_pairs(recipes)) == 6
    assert counts["clip_finetuned"] >= 8 and counts["contrastive"] >= 2 and counts["pretrained_more"] >= 3


def test_documentation_states_the_rates():
    text = (training.FOLDER.parents[1] / "docs" / "laboratory.md").read_text()
    for k, factor in enumerate(FACTORS):
        rates = [RATES[source][k] for source in ("benchmark", "curated", "web")]
        cells = [factor.replace("_", " "), *(f"{rate:.0%}" for rate in rates), "no" if rates[1] == rates[2] else "yes"]
        assert f"| {' | '.join(cells)} |" in text
    for part in SOURCES["A"]:
        assert f" | {SOURCES['A'][part]:.0%} | {SOURCES['B'][part]:.0%} |" in text
    for name, known in LAB_SETS.items():
        assert re.search(rf"\| `{name}` \| [\d,x ]+ \| {re.escape(known.title)} \|", text)
    seconds = training.read_recipes()["core_seconds"].astype(float).sum()
    assert f"{seconds:,.0f} s of CPU time" in text


def test_silhouettes_stay_inside_their_tiles():
    masks = atlas.build()[:, :, 0]
    assert masks[..., 0, :].max() == masks[..., -1, :].max() == masks[..., 0].max() == masks[..., -1].max() == 0
    assert masks.mean((2, 3)).min() > 0.08
    assert len({mask.tobytes() for mask in masks.reshape(-1, atlas.TILE, atlas.TILE)}) == len(masks) * atlas.N_VARIANTS
