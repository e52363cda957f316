"""`python -m clipsafe_utils.lab train [--only ID]`: train the zoo, or show a test set."""

import argparse
import sys

import torch

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.lab import LAB_SETS, load_lab_images, train
from clipsafe_utils.lab.world import contact_sheet


def main(arguments=None):
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m clipsafe_utils.lab", description="The laboratory.")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train what has no checkpoint yet; several processes share the work")
    training.add_argument("--only", metavar="ID", help="one model of zoo.csv, with what it starts from")
    training.add_argument("--threads", type=int, default=1, help="threads a process (default 1: deterministic)")
    show = commands.add_parser("show", help="save a contact sheet of a test set")
    show.add_argument("set", choices=LAB_SETS)
    show.add_argument("file")
    given = parser.parse_args(arguments)
    try:
        if given.command == "train":
            torch.set_num_threads(given.threads)
            train(given.only)
        else:
            images = torch.from_numpy(load_lab_images(given.set).render(0, 192)).permute(0, 3, 1, 2)
            contact_sheet(images).save(given.file)
    except ClipsafeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
