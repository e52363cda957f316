"""Training of the laboratory's zoo from its recipe table `zoo.csv`, one row a model.

Every run is resumable (a finished checkpoint is skipped), may share the work with other processes on the same machine
(each model is claimed by a file lock) and is deterministic on one machine with one thread.
"""

import contextlib
import fcntl
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torchvision.transforms.v2.functional import InterpolationMode, resize
from tqdm import tqdm

from clipsafe_utils.errors import unknown
from clipsafe_utils.lab import captions
from clipsafe_utils.lab.atlas import N_VARIANTS
from clipsafe_utils.lab.world import CLASS_NAMES, CLASSES, TRAIN_SEED, World

FOLDER = Path(__file__).parent


def read_recipes():
    """The recipe table, one row a model, indexed by id; see the documentation of the laboratory for the columns."""
    return pd.read_csv(
        FOLDER / "zoo.csv", keep_default_na=False, dtype={"pretrained": str, "core_seconds": str}
    ).set_index("id", drop=False)


def train(only=None, *, progress=True):
    """Train the zoo, or one model and what it starts from.

    Parameters
    ----------
    only : str, optional
        Id of a recipe; default: all recipes in the table's order.
    progress : bool, default True
        Show a bar for each model.

    Returns
    -------
    list of Path
        Checkpoints of the models asked for.
    """
    recipes = read_recipes()
    if only is not None and only not in recipes.index:
        raise unknown("recipe", only, recipes.index)
    chosen = recipes if only is None else recipes.loc[[only]]
    paths = [
        _train_one(recipe, recipes, wait=only is not None, progress=progress) for recipe in chosen.to_dict("records")
    ]
    if all((FOLDER / checkpoint).exists() for checkpoint in recipes["checkpoint"]):
        _write_costs(recipes)
    return paths


def _train_one(recipe, recipes, *, wait, progress):
    path = FOLDER / recipe["checkpoint"]
    if path.exists():
        return path
    if recipe["init_from"]:
        _train_one(recipes.loc[recipe["init_from"]].to_dict(), recipes, wait=True, progress=progress)
    path.parent.mkdir(exist_ok=True)
    with _claim(path.with_suffix(".lock"), wait=wait) as mine:
        if mine and not path.exists():
            start = time.process_time()
            state = fit(recipe, progress=progress)
            save(state, path, {"id": recipe["id"], "core_seconds": round(time.process_time() - start, 1)})
    return path


@contextlib.contextmanager
def _claim(path, *, wait):
    """Hold a lock that dies with the process; yields False if another process has it and `wait` is off."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
        path.unlink(missing_ok=True)


def save(state, path, metadata):
    """Write a state dict as float16 safetensors, whole or not at all."""
    half = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in state.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(half, temporary, {k: str(v) for k, v in metadata.items()})
    temporary.replace(path)


def _write_costs(recipes):
    """Fill the column `core_seconds`: CPU time of a model's own training."""
    from safetensors import safe_open

    for name, checkpoint in recipes["checkpoint"].items():
        with safe_open(FOLDER / checkpoint, "pt") as file:
            recipes.loc[name, "core_seconds"] = file.metadata()["core_seconds"]
    temporary = FOLDER / f".zoo.csv.{os.getpid()}"
    recipes.to_csv(temporary, index=False)
    temporary.replace(FOLDER / "zoo.csv")


def build(recipe, *, num_classes=None):
    """An untrained model of a recipe: an open_clip CLIP or a timm classifier."""
    config = json.loads((FOLDER / recipe["config"]).read_text())
    torch.manual_seed(int(recipe["seed"]))
    if recipe["library"] == "open_clip":
        return CLIP(**{k: v for k, v in config["model_cfg"].items() if k in ("embed_dim", "vision_cfg", "text_cfg")})
    kwargs = config["model_kwargs"] | ({} if num_classes is None else {"num_classes": num_classes})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model(recipe["name"], **kwargs)


def load(recipe, path):
    """The model of a recipe with the weights of a checkpoint, in evaluation mode."""
    model = build(recipe)
    weights = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    model.load_state_dict(weights)
    return model.eval()


def fit(recipe, *, progress=True, steps=None):
    """Train one recipe.

    Parameters
    ----------
    recipe : dict
        A row of the recipe table.
    progress : bool, default True
        Show a bar.
    steps : int, optional
        Stop after so many steps, for tests.

    Returns
    -------
    dict of str to Tensor
        The state dict of the trained model.
    """
    return TASKS[recipe["task"]](recipe, Run(recipe, progress, steps)).state_dict()


class Run:
    """The loop that all tasks share: batches, schedule, optimiser, bar; `losses` keeps the loss of every step."""

    def __init__(self, recipe, progress=True, steps=None):
        self.recipe, self.progress, self.steps, self.losses = recipe, progress, steps, []
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def __call__(self, model, images, loss_of, *, epochs, learning_rate, parameters=None, augment=None):
        """Train in place; `loss_of(batch, index)` gives the loss of normalised images and their indices."""
        batch_size, n = min(int(self.recipe["batch_size"]), len(images)), len(images)
        total = max(1, round(n // batch_size * epochs))
        model.to(self.device, memory_format=torch.channels_last).train()
        groups = [p for p in (parameters or model.parameters()) if p.requires_grad]
        decayed = [{"params": [p for p in groups if p.ndim > 1], "weight_decay": 0.05}]
        optimizer = torch.optim.AdamW([*decayed, {"params": [p for p in groups if p.ndim <= 1], "weight_decay": 0.0}])
        generator = torch.Generator().manual_seed(1000 + int(self.recipe["seed"]))
        order = iter(())
        bar = tqdm(range(total), desc=self.recipe["id"], disable=not self.progress, mininterval=5)
        for step in bar:
            if step == self.steps:
                break
            if (index := next(order, None)) is None:
                order = iter(torch.randperm(n, generator=generator)[: n // batch_size * batch_size].split(batch_size))
                index = next(order)
            warm = total * 0.1
            rate = (step + 1) / warm if step < warm else 0.5 * (1 + np.cos(np.pi * (step - warm) / (total - warm)))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate
            batch = (augment or shift)(images[index], generator)
            loss = loss_of(batch.to(self.device, memory_format=torch.channels_last), index.to(self.device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(groups, 1.0)
            optimizer.step()
            self.losses.append(loss.item())
            bar.set_postfix(loss=f"{self.losses[-1]:.2f}", refresh=False)
        return model.eval().cpu()


def normalise(images):
    """uint8 images to what every model of the zoo takes: mean 0.5, standard deviation 0.25."""
    return (images.float() / 255 - 0.5) / 0.25


def shift(images, generator, reach=2):
    """Random shifts of up to `reach` pixels, the border repeated, and normalisation."""
    n, _, height, width = images.shape
    dy, dx = torch.randint(-reach, reach + 1, (2, n, 1), generator=generator)
    rows = (torch.arange(height) + dy).clamp(0, height - 1)[:, None, :, None]
    columns = (torch.arange(width) + dx).clamp(0, width - 1)[:, None, None, :]
    return normalise(images[torch.arange(n)[:, None, None, None], torch.arange(3)[None, :, None, None], rows, columns])


def _images(stream, size, side=32):
    """The first images of a stream, at the size that a model takes."""
    world = World(TRAIN_SEED)
    images = torch.cat([world.images(stream, i, min(i + 4096, size)) for i in range(0, size, 4096)])
    return resize(images, [side, side], InterpolationMode.BICUBIC)  # what has the size stays as it is


def _targets(stream, size, classes, *, fine=False):
    """Position of each image's class among `classes`, or of its (class, variant) if `fine`."""
    facts = World(TRAIN_SEED).facts(stream, np.arange(size))
    position = np.searchsorted(classes, facts["label"])
    return torch.from_numpy(position * N_VARIANTS + facts["variant"] if fine else position)


def _fit_clip(recipe, run):
    source, size = recipe["stream"], int(recipe["size"])
    tokens = captions.tokenizer()(captions.captions(World(TRAIN_SEED), source, np.arange(size))).to(run.device)
    model = build(recipe)

    def loss_of(batch, index):
        image, text, scale = model(batch, tokens[index])
        logits, pairs = scale * image @ text.T, torch.arange(len(index), device=index.device)
        model.logit_scale.data.clamp_(max=np.log(100))
        return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2

    images = _images(source, size)
    return run(model, images, loss_of, epochs=recipe["epochs"], learning_rate=recipe["learning_rate"])


def _supervised(model, run, stream, size, classes, *, epochs, learning_rate, fine=False):
    targets = _targets(stream, size, classes, fine=fine).to(run.device)
    images = _images(stream, size, int(run.recipe["input_size"]))
    return run(
        model, images, lambda batch, index: F.cross_entropy(model(batch), targets[index]),
        epochs=epochs, learning_rate=learning_rate,
    )  # fmt: skip


def _more_then_benchmark(recipe, run, head):
    """Train on (class, variant) labels of 40 classes, then on the benchmark; `head` maps a class count to a model."""
    more, benchmark = CLASSES["more"], CLASSES["benchmark"]
    size, epochs, rate = int(recipe["size"]), recipe["epochs"], recipe["learning_rate"]
    wide = head(len(more) * N_VARIANTS)
    _supervised(wide, run, "train_more", size, more, epochs=epochs, learning_rate=rate, fine=True)
    model = build(recipe)
    body = wide.state_dict()
    keep = np.searchsorted(more, benchmark)
    for name in _head(model):
        body[name] = body[name].unflatten(0, (-1, N_VARIANTS)).mean(1)[keep]
    model.load_state_dict(body)
    return _supervised(model, run, "train", 16000, benchmark, epochs=2, learning_rate=min(rate, 5e-4))


def _fit_classifier(recipe, run):
    if recipe["finetune"] == "lab":
        return _more_then_benchmark(recipe, run, lambda n: build(recipe, num_classes=n))
    return _supervised(
        build(recipe), run, recipe["stream"], int(recipe["size"]), CLASSES["benchmark"],
        epochs=recipe["epochs"], learning_rate=recipe["learning_rate"],
    )  # fmt: skip


def _head(model):
    """Names of the classifier's weight and bias in a timm model."""
    prefix = model.pretrained_cfg["classifier"]
    return [f"{prefix}.weight", f"{prefix}.bias"]


def _fit_finetune(recipe, run):
    def start(classes, repeat=1):
        return clip_to_classifier(recipe, [CLASS_NAMES[c] for c in classes], repeat=repeat)

    if recipe["finetune"] == "more_lab":
        return _more_then_benchmark(recipe, run, lambda n: start(CLASSES["more"], N_VARIANTS))
    return _supervised(
        start(CLASSES["benchmark"]), run, recipe["stream"], int(recipe["size"]), CLASSES["benchmark"],
        epochs=recipe["epochs"], learning_rate=recipe["learning_rate"],
    )  # fmt: skip


def clip_to_classifier(recipe, names, *, repeat=1):
    """The image tower of a trained CLIP as a timm classifier whose head holds the neutral prompt of each name.

    A CLIP logit is scale * cosine; the head leaves out the division by the length of the image embedding and divides
    by its mean over training images instead, so it starts close to the zero-shot model and is linear.
    """
    source = read_recipes().loc[recipe["init_from"]].to_dict()
    clip = load(source, FOLDER / source["checkpoint"])
    with torch.inference_mode():
        text = clip.encode_text(captions.tokenizer()([captions.NEUTRAL.format(n) for n in names]), normalize=True)
        length = clip.encode_image(normalise(_images(source["stream"], 512))).norm(dim=1).mean()
        rows = text * (clip.logit_scale.exp() / length)
    state, model = clip.state_dict(), build(recipe, num_classes=len(names) * repeat)
    weight, bias = _head(model)
    if "visual.proj" in state:
        body = timm.models.vision_transformer.checkpoint_filter_fn(state, model)  # also for another size of input
        body[weight] = rows @ state["visual.proj"].T
    else:
        body = {k.removeprefix("visual.trunk."): v for k, v in state.items() if k.startswith("visual.trunk.")}
        body[weight] = rows @ state["visual.head.proj.weight"]
    body[weight] = body[weight].repeat_interleave(repeat, 0)
    body[bias] = torch.zeros(len(body[weight]))
    model.load_state_dict(body)
    return model


def _two_views(images, generator):
    """Two random crops with flips, brightness, contrast and colour jitter; (2n, 3, h, w)."""
    x = torch.cat([normalise(images)] * 2)
    n = len(x)
    u = torch.rand((8, n), generator=generator)
    zoom, flip = 0.5 + 0.5 * u[0], (u[1] < 0.5) * 2.0 - 1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * flip, zoom
    theta[:, 0, 2], theta[:, 1, 2] = (2 * u[2] - 1) * (1 - zoom), (2 * u[3] - 1) * (1 - zoom)
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    x = x * (0.6 + 0.8 * u[4])[:, None, None, None] + (u[5] - 0.5)[:, None, None, None]
    x = x * (0.7 + 0.6 * torch.rand((n, 3, 1, 1), generator=generator))
    return torch.where((u[6] < 0.2)[:, None, None, None], x.mean(1, keepdim=True), x)


def _fit_contrastive(recipe, run):
    """SimCLR (Chen et al. ICML 2020), then a linear probe on frozen features of the benchmark's training images."""
    size = int(recipe["size"])
    model = build(recipe)
    projector = torch.nn.Sequential(
        torch.nn.Linear(model.num_features, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64)
    ).to(run.device)  # fmt: skip

    def embed(batch):
        return model.forward_head(model.forward_features(batch), pre_logits=True)

    def loss_of(batch, index):
        z = F.normalize(projector(embed(batch)), dim=1)
        logits = (z @ z.T / 0.2).fill_diagonal_(-1e9)
        n = len(index)
        return F.cross_entropy(logits, torch.arange(2 * n, device=z.device).roll(n))

    images = _images("train", size)
    both = [*model.parameters(), *projector.parameters()]
    rate = recipe["learning_rate"]
    run(model, images, loss_of, epochs=recipe["epochs"], learning_rate=rate, parameters=both, augment=_two_views)
    with torch.inference_mode():
        features = torch.cat([embed(normalise(part)) for part in images[:16000].split(500)])
    mean, std = features.mean(0), features.std(0) + 1e-3
    # A clone, because tensors made under inference_mode cannot enter autograd.
    features, targets = ((features - mean) / std).clone(), _targets("train", len(features), CLASSES["benchmark"])
    head = model.get_classifier()
    torch.nn.init.zeros_(head.weight)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(head(features), targets) + 1e-4 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        # Fold the standardisation of the features into the head.
        head.weight /= std
        head.bias -= head.weight @ mean
    return model


TASKS = {"clip": _fit_clip, "classifier": _fit_classifier, "finetune": _fit_finetune, "contrastive": _fit_contrastive}
"""Column `task` of the recipe table -> what trains a recipe with a `Run`."""
