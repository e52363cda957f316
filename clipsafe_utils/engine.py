"""Where models run: on this machine, on a Ray cluster, or as SLURM jobs.

One task is one model on all its image sets. It is told names and parameters only, finds images and weights by itself,
writes its units into the store, and answers with their keys or with reasons: no array travels. Tasks may die at any
moment and be repeated, since a unit is in the store whole or not at all. docs/cluster.md shows how to run both engines.
"""

import contextlib
import os
import re
import socket
import time
from collections import deque
from importlib import import_module
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from clipsafe_utils.answers import settle
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.inference import evaluate, plan
from clipsafe_utils.params import validated
from clipsafe_utils.store import ANSWERS

_MINUTES = 24 * 60
"""Time limit of a SLURM job unless `nodes.slurm` has another; a job that reaches it is queued again."""


def run(study, names, again=()):
    """Make sure that the store holds a unit for every model and image set, where the suite wants it computed.

    Parameters
    ----------
    study : Study
    names : list of str
        Image sets.
    again : iterable of str, optional
        Models whose outputs are wanted though answers drawn from them are there (`keep: scores`).

    Returns
    -------
    dict of (str, str) to Unit
        By model id and image-set name; a ClipsafeError stands for what could not be had.

    Raises
    ------
    ClipsafeError
        The engine is not installed, not to be reached, or lacks the GPUs or cores that a task asks for.
    """
    p, store, models = study.parameters, study.store, study.adapters.values()
    engine, nodes, answers_do = p.engine, p.nodes, p.keep == "scores"
    images = [study.images[name] for name in names]
    if engine == "local" and not answers_do:
        options = {"batch_size": p.batch_size, "workers": p.workers, "models_per_pass": p.models_per_pass}
        return evaluate(models, images, store, heads=study.wanted_heads, **options, on_error="skip")
    results, planned = plan(models, images, store, "skip", answers_do=answers_do)
    todo = {}
    for tasks in planned:
        model, units = tasks[0].model.spec.id, [results.get(task.pair) for task in tasks]
        with_arrays = answers_do and any(unit and unit.has_array for unit in units)
        if None in units or with_arrays or model in again:
            todo[model] = [task.images.name for task, unit in zip(tasks, units, strict=True) if unit is None]
    if not todo:
        return results
    if engine != "local":
        todo = _longest_first(todo)
    _refuse_numbered_gpu(p.device, engine)
    with contextlib.closing(ENGINES[engine](study, nodes, todo)) as ends:
        answers = dict(tqdm(ends, f"{engine}: models", total=len(todo), unit="model"))
    present = set(store.keys())
    for model, name, key in ((*task.pair, task.key) for tasks in planned for task in tasks if task.pair[0] in todo):
        there = [unit for unit in (key, key + ANSWERS)[: 1 + answers_do] if unit in present]
        answer = answers[model] if isinstance(answers[model], str) else answers[model].get(name, "it has no unit")
        results[model, name] = store.load(there[-1]) if there else ClipsafeError(_reason(answer, name))
    return results


def _longest_first(todo):
    """Models in the order in which tasks are handed out: what takes long, or nobody has counted, shall not end last."""
    from clipsafe_utils.costs import stated_costs

    gmacs = stated_costs()["gmacs_image"]
    return dict(sorted(todo.items(), key=lambda item: -gmacs.get(item[0], float("inf"))))


def _reason(answer, name):
    if not re.fullmatch("[0-9a-f]{32}", answer):
        return answer
    return (
        f"the machine that ran it made unit {answer} of {name}, which is another: it sees other images, weights or "
        "library versions than this one. Give all machines the same folders and the same environment."
    )


def look(parameters, model, names):
    """One task: a model looks at image sets and leaves its units in the store; runs on whatever machine it is sent to.

    Parameters
    ----------
    parameters : dict
        Values of a suite.
    model : str
        Id of a model of its zoo.
    names : list of str
        Image sets.

    Returns
    -------
    dict of str to str, or str
        Image set -> key of the unit, or what went wrong; what went wrong with the model.
    """
    from clipsafe_utils.study import Study

    study = Study(validated(parameters, "parameters of the task"))
    study.specs = [spec for spec in study.specs if spec.id == model]
    if model not in study.adapters:
        return study.missing[model]
    absent = {name: study.missing[name] for name in names if name not in study.images}
    here = {model: [name for name in names if name in study.images]}
    ((_, answer),) = _here(study, study.parameters.nodes, here, progress=False)
    return answer if isinstance(answer, str) else absent | answer


class Job:
    """`look` for submitit: at its time limit it is queued again, and goes on with the first unit that is not there."""

    def __call__(self, parameters, model, names):
        return look(parameters, model, names)

    def checkpoint(self, *arguments):
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


def _here(study, nodes, todo, progress=True):
    """Do tasks in this process; yields (model, answer) as they end."""
    p = study.parameters
    options = {"batch_size": p.batch_size, "workers": p.workers, "models_per_pass": p.models_per_pass}
    options |= {"progress": progress, "on_error": "skip"}
    for names, group in groupby(sorted(todo, key=todo.get), key=todo.get):
        models = list(group)
        for start in range(0, len(models), p.models_per_pass):
            chunk = models[start : start + p.models_per_pass]
            adapters, images = [study.adapters[model] for model in chunk], [study.images[name] for name in names]
            units = evaluate(adapters, images, study.store, heads=study.wanted_heads, **options)
            for model in chunk:
                own = {pair: unit for pair, unit in units.items() if pair[0] == model}
                failed = any(isinstance(unit, ClipsafeError) for unit in own.values())
                if p.keep == "scores" and not failed:
                    settle(study, model, own)
                yield model, {name: getattr(unit, "key", None) or str(unit) for (_, name), unit in own.items()}


def _on_ray(study, nodes, todo):
    """Hand tasks to Ray; yields (model, answer) as they end."""
    ray = _library("ray", {"RAY_USAGE_STATS_ENABLED": "0"} | (_TOKEN if _ADDRESS in os.environ else _LOOPBACK))
    started = not ray.is_initialized()
    if started:
        _connect(ray)
    waiting, running = deque(todo.items()), {}
    try:
        cpus, gpus = _fitting(ray.nodes(), study.parameters, nodes)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=nodes.retries, retry_exceptions=[OSError])(look)
        values = study.parameters.given()
        at_once = nodes.at_once or _slots(ray.cluster_resources(), cpus, gpus)
        while waiting or running:
            while waiting and len(running) < at_once:
                model, names = waiting.popleft()
                running[task.remote(values, model, names)] = model
            (done,), _ = ray.wait(list(running), num_returns=1)
            model = running.pop(done)
            try:
                yield model, ray.get(done)
            except ray.exceptions.RayError as error:
                yield model, _died(error, nodes.retries, isinstance(error, ray.exceptions.RayTaskError))
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if started:
            ray.shutdown()


_ADDRESS = "RAY_ADDRESS"
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray's switch for a node address of 127.0.0.1, on any system
# Clusters ask for a token since Ray 2.59; a client that is given HOST:PORT shows its own only when told to.
_TOKEN = {"RAY_AUTH_MODE": "token"} if Path("~/.ray/auth_token").expanduser().exists() else {}


def _connect(ray, **options):
    """Join the cluster that RAY_ADDRESS names, or start one on this machine."""
    address = os.environ.get(_ADDRESS, "local")
    options |= {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    try:
        host, _, port = address.rpartition(":")
        if port.isdecimal() and "/" not in host:  # Ray itself would look for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        try:
            ray.init(address=address, **options)
        except Exception:
            if address != "local":
                raise
            ray.shutdown()  # Ray gives itself 30 seconds to start, which a busy machine may miss once
            ray.init(address=address, **options)
    except Exception as error:  # what is raised differs with what is wrong: the address, the port, the token
        remedy = (
            "On the machine of `ray start --head` RAY_ADDRESS=auto finds it; elsewhere give HOST:PORT, and have the "
            "cluster's ~/.ray/auth_token there too."
        )
        if address == "local":
            raise ClipsafeError(f"Ray does not start on this machine ({_line(error)}); try `engine: local`.") from None
        raise ClipsafeError(f"no Ray cluster answers at RAY_ADDRESS={address!r} ({_line(error)}). {remedy}") from None


def _fitting(machines, parameters, nodes):
    """Cores and GPUs a task, refused where no machine of the cluster has as many: Ray would wait for ever."""
    alive = [machine["Resources"] for machine in machines if machine["Alive"]]
    most_cpus = max((machine.get("CPU", 0) for machine in alive), default=0)
    most_gpus = max((machine.get("GPU", 0) for machine in alive), default=0)
    gpus = nodes.gpus_per_task
    if gpus is None:
        gpus = 1 if parameters.device == "cuda" or (parameters.device == "auto" and most_gpus) else 0
    cpus = nodes.cpus_per_task or min(1 + parameters.workers, int(most_cpus))
    if gpus > most_gpus:
        raise ClipsafeError(
            f"a task asks for {gpus:g} GPU and no machine of this Ray cluster offers more than {most_gpus:g}; set "
            "`device` to cpu and `nodes: {gpus_per_task: 0}`, or start Ray where GPUs are (`ray status` lists them)."
        )
    if cpus > most_cpus:
        raise ClipsafeError(
            f"a task asks for {cpus} CPU cores and no machine of this Ray cluster offers more than {most_cpus:g}; "
            "lower `nodes.cpus_per_task`."
        )
    return cpus, gpus


def _slots(resources, cpus, gpus):
    """How many tasks can run at the same time, and one more that waits: what is queued at Ray stays short."""
    fits = [resources.get("CPU", 0) // cpus] + ([resources.get("GPU", 0) // gpus] if gpus else [])
    return 1 + int(min(fits))


def _on_slurm(study, nodes, todo):
    """Hand tasks to SLURM as one job array; yields (model, answer) as they end."""
    submitit = _library("submitit")
    if nodes.executor == "slurm" and submitit.SlurmExecutor.affinity() < 0:
        raise ClipsafeError(
            "engine 'slurm' needs a machine that can submit SLURM jobs, and this one has no `srun`; run on a login "
            "node, or try the same jobs here with `nodes: {executor: local}`."
        )
    gpus = nodes.gpus_per_task
    if gpus is None:
        gpus = 0 if study.parameters.device == "cpu" else 1
    if gpus != int(gpus):
        raise ClipsafeError(f"SLURM gives whole GPUs, and a task asks for {gpus:g}; set `nodes.gpus_per_task` to 1.")
    executor = submitit.AutoExecutor(study.folder / "jobs", cluster=nodes.executor)
    try:
        executor.update_parameters(
            **{"name": "clipsafe", "timeout_min": _MINUTES, "gpus_per_node": int(gpus)},
            **{"cpus_per_task": nodes.cpus_per_task or 1 + study.parameters.workers},
            **({"slurm_array_parallelism": nodes.at_once} if nodes.at_once else {}) | nodes.slurm,
        )
    except (NameError, TypeError) as error:
        raise ClipsafeError(f"submitit does not know an option of `nodes.slurm`: {_line(error)}.") from None
    window = (nodes.at_once or os.cpu_count()) if nodes.executor == "local" else len(todo)
    waiting, running, deaths = deque(todo), {}, dict.fromkeys(todo, 0)
    values = study.parameters.given()
    try:
        while waiting or running:
            chosen = [waiting.popleft() for _ in range(min(window - len(running), len(waiting)))]
            if chosen:
                arguments = [values] * len(chosen), chosen, [todo[model] for model in chosen]
                running |= zip(chosen, executor.map_array(Job(), *arguments), strict=True)
            for model, job in [*running.items()]:
                if not job.done():
                    continue
                del running[model]
                try:
                    yield model, job.result()
                except Exception as error:
                    raised = isinstance(error, submitit.core.utils.FailedJobError)
                    deaths[model] += 1
                    if raised or deaths[model] > nodes.retries:
                        yield model, _died(error, nodes.retries, raised)
                    else:
                        waiting.append(model)
            time.sleep(0.2 if nodes.executor == "local" else 10)
    finally:
        for job in running.values():
            job.cancel()


ENGINES = {"local": _here, "ray": _on_ray, "slurm": _on_slurm}


def _library(name, environment=()):
    for variable, value in dict(environment).items():  # Ray reads them as it is imported
        os.environ.setdefault(variable, value)
    try:
        return import_module(name)
    except ImportError:
        raise ClipsafeError(
            f"this engine needs {name}, which is not installed: pip install 'clipsafe-utils[nodes]', or choose "
            "`engine: local`."
        ) from None


def _refuse_numbered_gpu(device, engine):
    if engine != "local" and device.startswith("cuda:"):
        raise ClipsafeError(
            f"device {device!r} is one GPU of one machine; engine {engine!r} gives each task its own: set `device` to "
            "cuda."
        )


def _died(error, retries, raised):
    """Why a task has no answer: what it raised, or that its process went away each time."""
    if raised:
        return f"its task raised {str(error).strip().splitlines()[-1].strip('- ')[:300]}"
    return (
        f"the process of its task died {1 + retries} times, often for want of memory: a smaller `batch_size` or fewer "
        f"`workers` may help ({_line(error)})."
    )


def _line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
