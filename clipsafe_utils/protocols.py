"""Protocols of the literature: presets that set together what decides whether numbers can be compared.

`protocols.yaml` is the data. A parameter file names one (``protocol: mcm-2022``); its own keys win over the preset, and
the parameter then says so: "openood-1.5 but crop". Who runs a notebook with papermill or by hand writes that where the
value of the key is its default: a notebook cannot tell such a value from one that was left out.
"""

import functools
from pathlib import Path

import yaml

from clipsafe_utils.errors import unknown

DEFAULT = "tu-2023"
"""The protocol of the study, whose values are the defaults of the image suites."""


@functools.cache
def load_protocols():
    """The presets.

    Returns
    -------
    dict of str to dict
        Name -> title, source, parameters (those that the protocol speaks of).
    """
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def parse_protocol(text):
    """Take a value of the parameter `protocol` apart.

    Parameters
    ----------
    text : str
        "NAME" or "NAME but KEY, KEY": the parameters that are not as the preset has them.

    Returns
    -------
    name : str
    kept : set of str

    Raises
    ------
    ClipsafeError
        No such protocol, or a key of which it does not speak.
    """
    name, _, keys = str(text).partition(" but ")
    if name not in load_protocols():
        raise unknown("protocol", name, load_protocols())
    kept = {key.strip() for key in keys.split(",") if key.strip()}
    if stray := sorted(kept - load_protocols()[name]["parameters"].keys()):
        raise unknown(f"parameter after {name!r} but", stray[0], load_protocols()[name]["parameters"])
    return name, kept


def with_protocol(values, given):
    """Fill in what the protocol of a suite sets, other than the default one: the parameters as they stand are its.

    Parameters
    ----------
    values : dict
        Parameter -> value.
    given : container of str
        Parameters whose values were chosen and win over the preset.

    Returns
    -------
    dict
        `protocol` names the chosen values that differ from the preset.
    """
    protocol = values.get("protocol", DEFAULT)
    if protocol == DEFAULT or not isinstance(protocol, str):
        return values
    name, kept = parse_protocol(protocol)
    preset = load_protocols()[name]["parameters"]
    kept |= {key for key in preset if key in values and key in given and values[key] != preset[key]}
    filled = {key: value for key, value in preset.items() if key not in kept}
    return values | filled | {"protocol": " but ".join([name, *([", ".join(sorted(kept))] if kept else [])])}


def deviations(values):
    """What is not as the protocol has it.

    Parameters
    ----------
    values : dict
        Parameter -> value; those that are not there are left out.

    Returns
    -------
    dict of str to dict
        Parameter -> value here, value of the protocol; empty without `protocol`.
    """
    preset = load_protocols()[parse_protocol(values["protocol"])[0]]["parameters"] if "protocol" in values else {}
    return {
        key: {"here": values[key], "protocol": wanted}
        for key, wanted in preset.items()
        if key in values and values[key] != wanted
    }
