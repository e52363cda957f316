"""Command line: ``python -m clipsafe_utils report -f params/sample.yaml``."""

import argparse
import logging
import os
import sys

import yaml

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.params import load_parameters


def report(arguments):
    """Run the notebooks of a suite and build its report."""
    from clipsafe_utils.report import build_report

    overrides = {key: yaml.safe_load(value) for key, value in arguments.set}
    return f"report: {build_report(load_parameters(arguments.file, overrides), arguments.only)}"


def check(arguments):
    """Check that a report has every page, figure and table, and needs no network."""
    from clipsafe_utils.report import check_report

    check_report(arguments.folder)
    return f"{arguments.folder}: the report is complete"


def notebooks(arguments):
    """Bring each .ipynb in line with its .py twin."""
    from clipsafe_utils.report import pair_notebooks

    stale = pair_notebooks(write=not arguments.check)
    if stale and arguments.check:
        raise ClipsafeError(f"{', '.join(stale)} differ from their .py twins or hold outputs; `make format` mends it.")
    return f"{', '.join(stale)} written" if stale else "notebooks and their .py twins agree"


def differ(arguments):
    """Compare what made two numbers of the tables, and say what of it can move them."""
    from clipsafe_utils.differ import compare

    both = {column: getattr(arguments, column) for column in ("metric", "model", "test_set", "protocol")}
    return compare(arguments.folder, both)


def doctor(arguments):
    """Say what a suite needs, what is there and what a run will cost; exit status 0 if it is ready, 1 if not."""
    from clipsafe_utils.doctor import examine

    overrides = {key: yaml.safe_load(value) for key, value in arguments.set}
    found = examine(load_parameters(arguments.file, overrides), deep=arguments.deep)
    return found, int(not found.ready)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m clipsafe_utils", description="How safe are CLIP models?")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function):
        added = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        added.set_defaults(run=function)
        return added

    def overriding(added):
        explained = "replace a value of the file; VALUE is read as YAML; may be repeated"
        options = {"nargs": 2, "action": "append", "default": [], "metavar": ("KEY", "VALUE"), "help": explained}
        added.add_argument("-p", "--set", **options)
        return added

    added = overriding(command(report))
    added.add_argument("-f", "--file", required=True, metavar="YAML", help="parameter file, such as params/sample.yaml")
    added.add_argument("--only", nargs="+", default=(), metavar="NOTEBOOK", help="run these, such as 01_visual_factors")
    added = overriding(command(doctor))
    added.add_argument("-f", "--file", default="params/paper.yaml", metavar="YAML", help="default: params/paper.yaml")
    added.add_argument("--deep", action="store_true", help="decode every image, hash every image and checkpoint")
    added = command(differ)
    added.add_argument("folder", nargs="+", help="outputs/SUITE of both numbers, or one each")
    for column in ("metric", "model", "test_set", "protocol"):
        name = f"--{column.replace('_', '-')}"
        added.add_argument(name, nargs="+", metavar="VALUE", help="of both numbers, or of the first and the second")
    command(check).add_argument("folder", help="outputs/SUITE")
    command(notebooks).add_argument("--check", action="store_true", help="change nothing, fail where they differ")
    return parser


def main(argv=None):
    """Run a command; returns the exit status: 0 (or the command's own), or 2 after one line that says what is wrong."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("clipsafe_utils").setLevel(logging.INFO)
    arguments = _parser().parse_args(argv)
    try:
        answer = arguments.run(arguments)
        text, status = answer if isinstance(answer, tuple) else (answer, 0)
        sys.stdout.write(f"{text}\n")
        return status
    except (ClipsafeError, OSError, yaml.YAMLError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{os.linesep}interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
