"""Inference against CLIP_benchmark, in one run: a table of ratios, each beside its target.

    pip install --no-deps clip-benchmark==1.6.2
    python benchmarks/inference.py [--photos FOLDER] [--device cuda]

Networks of open_clip with random weights look at real photos, in float32 on both sides. What is compared runs in turn,
ours and theirs, and the ratio is the median over these pairs: the machine's other work hits both alike.

    text     heads of zero-shot classifiers, against `zero_shot_classifier`; both start from the names
    images   decoding, forward pass and all around it, against `run_classification`; both have their network loaded
    study    four prompt sets, accuracy, OOD scores and calibration on three image sets, from loading the weights to
             the tables, against its run for one prompt set and one image set, network loaded, once for each of these;
             with the first network only
    rate     photos of full size end to end, against the forward pass alone; on a GPU decoding may be the limit
    memory   peak memory for 1,000 and for 8,000 photos, with a small network

Sized to take less than ten minutes on two idle cores; the table tells how long it took. Exits with 1 if a target is
missed.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from scale import show
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from clipsafe_utils import sections
from clipsafe_utils.datasets import load_images
from clipsafe_utils.inference import evaluate
from clipsafe_utils.models import load_model
from clipsafe_utils.params import load_parameters
from clipsafe_utils.prompts import load_templates, zero_shot_head
from clipsafe_utils.store import Store
from clipsafe_utils.study import Study
from clipsafe_utils.zoo import ModelSpec

try:
    from clip_benchmark.metrics import zeroshot_classification as peer
except ImportError:
    sys.exit("the peer is missing; install it with: pip install --no-deps clip-benchmark==1.6.2")

SHARED = Path(os.environ.get("CLIPSAFE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared"))
FULL_SIZE = 500
"""Longer side of most photos of ImageNet."""
AT_ONCE = 16
"""Images of 224 pixels that `evaluate` hands a CPU at once."""
PROMPT_SETS = ["imagenet_7", "single", "name_only", {"sketches": ["a sketch of a {}.", "a drawing of the {}."]}]
SMALL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "patch_size": 32, "head_width": 32},
    "text_cfg": {"width": 64, "heads": 2, "layers": 1},
}


@dataclass(frozen=True)
class Found:
    """What a part found: both sides in words, the ratio of each pair, whether the results agree, and what else."""

    what: str
    ours: str
    against: str
    ratios: np.ndarray
    agrees: bool
    also: str


class Subject:
    """One architecture with random weights, loaded by both sides."""

    def __init__(self, name, root, device):
        torch.manual_seed(0)
        checkpoint = root / f"{name}.safetensors"
        with quiet():
            save_file(open_clip.create_model(name).state_dict(), checkpoint)
            self.theirs, _, self.transform = open_clip.create_model_and_transforms(name, pretrained=str(checkpoint))
        self.name, self.tokenizer = name, open_clip.get_tokenizer(name)
        self.spec = ModelSpec(name, "zero_shot_clip", "open_clip", name, checkpoint=str(checkpoint))
        self.model = load_model(self.spec, device=device)
        self.model.network  # noqa: B018  (loads it)
        self.model.release = lambda: None  # stays loaded, as theirs does
        self.device = self.model.device.type
        self.theirs = self.theirs.eval().to(self.model.device)

    def their_head(self, names, templates):
        templates = [template.replace("{}", "{c}") for template in templates]
        return peer.zero_shot_classifier(self.theirs, self.tokenizer, names, templates, self.device, amp=False)

    def their_logits(self, folder, names, templates, options):
        """What its `evaluate` does up to the accuracy, where release 1.6.2 fails with NumPy 2.4."""
        head = self.their_head(names, templates)
        return peer.run_classification(self.theirs, head, self.loader(folder, options), self.device, amp=False)

    def loader(self, folder, options):
        return DataLoader(
            ImageFolder(folder, self.transform), batch_size=options.batch_size, num_workers=options.workers
        )


@contextlib.contextmanager
def quiet():
    """Without what the libraries say about their progress."""
    logging.disable()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def timed(work):
    with quiet():
        start = time.perf_counter()
        result = work()
        return time.perf_counter() - start, result


def in_turn(ours, theirs, repeats):
    """Seconds of shape (2, repeats), ours and theirs, and both results; who goes first alternates."""
    seconds, results = np.zeros((2, repeats)), [None, None]
    for i in range(repeats):
        for k in (0, 1) if i % 2 == 0 else (1, 0):
            seconds[k, i], results[k] = timed((ours, theirs)[k])
    return seconds, *results


def text(subject, root, names, options):
    templates, names = load_templates("imagenet_7"), names[: (1 + len(names)) // 2]

    def ours(names=names):
        return zero_shot_head(subject.model, names, templates)

    def theirs(names=names):
        return subject.their_head(names, templates).T.cpu().numpy()

    timed(lambda: (ours(names[:2]), theirs(names[:2])))
    seconds, mine, other = in_turn(ours, theirs, options.repeats)
    own, their = (f"{1e3 * t / len(names) / len(templates):.1f} ms a prompt" for t in np.median(seconds, axis=1))
    difference = np.abs(mine - other).max()
    return Found("text heads", own, their, seconds[0] / seconds[1], *equal("heads", difference))


def equal(what, difference, tolerance=1e-5):
    """Whether two results are the same, and the words for it."""
    return bool(difference <= tolerance), f"{what} differ by at most {difference:.0e} (<= {tolerance:g})"


def images(subject, root, names, options):
    photos = load_images("photos", root / "all", kind="folder")
    with quiet():
        head = subject.their_head(names[:5], load_templates("single"))

    def ours():
        with tempfile.TemporaryDirectory() as store:
            array = np.array(look(subject.model, photos, store, options).array)
        return array / np.linalg.norm(array, axis=1, keepdims=True)

    def theirs():
        batches = subject.loader(root / "all", options)
        return peer.run_classification(subject.theirs, head, batches, subject.device, amp=False)[0].numpy() / 100

    seconds, mine, other = in_turn(ours, theirs, options.repeats)
    own, their = (f"{1e3 * t / len(photos):.1f} ms an image" for t in np.median(seconds, axis=1))
    difference = np.abs(mine @ head.cpu().numpy() - other).max()
    return Found("images", own, their, seconds[0] / seconds[1], *equal("cosines", difference))


def look(model, photos, store, options):
    settings = {"batch_size": options.batch_size, "workers": options.workers, "progress": False}
    return evaluate([model], [photos], Store(store), **settings)[model.spec.id, photos.name]


def study(subject, root, names, options):
    table = root / f"{subject.name}.csv"
    table.write_text(
        "id,group,library,name,checkpoint\n"
        f"{subject.name},zero_shot_clip,open_clip,{subject.name},{subject.spec.checkpoint}\n"
    )
    values = {
        **{"suite": "benchmark", "data": str(root), "zoo": str(table), "prompt_sets": PROMPT_SETS},
        **{"device": options.device, "batch_size": options.batch_size, "workers": options.workers},
        "image_sets": {name: {"kind": "folder", "is_ood": name == "ood"} for name in ("id", "shifted", "ood")},
        **{"id_set": "id", "shifted_sets": ["shifted"], "ood_sets": ["ood"], "cue_conflict_set": None},
        "ood_scores": ["msp", "mcm", "max_logit", "energy"],
    }

    def ours():
        with tempfile.TemporaryDirectory() as outputs:
            study = Study(load_parameters("params/sample.yaml", values | {"outputs": outputs}))
            study.evaluate(*study.images)
            for prompts in study.prompt_sets:
                sections.calibration(study, prompts)
                sections.ood_table(study, prompts)
            effects = sections.prompt_effects(study)
        return effects[effects["metric"] == "accuracy"].set_index("protocol")["value"]

    prompt_sets = {
        name: load_templates(given) for name, given in load_parameters("params/sample.yaml", values).prompts.items()
    }

    def theirs():
        accuracy = {}
        for prompts, templates in prompt_sets.items():
            for name in values["image_sets"]:
                logits, labels = subject.their_logits(root / name, names, templates, options)
                accuracy[prompts, name] = float((logits.argmax(dim=1) == labels).double().mean())
        return accuracy

    seconds, mine, other = in_turn(ours, theirs, 1)
    agree = all(mine[f"prompts {prompts}"] == other[prompts, "id"] for prompts in prompt_sets)
    (own,), (their,) = seconds
    told = f"{len(other)} runs of theirs; accuracies {'agree' if agree else 'DIFFER'}"
    return Found("a study", f"{own:.1f} s", f"{their:.1f} s", seconds[0] / seconds[1], agree, told)


def rate(subject, root, names, options):
    photos = load_images("photos", root / "full_size", kind="folder")
    batches = subject.loader(root / "full_size", options)
    batch, n = next(iter(batches))[0], len(photos)

    def ours():
        with tempfile.TemporaryDirectory() as store:
            look(subject.model, photos, store, options)

    def forward():
        for start in range(0, n, len(batch)):
            for part in batch[: n - start].split(AT_ONCE if subject.device == "cpu" else len(batch)):
                subject.model.encode_images(part)

    timed(forward)
    seconds, *_ = in_turn(ours, forward, options.repeats)
    whole, alone = np.median(seconds, axis=1)
    decoding = np.median([timed(lambda: sum(1 for _ in batches))[0] for _ in range(options.repeats)])
    told = f"decoding alone {n / decoding:.0f} images/s, {options.workers} processes"
    rates = f"{n / whole:.1f} images/s end to end", f"{n / alone:.1f} images/s forward alone"
    return Found("rate", *rates, seconds[1] / seconds[0], True, told)


def memory(options):
    peaks = []
    for n in options.memory:
        command = [sys.executable, __file__, "--photos", options.photos, "--device", options.device]
        command += ["--batch-size", str(options.batch_size), "--workers", str(options.workers), "--peak-of", str(n)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024)
    (few, many), (small, large) = options.memory, peaks
    peaks = f"{large:.0f} MB for {many:,}", f"{small:.0f} MB for {few:,} photos"
    return Found("memory", *peaks, np.array([large / small]), True, "with the largest of the processes that decode")


def peak(photos, n, options):
    """Peak memory in KB of this process and of its largest helper, when a small network looks at n photos."""
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        (root / "photos").mkdir()
        for i in range(n):
            (root / "photos" / f"{i:06}.jpeg").symlink_to(photos[i % len(photos)])
        (root / "small.json").write_text(json.dumps({"model_cfg": SMALL}))
        torch.manual_seed(0)
        save_file(open_clip.CLIP(**SMALL).state_dict(), root / "small.safetensors")
        files = {"checkpoint": str(root / "small.safetensors"), "config": str(root / "small.json")}
        model = load_model(ModelSpec("small", "zero_shot_clip", "open_clip", "small", **files), device=options.device)
        unit = look(model, load_images("photos", root / "photos", kind="folder", is_ood=True), root / "store", options)
        assert unit.record["n"] == n
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(one).ru_maxrss for one in who)


PARTS = {"text": text, "images": images, "study": study, "rate": rate}
TARGETS = {
    "text": ("<=", 0.25),
    "images": ("<=", 1.0),
    "study": ("<=", 0.2),
    "rate": (">=", 0.9),
    "memory": ("<=", 1.1),
}


def judged(part, network, found, device):
    """A row of the table, and whether what was found is what it shall be."""
    sign, target = TARGETS[part]
    ratio = float(np.median(found.ratios))
    reached = ratio <= target if sign == "<=" else ratio >= target
    if part == "rate" and device != "cpu":
        verdict, reached = "no target on a GPU", True
    else:
        verdict = "pass" if reached and found.agrees else "MISSED"
    print(f"{network}: {found.what} {ratio:.3f}", file=sys.stderr, flush=True)
    spread = f" ({found.ratios.min():.3f} to {found.ratios.max():.3f})" if len(found.ratios) > 1 else ""
    return {
        **{"what": found.what, "network": network, "ours": found.ours, "against": found.against},
        **{"ratio": f"{ratio:.3f}{spread}", "target": f"{sign} {target:g}", "verdict": verdict, "also": found.also},
    }, reached and found.agrees


def photo_folders(photos, root, names):
    """Links to photos in folders of classes: `all`, or half in `id` and a quarter in `shifted` and `ood`; `full_size`.

    Nothing is learnt from random weights, so any photo can stand for any class.
    """
    for i, photo in enumerate(photos):
        part = ("id", "shifted", "id", "ood")[i // len(names) % 4]
        for folder in ("all", part, "full_size"):
            path = root / folder / names[i % len(names)] / f"{i}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if folder != "full_size":
                path.symlink_to(photo)
                continue
            with Image.open(photo) as image:
                size = [round(side * FULL_SIZE / max(image.size)) for side in image.size]
                image.convert("RGB").resize(size).save(path, quality=95)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default=str(SHARED / "real" / "imagenet_sample"), help="folder, searched in depth")
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "RN50"], help="architectures of open_clip")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=2, help="pairs; who goes first alternates")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="processes that decode images")
    parser.add_argument("--memory", type=int, nargs=2, default=[1000, 8000], metavar="N", help="few and many photos")
    parser.add_argument("--parts", nargs="+", default=list(TARGETS), choices=list(TARGETS), metavar="PART")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()

    photos = sorted(path.resolve() for path in Path(options.photos).rglob("*") if path.suffix.lower() == ".jpeg")
    if len(photos) < options.images:
        sys.exit(f"{options.photos} holds {len(photos)} .JPEG files, {options.images} are needed: see --photos.")
    if options.peak_of:
        print(peak(photos, options.peak_of, options))
        return 0

    started, rows, met = time.perf_counter(), [], []
    names, device = sorted(open_clip.IMAGENET_CLASSNAMES[: options.classes]), ""
    for name in options.models:
        with tempfile.TemporaryDirectory() as root:
            subject = Subject(name, Path(root), options.device)
            device = subject.model.device
            photo_folders(photos[: options.images], Path(root), names)
            for part in (part for part in PARTS if part in options.parts):
                if part == "study" and name != options.models[0]:
                    continue
                row = judged(part, name, PARTS[part](subject, Path(root), names, options), device.type)
                rows.append(row[0]), met.append(row[1])
    if "memory" in options.parts:
        row = judged("memory", "small", memory(options), "cpu")
        rows.append(row[0]), met.append(row[1])
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("clip-benchmark", "open-clip-torch", "torch")]
    show(
        f"{', '.join(versions)}; {device}, {torch.get_num_threads()} threads; {options.images} photos, "
        f"{options.classes} classes, {options.repeats} pairs; {(time.perf_counter() - started) / 60:.1f} minutes",
        rows,
    )
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
