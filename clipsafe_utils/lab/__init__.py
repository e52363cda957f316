"""The laboratory: a rendered world with known visual factors, and a zoo of tiny models trained on it."""

from clipsafe_utils.lab.image_sets import DEV_SEEDS, LAB_SETS, TEST_SEEDS, load_lab_images
from clipsafe_utils.lab.world import FACTORS, World, contact_sheet

__all__ = ["DEV_SEEDS", "FACTORS", "LAB_SETS", "TEST_SEEDS", "World", "contact_sheet", "load_lab_images", "train"]


def train(only=None, **kwargs):
    """Train the zoo, see `clipsafe_utils.lab.training.train`."""
    from clipsafe_utils.lab.training import train

    return train(only, **kwargs)
