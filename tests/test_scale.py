"""Scale plan: the scheduler against slow twins and known bounds, its hours and bytes against the doctor's."""

import itertools
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tiny import classifier_spec, clip_spec

from clipsafe_utils import costs, doctor, engine
from clipsafe_utils.datasets import known_image_sets
from clipsafe_utils.params import load_parameters
from clipsafe_utils.zoo import load_zoo

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import scale
from scale import Failure, Machine, Task, schedule


def ticking(tasks, gpus, failure=None):
    """The twin: a clock that ticks, tasks of whole ticks; (makespan, work, loading, lost)."""
    waiting, work, loading, lost, t = list(tasks), 0, 0, 0, 0
    states = [None] * gpus  # None: free; a number: away until then; else [task, ticks so far]
    while True:
        for gpu, state in enumerate(states):
            if isinstance(state, list) and state[1] == state[0].length:
                work, loading, states[gpu] = work + sum(state[0].parts), loading + state[0].load, None
        if failure and t == failure.at:
            for gpu in failure.gpus:
                state, states[gpu] = states[gpu], t + failure.away
                if state:
                    task, left, done = state[0], state[1] - state[0].load, 0
                    while left >= task.parts[done]:
                        left, work, done = left - task.parts[done], work + task.parts[done], done + 1
                    lost += left if done else state[1]
                    loading += task.load if done else 0
                    waiting.insert(0, Task(task.load, task.parts[done:]))
        states = [None if isinstance(state, int) and state <= t else state for state in states]
        for gpu in range(gpus):
            if states[gpu] is None and waiting:
                states[gpu] = [waiting.pop(0), 0]
        if not waiting and not any(isinstance(state, list) for state in states):
            return t, work, loading, lost
        for state in states:
            if isinstance(state, list):
                state[1] += 1
        t += 1


def some_tasks(rng, n):
    return [
        Task(int(rng.integers(0, 4)), tuple(int(x) for x in rng.integers(1, 9, rng.integers(1, 5)))) for _ in range(n)
    ]


def numbers(found):
    return found.makespan, found.work, found.loading, found.lost


def test_schedule_is_that_of_a_ticking_clock(rng):
    for _ in range(300):
        tasks, gpus = some_tasks(rng, rng.integers(1, 9)), int(rng.integers(1, 5))
        found = schedule(tasks, gpus)
        assert numbers(found) == ticking(tasks, gpus)
        assert found.lost == 0 and found.work == sum(sum(task.parts) for task in tasks)
        assert found.idle == gpus * found.makespan - sum(task.length for task in tasks)
        assert found.utilisation == pytest.approx(found.work / (gpus * found.makespan))


def test_a_failure_is_that_of_a_ticking_clock_and_costs_what_is_in_flight(rng):
    met = 0
    for _ in range(300):
        tasks, gpus = some_tasks(rng, rng.integers(1, 9)), int(rng.integers(1, 5))
        alone = schedule(tasks, gpus)
        gone = tuple(int(gpu) for gpu in rng.permutation(gpus)[: rng.integers(1, gpus + 1)])
        failure = Failure(int(rng.integers(1, alone.makespan + 1)), gone, int(rng.integers(1, 9)))
        found = schedule(tasks, gpus, failure)
        assert numbers(found) == ticking(tasks, gpus, failure)
        assert found.work == alone.work, "every unit is kept once"
        in_flight = max(task.load + max(task.parts) for task in tasks)
        assert found.lost <= len(gone) * in_flight
        met += found.lost > 0
    assert met > 100


def test_schedules_keep_the_bounds_that_are_proved_for_them(rng):
    """Graham (1969): at most 2 - 1/m of the best in any order, 4/3 - 1/(3m) with the longest first."""
    for _ in range(60):
        tasks, gpus = [Task(0, (int(x),)) for x in rng.integers(1, 20, rng.integers(1, 8))], int(rng.integers(1, 4))
        lengths = np.array([task.length for task in tasks])
        best = min(
            max(lengths[np.array(given) == gpu].sum() for gpu in range(gpus))
            for given in itertools.product(range(gpus), repeat=len(tasks))
        )
        any_order, sorted_ = (schedule(t, gpus).makespan for t in (tasks, scale.longest_first(tasks)))
        assert max(lengths.max(), lengths.sum() / gpus) <= best <= min(any_order, sorted_)
        assert any_order <= (2 - 1 / gpus) * best and sorted_ <= (4 / 3 - 1 / (3 * gpus)) * best + 1e-9
    worst = [Task(0, (1,))] * 6 + [Task(0, (3,))]  # where the first bound is reached
    assert (schedule(worst, 3).makespan, schedule(scale.longest_first(worst), 3).makespan) == (5, 3)


def test_the_engine_hands_out_the_longest_first_as_the_plan_has_it():
    todo = {id: ["imagenet_val"] for id in ("resnet50-tv-in1k", "vit-b-32-openai", "of-a-user", "vgg16-tv-in1k")}
    ordered = engine._longest_first(todo)
    assert list(ordered) == ["of-a-user", "vgg16-tv-in1k", "vit-b-32-openai", "resnet50-tv-in1k"] and ordered == todo


@pytest.fixture
def suite(tmp_path):
    """Path of a suite of a tiny zoo, with models whose costs are counted and one whose is not."""
    paper = {spec.id: spec for spec in load_zoo("paper")}
    known = [paper[id] for id in ("vit-b-32-laion2b-s34b-b79k", "rn50-openai", "resnet50-tv-in1k", "vgg16-tv-in1k")]
    specs = [*known, clip_spec(tmp_path), classifier_spec(tmp_path)]
    values = {"suite": "small", "outputs": str(tmp_path / "outputs"), "data": str(tmp_path / "data")}
    values |= {"zoo": str(tmp_path / "zoo.yaml"), "image_sets": {"imagenet_val": {}, "textures": {}}, "device": "cpu"}
    values |= {"id_set": "imagenet_val", "shifted_sets": [], "ood_sets": ["textures"], "cue_conflict_set": None}
    values |= {"prompt_sets": ["imagenet_7", "single"], "models_per_pass": 2, "workers": 3}
    rows = [{key: value for key, value in asdict(spec).items() if key != "facts" and value} for spec in specs]
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(rows))
    path = tmp_path / "small.yaml"
    path.write_text(load_parameters("params/sample.yaml", values).model_dump_json())
    return path


def test_image_counts_are_the_expected_ones(suite):
    p = load_parameters(suite)
    assert scale.image_counts(p, 2) == {"imagenet_val": 50_000, "textures": 5_640}
    counts = scale.image_counts(p, 20)
    known = [one.images for one in known_image_sets().values() if one.images]
    assert len(counts) == 20 and sum(counts.values()) == sum(known) + (20 - len(known)) * int(np.median(known))


def test_totals_are_those_of_the_doctor(suite, monkeypatch):
    monkeypatch.setattr(costs, "measure_speed", lambda device, precision: 50.0)
    monkeypatch.setattr(doctor, "_decoding_rate", lambda images, adapters: (10.0, "as told"))
    p = load_parameters(suite)
    told = "\n".join(doctor.examine(p).machine)
    models, counts = scale.load_models(p, load_zoo(p.zoo)), scale.image_counts(p, 2)
    prompts, passes = costs.n_prompts(p), costs.n_passes(models, p.models_per_pass)
    (row,) = scale.total_rows(models, counts, prompts, {"this": 50.0}, 10.0 * p.workers, passes, price=3)
    hours = [row["GPU-hours"], row["networks h"], row["prompts h"], row["decoding h"]]
    found = re.search(r"time: (\S+) hours .*networks (\S+) \(.*prompts (\S+) \(.*decoding (\S+) \(", told).groups()
    assert [f"{x:,.1f}" for x in hours] == list(found) and row["cost"] == 3 * row["GPU-hours"]
    disk = {row["keep"]: row["GB"] for row in scale.disk_rows(models, counts, (0, 4, 0), ({True: 0, False: 0}, 0))}
    needed = float(re.search(r"results (\S+) GB", told)[1])
    assert disk["embeddings"] == pytest.approx(needed, abs=0.05)
    assert disk["embeddings, features: true"] > disk["embeddings"]

    machine = Machine(50.0, 1e12, start=0, reading=1e12)  # networks bound it, so that each unit takes its own time
    for shape in ("unit", "model", "pass"):
        tasks = scale.study_tasks(models, counts, prompts, machine, shape, p.models_per_pass)
        assert sum(task.length for task in tasks) == pytest.approx(row["networks h"] + row["prompts h"])
    machine = Machine(1e12, 30.0, start=0, reading=1e12)
    passes_counted = costs.n_passes([m for m in models if m.spec.id in costs.stated_costs().index], p.models_per_pass)
    tasks = scale.study_tasks(models, counts, prompts, machine, "pass", p.models_per_pass)
    assert len(tasks) == passes_counted
    assert sum(task.length for task in tasks) == pytest.approx(row["decoding h"] * passes_counted / passes, rel=1e-3)


def test_tasks_load_once_each(suite):
    p = load_parameters(suite)
    models, counts = scale.load_models(p, load_zoo(p.zoo)), scale.image_counts(p, 3)
    machine = Machine(50.0, 100.0, start=36.0, reading=2.0)
    tasks = {shape: scale.study_tasks(models, counts, 1000, machine, shape, 2) for shape in ("unit", "model", "pass")}
    zero_shot = [model for model in models[:4] if model.spec.is_zero_shot]
    assert [len(tasks[shape]) for shape in ("unit", "model")] == [4 * 3 + len(zero_shot), 4]
    gigabytes = np.array([model.spec.params_m * 4e-3 for model in models[:4]])
    np.testing.assert_allclose([task.load for task in tasks["model"]], 0.01 + gigabytes / 2 / 3600)
    assert sum(task.load for task in tasks["pass"]) < sum(task.load for task in tasks["model"])
    assert {task.load for task in tasks["unit"]} == {task.load for task in tasks["model"]}


def test_rates_of_networks_are_of_images_and_of_their_multiply_adds(tmp_path):
    cpu, id = torch.device("cpu"), "mobilenetv2-100-ra-in1k"
    rates = list(scale.network_rates([id], tmp_path, cpu, ["float32"], at_once=2, seconds=0.2))
    assert [(rate["network"], rate["precision"]) for rate in rates] == [(id, "float32")]
    gmacs = costs.stated_costs().loc[id, "gmacs_image"]
    assert rates[0]["GMAC/s"] == pytest.approx(gmacs * rates[0]["images/s"]) and rates[0]["images/s"] > 0
    assert not list(tmp_path.iterdir()), "checkpoints of gigabytes do not stay"


def test_bytes_are_those_on_disk(tmp_path, rng):
    about, number, record = scale.bytes_of_embeddings(tmp_path, rng, n=500)
    assert number == 4 and 5 < about < 60 and 200 < record < 3000
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) == pytest.approx(
        500 * (2 * about + number * 1512) + 2 * record, rel=0.01
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # it is a script, and libraries deprecate parts of themselves
def test_the_script_prints_its_tables(suite, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scale, "measure_speed", lambda *args, **kwargs: 50.0)  # seconds by the clock; tested elsewhere
    small = ["--sets", "3", "--gpus", "1", "2", "--draws", "5", "--calibrate", "0", "--photos", str(tmp_path / "none")]
    assert scale.main(["-f", str(suite), *small, "--gmacs-per-second", "1000", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "small: 6 models x 3 image sets (65,640 images) = 18 units; 8,000 prompts a zero-shot model"
    )
    tables = re.findall(r"\n(.+)\n\n((?:\|.*\|\n)+)", printed)
    titles = [title for title, _ in tables]
    assert [title.split(" ")[0] for title in titles] == ["Measured", "The", "Simulated", "Ten", "A", "Disk"]
    for _, table in tables:
        lines = table.splitlines()
        assert len({line.count("|") for line in lines}) == 1 and len(lines) > 2
    rows = dict(tables)["Simulated schedule at 1,000 GMAC/s a GPU"].splitlines()[2:]
    frame = pd.DataFrame([[cell.strip() for cell in row.strip("|").split("|")] for row in rows])
    assert frame[1].tolist() == ["a unit", "a model", "2 models"] * 2
    hours = frame[[3, 4, 5]].astype(float)
    assert (hours[3] >= hours[4]).all() and (hours[5] >= hours[4]).all()
