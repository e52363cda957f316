"""Where tests find the real data, and a clean figure state for each."""

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("CLIPSAFE_TEST_DATA", ROOT.parent / "shared"))


def _shared(name):
    folder = SHARED / name
    if not folder.is_dir():
        message = f"{folder} is missing: set CLIPSAFE_TEST_DATA to the folder that holds published/ and real/"
        if os.environ.get("CLIPSAFE_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def published_dir():
    """Published results of others (README of that folder lists the origins)."""
    return _shared("published")


@pytest.fixture(scope="session")
def real_dir():
    """Real photos, stimuli and a real checkpoint."""
    return _shared("real")


@pytest.fixture(scope="session")
def real_units(tmp_path_factory):
    """Store that tests share in which the real checkpoint looks at the real photos."""
    return tmp_path_factory.mktemp("real_units")


@pytest.fixture
def rng():
    return np.random.default_rng(20240211)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")
