"""The strict runner, the report and its check, on tiny notebooks that really run."""

import json
import os
import shutil

import nbformat
import pytest

from clipsafe_utils import report as report_module
from clipsafe_utils.__main__ import main
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.params import load_parameters
from clipsafe_utils.report import (
    build_report,
    check_report,
    declared_parameters,
    pair_notebooks,
    read_notebook,
    run_notebook,
)

# Kernels and Sphinx run on libraries whose own deprecations are not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings(f"default::{kind}")
    for kind in ("DeprecationWarning", "PendingDeprecationWarning", "ResourceWarning")
]

SECTION = """
# %% [markdown]
# # Visual factors
#
# What each factor costs: $\\mathrm{ECE} = \\sum_b n_b / n$.

# %% tags=["parameters"]
suite = "published"
outputs = "outputs"
n_bins = 15
select = {}

# %%
import json
import sys

import matplotlib.pyplot as plt
import pandas as pd

from clipsafe_utils.params import parameters_from

folder = parameters_from(globals()).folder
for name in ("figures", "tables", "provenance"):
    (folder / name).mkdir(parents=True, exist_ok=True)
print("\\r" + "busy" * 2, file=sys.stderr)

# %%
figure, axes = plt.subplots(figsize=(2, 2))
axes.plot([0, 1], [0, 1])
for kind in ("png", "svg"):
    figure.savefig(folder / "figures" / f"line.{kind}")

# %%
pd.DataFrame({"model": ["<a & b>", "c"], "value": [0.5, n_bins]}).to_parquet(folder / "tables" / "factors.parquet")
record = {"units": [{"key": "abc123", "model": "c"}], "failed": []}
print((folder / "provenance" / "01_section.json").write_text(json.dumps(record)))
"""
OVERVIEW = """
# %% [markdown]
# # Overview
# Claims and verdicts.

# %% tags=["parameters"]
suite = "published"
outputs = "outputs"

# %%
from clipsafe_utils.params import parameters_from

len(list(parameters_from(globals()).folder.glob("tables/*")))
"""


def written(folder, **sources):
    folder.mkdir(exist_ok=True)
    for name, text in sources.items():
        (folder / f"{name.removeprefix('n')}.py").write_text(text.lstrip())
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A report of two notebooks, and the folder of their sources."""
    top = tmp_path_factory.mktemp("report")
    sources = written(top / "notebooks", n00_overview=OVERVIEW, n01_section=SECTION)
    changed = {"outputs": str(top / "outputs"), "suite": "tiny", "n_bins": 7}
    parameters = load_parameters("params/published.yaml", changed)
    assert build_report(parameters, notebooks=sources) == parameters.folder / "report" / "index.html"
    return parameters.folder, sources


@pytest.fixture
def copied(built, tmp_path):
    shutil.copytree(built[0], tmp_path / "tiny")
    return tmp_path / "tiny", built[1]


def test_report_is_complete(built):
    folder, sources = built
    check_report(folder, sources)
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "notebooks", "provenance", "report", "tables"]


def test_kernels_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with pytest.raises(ZeroDivisionError), report_module._threads_of_kernels(3):
        assert os.environ["OMP_NUM_THREADS"] == "3"
        1 / 0  # noqa: B018
    assert "OMP_NUM_THREADS" not in os.environ, "what runs later is not held to it"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with report_module._threads_of_kernels(3):
        assert os.environ["OMP_NUM_THREADS"] == "5", "the user's own choice stands"
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_overview_runs_last_and_reads_first(built):
    folder, _ = built
    overview = nbformat.read(folder / "notebooks" / "00_overview.ipynb", as_version=4)
    assert overview.cells[-1].outputs[0]["data"]["text/plain"] == "1", "it sees the table of the section"
    index = (folder / "report" / "index.html").read_text()
    assert index.index("00_overview.html") < index.index("01_section.html") < index.index("results.html")


def test_page_says_what_made_it(built):
    page = (built[0] / "report" / "01_section.html").read_text()
    assert all(text in page for text in ("Provenance", "n_bins = 7", "numpy", "abc123", "<td>none</td>", "Units: 1"))
    assert "<math" in page
    assert "busybusy" not in page, "a progress bar is no result"
    assert "n_bins = 15" not in page, "the defaults cell would contradict the injected one"


def test_index_explains_the_parameters(built):
    index = (built[0] / "report" / "index.html").read_text()
    assert all(
        text in index for text in ("bins of the calibration error", "What each factor costs", "Claims and verdicts.")
    )


def test_results_page_escapes_and_links(built):
    page = (built[0] / "report" / "results.html").read_text()
    assert "&lt;a &amp; b&gt;" in page
    assert (built[0] / "report" / "tables" / "factors.csv").read_text().splitlines()[2] == "c,7.0"
    assert (built[0] / "report" / "figures" / "line.svg").stat().st_size


def damage(path, text=None):
    path.unlink() if text is None else path.write_text(text)


def insert(path, html):
    path.write_text(path.read_text().replace("</article>", f"{html}</article>", 1))


DAMAGE = {
    "page gone": (lambda top: damage(top / "report/01_section.html"), "page 01_section.html is missing"),
    "index gone": (lambda top: damage(top / "report/index.html"), "page index.html is missing"),
    "page empty": (
        lambda top: damage(top / "report/01_section.html", "<html></html>"),
        "01_section.html: page is empty",
    ),
    "figure gone": (lambda top: damage(top / "figures/line.svg"), "figure line needs a PNG and an SVG"),
    "figure empty": (lambda top: damage(top / "figures/line.png", ""), "figures/line.png is empty"),
    "figure not shown": (lambda top: damage(top / "report/figures/line.png"), "line.png is missing from the report"),
    "no tables": (lambda top: shutil.rmtree(top / "tables"), "there are no tables"),
    "table link": (lambda top: damage(top / "report/tables/factors.csv"), "tables/factors.csv is missing or empty"),
    "style gone": (lambda top: damage(top / "report/_static/custom.css"), "is missing or empty"),
    "failed run": (lambda top: damage(top / "notebooks/04.failed.ipynb", "{}"), "04.failed.ipynb stopped at an error"),
    "warning": (lambda top: damage(top / "report/warnings.txt", "index.md: odd"), "the build warned: index.md: odd"),
}
INSERTED = {
    '<img src="https://example.org/a.png">': "fetches https://example.org/a.png",
    '<script src="//example.org/a.js"></script>': "fetches //example.org/a.js",
    '<script>import x from "https://example.org/b.js"</script>': "fetches https://example.org/b.js",
    "<style>@import url(https://example.org/c.css)</style>": "fetches https://example.org/c.css",
    '<img src="nowhere.png">': "nowhere.png is missing or empty",
    '<a href="#nowhere">x</a>': "link #nowhere leads nowhere",
    '<a href="index.html#nowhere">x</a>': "link index.html#nowhere leads nowhere",
    "<table><tr><th>model</th></tr></table>": "table 'model' is empty",
    "<math><mi>\\argmin</mi></math>": "has a command that MathML rendering does not know",
}


@pytest.mark.parametrize(("hurt", "said"), DAMAGE.values(), ids=DAMAGE)
def test_check_names_what_is_missing(copied, hurt, said):
    hurt(copied[0])
    with pytest.raises(ClipsafeError) as caught:
        check_report(*copied)
    assert said in str(caught.value)


def test_check_names_everything_wrong_on_a_page(copied):
    page = copied[0] / "report" / "01_section.html"
    insert(page, '<a href="https://example.org">a link fetches nothing</a>')
    check_report(*copied)
    for html in INSERTED:
        insert(page, html)
    with pytest.raises(ClipsafeError) as caught:
        check_report(*copied)
    message = str(caught.value)
    assert f"{len(INSERTED)} problem(s)" in message
    assert all(said in message for said in INSERTED.values()), message


def test_blank_figure_is_empty(copied):
    from PIL import Image

    Image.new("RGB", (9, 9), "white").save(copied[0] / "figures" / "line.png")
    with pytest.raises(ClipsafeError, match=r"figures/line\.png is empty"):
        check_report(*copied)


def test_failed_cell_is_one_line_and_keeps_the_partial_copy(built, tmp_path):
    broken = (
        SECTION.split("# %%\nfigure")[0]
        + '# %%\nfrom clipsafe_utils.errors import ClipsafeError\n\nraise ClipsafeError("no such\\nset")\n'
    )
    sources = written(tmp_path / "notebooks", n01_section=broken)
    parameters = load_parameters("params/published.yaml", {"outputs": str(tmp_path), "suite": "x"})
    output = tmp_path / "x" / "notebooks" / "01_section.ipynb"
    output.parent.mkdir(parents=True)
    output.write_text("last good copy")
    with pytest.raises(ClipsafeError) as caught:
        build_report(parameters, notebooks=sources)
    failed = output.with_suffix(".failed.ipynb")
    assert str(caught.value) == f"01_section.py, cell [4]: no such set (partial copy: {failed})"
    assert output.read_text() == "last good copy"
    assert sorted(path.name for path in output.parent.iterdir()) == [failed.name, output.name]
    (error,) = [
        o for cell in nbformat.read(failed, 4).cells for o in cell.get("outputs", []) if o.output_type == "error"
    ]
    assert len(error.traceback) == 1, "no traceback into our code"


def test_kernel_start_is_tried_twice(tmp_path, monkeypatch):
    sources = written(tmp_path, n00_overview=OVERVIEW)
    calls = []

    def race(*arguments, **keywords):
        calls.append(keywords["parameters"])
        raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr(report_module.papermill, "execute_notebook", race)
    parameters = load_parameters("params/sample.yaml")
    with pytest.raises(ClipsafeError, match="the kernel python3 does not start"):
        run_notebook(sources / "00_overview.py", tmp_path / "out.ipynb", parameters)
    assert calls == [{"suite": "sample", "outputs": "outputs"}] * 2
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("cell", "said"),
    {
        "n_bin = 15": "unknown parameter in x 'n_bin'; did you mean 'n_bins'?",
        'n_bins = "15"': "x: n_bins = '15': it should be a valid integer",
        "n_bins = 10 + 5": "`name = literal` only; got 'n_bins = 10 + 5'",
        "import os": "`name = literal` only; got 'import os'",
        "n_bins: int = 15": "`name = literal` only",
    }.items(),
)
def test_parameters_cell_is_strict(tmp_path, cell, said):
    written(tmp_path, n01=f'# %% tags=["parameters"]\n{cell}\n')
    with pytest.raises(ClipsafeError) as caught:
        declared_parameters(read_notebook(tmp_path / "01.py"), "x")
    assert said in str(caught.value)


def test_notebook_needs_one_parameters_cell(tmp_path):
    cell = '# %% tags=["parameters"]\nseed = 0\n\n'
    for count, text in ((0, "# %%\nseed = 0\n"), (2, cell + cell)):
        written(tmp_path, n01=text)
        with pytest.raises(ClipsafeError, match=f"exactly one cell tagged `parameters`; it has {count}"):
            declared_parameters(read_notebook(tmp_path / "01.py"), "01")


def test_pairs_are_made_once_and_differences_seen(tmp_path):
    written(tmp_path, n00_overview=OVERVIEW)
    assert pair_notebooks(tmp_path, write=True) == ["00_overview.ipynb"]
    twin = tmp_path / "00_overview.ipynb"
    first = twin.read_bytes()
    assert pair_notebooks(tmp_path, write=False) == []
    twin.unlink()
    pair_notebooks(tmp_path, write=True)
    assert twin.read_bytes() == first, "cell ids do not change from run to run"
    notebook = json.loads(first)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3", "papermill needs it"
    for change in (
        lambda cell: cell.update(source="1 + 1"),
        lambda cell: cell["metadata"].update(tags=["hide-cell"]),
        lambda cell: cell.update(outputs=[{"output_type": "stream", "name": "stdout", "text": "x"}]),
    ):
        changed = json.loads(first)
        change(changed["cells"][-1])
        twin.write_text(json.dumps(changed))
        assert pair_notebooks(tmp_path, write=False) == ["00_overview.ipynb"]
    (tmp_path / "00_overview.py").unlink()
    assert pair_notebooks(tmp_path, write=True) == ["00_overview.ipynb"], "a notebook without a twin is an orphan"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "-f", "params/sampel.yaml"], "unknown parameter file 'params/sampel.yaml'; did you mean"),
        (["report", "-f", "params/sample.yaml", "-p", "n_bin", "3"], "n_bin = 3: unknown parameter 'n_bin'"),
        (["report", "-f", "params/sample.yaml", "-p", "seed", "[1"], "while parsing"),
        (["report", "-f", "params/sample.yaml", "--only", "05_none"], "unknown notebook '05_none'"),
        (["check", "nowhere"], "page index.html is missing"),
    ],
)
def test_command_line_errors_are_one_line(capsys, arguments, said):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert said in err


def test_no_write_permission_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["report", "-f", "params/published.yaml", "-p", "outputs", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("error: [Errno 20] Not a directory")
