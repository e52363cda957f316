"""Run the notebooks of a suite and build its report.

Executed copies, figures and tables lie in outputs/SUITE; the report in outputs/SUITE/report carries copies of the files
it links, so the folder can be moved or sent as it is, and read without a network.
"""

import ast
import contextlib
import copy
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jupytext
import nbformat
import papermill
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from clipsafe_utils.content import content_key, file_digest
from clipsafe_utils.errors import ClipsafeError, unknown
from clipsafe_utils.params import ROOT, Parameters, parameters_from
from clipsafe_utils.report_theme.check import check_report
from clipsafe_utils.report_theme.pages import write_pages
from clipsafe_utils.study import Study

__all__ = ["build_report", "check_report", "declared_parameters", "read_notebook", "render_report", "run_notebook"]

log = logging.getLogger(__name__)

NOTEBOOKS = ROOT / "notebooks"
PACKAGES = (
    *("clipsafe-utils", "torch", "torchvision", "timm", "open_clip_torch", "transformers", "numpy", "scipy"),
    *("scikit-learn", "pandas", "matplotlib", "imagenet-x"),
)
"""Packages whose versions can move a number."""

MOST_AT_ONCE = 4
"""Notebooks that run side by side, memory permitting; fewer on a machine with fewer cores."""


def read_notebook(path):
    """Read a notebook from its text twin (.py percent) or its .ipynb, ready to run.

    Returns
    -------
    nbformat.NotebookNode
        Without outputs; the kernel is python3 and cell ids are hashes of the source, so that equal notebooks are equal
        files.
    """
    notebook = jupytext.read(path)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = hashlib.sha256(f"{index}{cell.source}".encode()).hexdigest()[:8]
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nbformat.from_dict(notebook)


def pair_notebooks(notebooks=None, *, write):
    """Compare each .ipynb with its .py twin; the .py is the source.

    Parameters
    ----------
    notebooks : Path, optional
        Folder; the project's by default.
    write : bool
        Write the .ipynb of those that differ.

    Returns
    -------
    list of str
        Names of .ipynb files that are missing, orphaned, hold outputs, or differ in a cell's kind, source or tags.
    """
    folder = Path(notebooks or NOTEBOOKS)
    stale = []
    for twin in sorted({path.with_suffix(".ipynb") for path in folder.glob("*.*") if path.suffix in (".py", ".ipynb")}):
        source = twin.with_suffix(".py")
        if source.exists() and _content(twin) == _content(source):
            continue
        stale.append(twin.name)
        if write and source.exists():
            nbformat.write(read_notebook(source), twin)
    return stale


def _content(path):
    if not path.exists():
        return None
    cells = jupytext.read(path).cells
    return [(c.cell_type, c.source, c.metadata.get("tags", []), bool(c.get("outputs"))) for c in cells]


def declared_parameters(notebook, name):
    """Read the cell tagged `parameters`.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
    name : str
        Of the notebook, for errors.

    Returns
    -------
    dict
        Parameter -> default; a subset of the schema `Parameters`.

    Raises
    ------
    ClipsafeError
        Not exactly one such cell, anything but `name = literal` in it, a name the schema does not have, or a default
        that does not fit it.
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ClipsafeError(f"{name} needs exactly one cell tagged `parameters`; it has {len(cells)}.")
    declared = {}
    for statement in ast.parse(cells[0].source).body:
        try:
            (target,) = statement.targets
            declared[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            raise ClipsafeError(
                f"{name}: the parameters cell may hold `name = literal` only; got {ast.unparse(statement)!r}."
            ) from None
    for key in declared:
        if key not in Parameters.model_fields:
            raise unknown(f"parameter in {name}", key, Parameters.model_fields)
    parameters_from(declared, name)
    return declared


def run_notebook(source, output, parameters, *, state=None):
    """Execute a notebook with the parameters that it declares.

    Parameters
    ----------
    source : str or Path
        Notebook, .py or .ipynb; it is never written to.
    output : str or Path
        Executed copy, written whole or not at all. Where a cell fails, the partial copy is `NAME.failed.ipynb`.
    parameters : Parameters
    state : str, optional
        Key of what the run depends on, kept in the copy's metadata.

    Returns
    -------
    Path
        The executed copy; its metadata say which code and which versions ran.

    Raises
    ------
    ClipsafeError
        The notebook does not fit the schema, its kernel does not start, or a cell fails: which, and why.
    """
    source, output = Path(source), Path(output)
    notebook = read_notebook(source)
    declared = declared_parameters(notebook, source.name)
    values = parameters.model_dump(mode="json", include=set(declared))
    notebook.metadata["clipsafe"] = {
        "suite": parameters.suite,
        "state": state,
        **_code_version(),
        "packages": _versions(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.stem}.{os.getpid()}.ipynb")
    failed = output.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    try:
        done = _execute(notebook, temporary, values, source.stem)
        temporary.replace(output)
    except PapermillExecutionError as error:
        temporary.replace(failed)
        reason = error.evalue if error.ename == ClipsafeError.__name__ else f"{error.ename}: {error.evalue}"
        raise ClipsafeError(
            f"{source.name}, cell [{error.exec_count}]: {' '.join(reason.split())} (partial copy: {_short(failed)})"
        ) from None
    except DeadKernelError:
        temporary.replace(failed)
        raise ClipsafeError(
            f"{source.name}: the kernel died while it ran, often for want of memory; a smaller batch_size or fewer "
            f"workers may help (partial copy: {_short(failed)})."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    log.info("%s: %.0f s", source.stem, done.metadata.papermill.duration)
    return output


def _execute(notebook, output, values, name):
    """Papermill with one retry: kernels that start at the same time now and then race for a port."""
    for attempt in (1, 2):
        try:
            return papermill.execute_notebook(
                copy.deepcopy(notebook),
                output,
                parameters=values,
                kernel_name="python3",
                cwd=ROOT,
                progress_bar={"desc": name, "disable": None},
                extra_arguments=["--log-level=ERROR"],
            )
        except DeadKernelError:
            raise
        except (RuntimeError, NoSuchKernel) as error:
            if "kernel" not in str(error).lower():
                raise
            if attempt == 2:
                raise ClipsafeError(
                    f"{name}: the kernel python3 does not start ({error}); check with `{Path(sys.executable).name} -m "
                    "ipykernel --version` that ipykernel is installed."
                ) from None


def build_report(parameters, only=(), notebooks=NOTEBOOKS):
    """Run the notebooks of a suite, sections first and the overview last, and build the report.

    A notebook whose cells, parameters, code, versions and inputs are those of its last run, and whose files are still
    there, is not run again; name it in `only` to run it all the same.

    Parameters
    ----------
    parameters : Parameters
    only : iterable of str, optional
        Names of notebooks to run, for example "01_visual_factors"; the pages of the others show their last run.
    notebooks : Path, optional
        Folder with the notebooks.

    Returns
    -------
    Path
        outputs/SUITE/report/index.html

    Raises
    ------
    ClipsafeError
        An unknown name in `only`, or whatever `run_notebook` refuses. The last report stays as it was.
    """
    sources = {path.stem: path for path in sorted(Path(notebooks).glob("*.py"))}
    for name in only:
        if name not in sources:
            raise unknown("notebook", name, sources)
    study = Study(parameters)
    suite = content_key({"inputs": study.inputs(), "code": _package_digests(), "versions": _versions()})
    states, overview = {}, [name for name in sources if name.startswith("00")]
    for name in sorted(sources, key=lambda name: (name in overview, name)):
        # The overview reads what the others wrote, so its state includes theirs.
        states[name] = content_key(
            [suite, *(list(states.values()) if name in overview else []), _identity(sources[name], parameters)]
        )
    stale = [name for name in only or states if only or not _is_current(parameters.folder, name, states[name])]
    for name in sorted(states.keys() - set(stale)):
        log.info("%s: unchanged", name)
    sections = [name for name in stale if name not in overview]

    def run(name):
        output = parameters.folder / "notebooks" / f"{name}.ipynb"
        try:
            run_notebook(sources[name], output, parameters, state=states[name])
        finally:
            ensure_event_loop().close()  # each thread's own, which jupyter would leave open

    # Models look at all images first, here: what is left in the notebooks is arithmetic, and they run side by side.
    declared = [key for name in sections for key in declared_parameters(read_notebook(sources[name]), name)]
    if names := study.playing(declared):
        study.evaluate(*names)
    at_once = min(MOST_AT_ONCE, os.cpu_count() or 1, max(1, len(sections)))
    with ThreadPoolExecutor(at_once) as pool, _threads_of_kernels((os.cpu_count() or 1) // at_once):
        list(pool.map(run, sections))
    for name in stale:
        if name in overview:
            run(name)
    return render_report(parameters, list(sources))


@contextlib.contextmanager
def _threads_of_kernels(n):
    """Let each kernel started here use n cores, unless the environment says otherwise.

    Side by side, libraries that each take all cores wait for one another: on two cores that doubled the CPU time of a
    notebook.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(n)  # kernels inherit it; this process has read it long ago
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _identity(source, parameters):
    """Cells of a notebook and the values it is given."""
    notebook = read_notebook(source)
    declared = declared_parameters(notebook, source.name)
    return [cell.source for cell in notebook.cells], parameters.model_dump(mode="json", include=set(declared))


def _package_digests():
    package = ROOT / "clipsafe_utils"
    files = [path for path in sorted(package.rglob("*")) if path.suffix in (".py", ".csv", ".yaml", ".json", ".gz")]
    return {str(path.relative_to(package)): file_digest(path) for path in files}


def _is_current(folder, name, state):
    """Whether a notebook's executed copy has this state and the files that it wrote are there."""
    output, recorded = folder / "notebooks" / f"{name}.ipynb", folder / "provenance" / f"{name}.json"
    if not (output.exists() and recorded.exists()):
        return False
    record = json.loads(recorded.read_text(encoding="utf-8"))
    if record.get("models_not_available"):  # a hub's cache may hold them by now, and is not among the inputs
        return False
    same = nbformat.read(output, as_version=4).metadata.get("clipsafe", {}).get("state") == state
    return same and all((folder / file).exists() for file in record.get("files", []))


def render_report(parameters, sections):
    """Build the pages from what the suite's folder holds; returns the path of the index page.

    Parameters
    ----------
    parameters : Parameters
    sections : list of str
        Names of notebooks, in the order of the pages; one that was never run has no page.
    """
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    from clipsafe_utils.report_theme import SETTINGS

    folder, report = parameters.folder, parameters.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=folder) as work:
        work = Path(work)
        write_pages(parameters, sections, work / "source", work / "files")
        title = f"CLIPSafe: {parameters.suite}"
        settings = SETTINGS | {"html_title": title, "html_extra_path": [str(work / "files")]}
        with (work / "warnings.txt").open("w", encoding="utf-8") as warnings, patch_docutils(), docutils_namespace():
            Sphinx(
                *(work / "source", None, work / "html", work / "doctrees", "html"),
                confoverrides=settings,
                status=None,
                warning=warnings,
            ).build()
        warned = (work / "warnings.txt").read_text(encoding="utf-8").replace(f"{work / 'source'}{os.sep}", "")
        if warned := re.sub(r"\x1b\[[\d;]*m", "", warned).strip():
            log.warning("the report has warnings:\n%s", warned)
            (work / "html" / "warnings.txt").write_text(warned, encoding="utf-8")
        if report.exists():
            report.rename(work / "previous")
        (work / "html").rename(report)
    return report / "index.html"


def _code_version():
    def git(*command):
        done = subprocess.run(["git", "-C", ROOT, *command], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except FileNotFoundError:
        return {"commit": None, "dirty": False}


def _versions():
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _short(path):
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
