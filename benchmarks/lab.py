"""How fast the laboratory renders: images per second on one thread, by stream.

python benchmarks/lab.py [--images 4096]
"""

import argparse
import time

import numpy as np
import torch

from clipsafe_utils.lab import DEV_SEEDS, World
from clipsafe_utils.lab.captions import captions


def rate(work, n, repeats=3):
    """Best of some runs, in seconds of this thread: other work of the machine only ever makes a run slower."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return n / min(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4096)
    n = parser.parse_args().images
    torch.set_num_threads(1)
    world = World(DEV_SEEDS[0])
    world.images("id", 0, 64)
    for stream in ("id", "art", "sketch", "renderer", "ood_textures", "ood_scenes", "ood_noise"):
        print(f"{stream:14s} {rate(lambda: world.images(stream, 0, n), n):8,.0f} images/s")  # noqa: B023
    print(f"{'captions':14s} {rate(lambda: captions(world, 'A', np.arange(n)), n):8,.0f} captions/s")


if __name__ == "__main__":
    main()
