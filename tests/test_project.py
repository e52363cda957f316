"""The repository around the package: pins, environments, command files."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def canonical(name):
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; ]", name)[0]).lower()


def lines(name):
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith(("#", "-c"))]


def pins():
    return dict(line.split("==") for line in lines("constraints.txt"))


def environment():
    """environment.yml as it follows from requirements.txt and constraints.txt."""
    versions = {canonical(name): version for name, version in pins().items()}
    direct = [f"      - {name}=={versions[canonical(name)]}" for name in lines("requirements.txt")]
    return "\n".join(
        [
            "# Made from requirements.txt and constraints.txt by `python tests/test_project.py`.",
            "# PIP_CONSTRAINT=constraints.txt pins what these packages need in turn.",
            "name: clipsafe",
            "channels: [conda-forge, nodefaults]",
            "dependencies:",
            *("  - python=3.11", "  - pip", "  - make", "  - pip:"),
            *direct,
            "",
        ]
    )


def test_environment_has_the_pinned_versions():
    written = (ROOT / "environment.yml").read_text()
    assert written == environment(), "run `python tests/test_project.py`"
    assert len(yaml.safe_load(written)["dependencies"][-1]["pip"]) == len(lines("requirements.txt"))


def test_every_requirement_is_pinned_once():
    names = [canonical(line) for line in lines("constraints.txt")]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines("constraints.txt"))
    assert {canonical(name) for name in lines("requirements.txt")} <= set(names)


def test_package_and_requirements_name_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    assert sorted(map(canonical, named)) == sorted(map(canonical, lines("requirements.txt")))


def test_no_package_index_is_named():
    for name in ("requirements.txt", "constraints.txt", "environment.yml", "pyproject.toml", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text()
        assert not re.search(r"https?://|index-url|find-links", text), name


def test_make_sets_up_once_and_again_when_the_pins_change(tmp_path):
    for name in ("Makefile", "constraints.txt", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / ".venv").mkdir()

    def plan():
        return subprocess.run(["make", "-n", "test"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "pip install" in plan()
    ready = tmp_path / ".venv" / ".ready"
    ready.touch()
    assert "pip install" not in plan()
    later = ready.stat().st_mtime + 10  # file times are too coarse for two touches in a row
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert "pip install" in plan()


def test_help_is_the_default_and_lists_every_target():
    command = ["make", "--no-print-directory"]  # which it prints when these tests run under make
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [line.split()[1] for line in shown.splitlines()] == targets.split()


def test_citation_and_hooks_parse():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["preferred-citation"]["identifiers"][0]["value"] == "arXiv:2402.07410"
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}


if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(environment())
