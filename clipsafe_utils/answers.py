"""What stays of a model's outputs with `keep: scores`: answers to what the sections ask of them.

Sections look at outputs through `Study.ask` alone. While the outputs of a model are there, every section is run on that
model by itself, the answers (a prediction, a score, a confidence for each image) are written down, and the outputs go.
The same questions then get the same answers, to the last bit. A question that was not asked then, for instance with
another prompt set or another seed, runs the models that it concerns again.
"""

import copy
from collections import defaultdict

from clipsafe_utils.content import content_key
from clipsafe_utils.inference import evaluate, plan
from clipsafe_utils.memory import Memory


def answer(study, model, name, identity, compute):
    """Answer to a question about one model's outputs on one image set; see `Study.answer`."""
    unit = study.unit(model, name)
    key = _key(unit, identity)
    if (found := study.memory.get(key)) is None:
        found = unit.answer(key)
        if found is None and not unit.has_array:
            unit = _look_again(study, model, name, identity)
            found = unit.answer(key)
        found = study.memory.keep(key, compute() if found is None else found)
    if study.collected is not None:
        study.collected[unit.key][key] = found
    return found


def settle(study, model, units):
    """Ask all sections about a model, write the answers down, and let the arrays of its units go.

    Parameters
    ----------
    study : Study
    model : str
    units : dict of (str, str) to Unit
        What the model just said; its other units are taken from the store.
    """
    from clipsafe_utils.gate import golden_numbers
    from clipsafe_utils.sections import PER_MODEL

    others = [images for name, images in study.images.items() if (model, name) not in units]
    known, _ = plan([study.adapters[model]], others, study.store, "skip", answers_do=True)
    alone = copy.copy(study)
    for cached in ("models", "quarantined"):
        alone.__dict__.pop(cached, None)
    alone.parameters = study.parameters.changed(n_bootstrap=1)  # resamples are drawn from answers, not asked for
    alone.specs = [spec for spec in study.specs if spec.id == model]
    alone.adapters = {model: study.adapters[model]}
    alone.missing, alone.collected = dict(study.missing), defaultdict(dict)
    alone._units = {pair: unit for pair, unit in (known | units).items() if hasattr(unit, "key")}
    alone.memory = Memory()
    alone._evaluated, alone._saved = set(study.images), []
    alone.quarantined = frozenset()
    for question in (golden_numbers, *PER_MODEL):
        question(alone)
    for unit in alone._units.values():
        answers = alone.collected[unit.key]
        if unit.has_array or answers.keys() - unit.record["answers"].keys():
            study.store.keep_answers(unit, answers)


def _key(unit, identity):
    return content_key(identity | {"unit": unit.key})


def _look_again(study, model, name, identity):
    """Have the outputs anew: of this model where it is asked by itself, else of all models that lack the answer."""
    if study.collected is not None:
        p = study.parameters
        options = {"batch_size": p.batch_size, "workers": p.workers, "progress": False}
        images = [study.images[other] for _, other in study._units]  # some questions take outputs on several sets
        study._units = evaluate([study.adapters[model]], images, study.store, **options)
    else:
        kind = study.unit(model, name).kind
        units = {other: unit for (other, images), unit in study._units.items() if images == name and unit.kind == kind}
        study.look_again([other for other, unit in units.items() if unit.answer(_key(unit, identity)) is None])
    return study.unit(model, name)
