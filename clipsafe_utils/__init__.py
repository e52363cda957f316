"""CLIPSafe: how safe are CLIP models? Visual factors, out-of-distribution detection, calibration.

The names below load on first use, so that the metrics alone need neither torch nor a second to import.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "ModelSpec": "zoo",
    "load_zoo": "zoo",
    "load_images": "datasets",
    "load_model": "models",
    "evaluate": "inference",
    "Store": "store",
    "ClipsafeError": "errors",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'clipsafe_utils' has no attribute {name!r}; it offers {', '.join(_HOMES)}.")
    return getattr(import_module(f"clipsafe_utils.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *_HOMES])
