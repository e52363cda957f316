"""Write the pages of a report as Sphinx sources: index, one page a section, tables and figures."""

import json
import re
import shutil
from html import escape

import nbformat
import pandas as pd

from clipsafe_utils.params import Parameters

PREVIEW_ROWS = 8


def write_pages(parameters, sections, source, files):
    """Write the sources of all pages, and beside them copies of the files they link.

    Parameters
    ----------
    parameters : Parameters
    sections : list of str
        Names of notebooks, in the order of the pages; one that was never run has no page.
    source, files : Path
        Folders to create: for Sphinx to build, and to copy into the report as they are.
    """
    source.mkdir(parents=True)
    for name in ("notebooks", "tables", "figures"):
        (files / name).mkdir(parents=True)
    paths = [parameters.folder / "notebooks" / f"{name}.ipynb" for name in sections]
    executed = {path.stem: nbformat.read(path, as_version=4) for path in paths if path.exists()}
    (source / "index.md").write_text(_index(parameters, executed), encoding="utf-8")
    (source / "results.md").write_text(_results(parameters, executed, files), encoding="utf-8")
    for name, notebook in executed.items():
        nbformat.write(notebook, files / "notebooks" / f"{name}.ipynb")
        nbformat.write(_section(name, notebook, parameters), source / f"{name}.ipynb")


def _section(name, notebook, parameters):
    """An executed notebook as a page: code folded away, progress bars dropped, provenance at the end."""
    injected = any("injected-parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        tags = cell.metadata.setdefault("tags", [])
        # The injected cell repeats every parameter of the default cell.
        tags.append("remove-cell" if injected and "parameters" in tags else "hide-input")
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" or (o.text.strip() and "\r" not in o.text)]
    notebook.cells.append(nbformat.v4.new_markdown_cell(_provenance(name, notebook, parameters)))
    return notebook


def _provenance(name, notebook, parameters):
    """What made a page: run, code, versions, parameters, and what the notebook recorded of its own."""
    run, code = notebook.metadata.get("papermill", {}), notebook.metadata.get("clipsafe", {})
    values = run.get("parameters", {})
    rows = {
        "Notebook": f'<a href="notebooks/{name}.ipynb">{name}.ipynb</a> (executed copy)',
        "Run": f"{_when(run)}, {_seconds(run)}",
        "Code": _commit(code),
        "Packages": escape(", ".join(f"{package} {number}" for package, number in code.get("packages", {}).items())),
        "Parameters": escape(", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())) or "none",
    }
    recorded = parameters.folder / "provenance" / f"{name}.json"
    details = []
    for key, value in (json.loads(recorded.read_text(encoding="utf-8")) if recorded.exists() else {}).items():
        label, entries = key.replace("_", " ").capitalize(), value if isinstance(value, list) else [value]
        if isinstance(value, dict):
            entries = [f"{name} = {json.dumps(one)}" for name, one in value.items()]
        if entries and all(isinstance(entry, dict) for entry in entries):
            columns = list(dict.fromkeys(column for entry in entries for column in entry))
            cells = [[_cell(entry.get(column, "")) for column in columns] for entry in entries]
            details += [f":::{{dropdown}} {label}: {len(entries)}", _table(columns, cells), ":::"]
        else:
            rows[label] = escape(", ".join(map(str, entries))) or "none"
    return "\n\n".join(["## Provenance", _table([], rows.items(), "provenance"), *details])


def _index(parameters, executed):
    cards = []
    for name, notebook in executed.items():
        title, first = _summary(name, notebook)
        cards += [f"::::{{grid-item-card}} {title}\n:link: {name}\n:link-type: doc\n\n{first}\n::::"]
    fields = Parameters.model_fields
    rows = [
        [f"<code>{key}</code>", escape(json.dumps(value, ensure_ascii=False)), escape(fields[key].description)]
        for key, value in parameters.model_dump(mode="json").items()
    ]
    return f"""# CLIPSafe report: suite {parameters.suite}

How safe are CLIP models? Robustness to visual factors, detection of out-of-distribution images, calibration, and what
prompts change. Each page is an executed notebook; its code unfolds in place, and its end says what made it.

:::::{{grid}} 1 1 2 2
:gutter: 3

{chr(10).join(cards)}

::::{{grid-item-card}} Tables and figures
:link: results
:link-type: doc

Every number and every picture as a file.
::::
:::::

## How this report was made

`python -m clipsafe_utils report` ran the notebooks with papermill, each with those of the parameters below that it
declares, and built these pages from the executed copies.

{_runs(executed)}

## Parameters

{_table(["Parameter", "Value", "Meaning"], rows, "parameters")}

```{{toctree}}
:hidden:

{chr(10).join([*executed, "results"])}
```
"""


def _runs(executed):
    """Table of what ran, when, and with which code."""
    rows = []
    for name, notebook in executed.items():
        run, code = notebook.metadata.get("papermill", {}), notebook.metadata.get("clipsafe", {})
        rows += [[f'<a href="{name}.html">{name}</a>', _when(run), _seconds(run), _commit(code)]]
    return _table(["Notebook", "Run", "Duration", "Code"], rows)


def _results(parameters, executed, files):
    """Page of tables and figures; copies them into `files`."""
    text = ["# Tables and figures", "## Tables"]
    tables = sorted((parameters.folder / "tables").glob("*.parquet"))
    for path in tables:
        frame = pd.read_parquet(path)
        shutil.copy(path, files / "tables")
        frame.to_csv(files / "tables" / f"{path.stem}.csv", index=False)
        links = " · ".join(f'<a href="tables/{path.stem}.{kind}">{kind}</a>' for kind in ("csv", "parquet"))
        text += [f"### {path.stem}", f"{len(frame):,} rows, {frame.shape[1]} columns: {links}"]
        head = [[_cell(value) for value in row] for row in frame.head(PREVIEW_ROWS).itertuples(index=False)]
        text += [_table(frame.columns, head)]
    text += [] if tables else ["None: no notebook of this suite has written one."]
    text += ["## Figures"]
    figures = []
    for path in sorted((parameters.folder / "figures").glob("*.png")):
        kinds = [kind for kind in ("png", "svg") if path.with_suffix(f".{kind}").exists()]
        for kind in kinds:
            shutil.copy(path.with_suffix(f".{kind}"), files / "figures")
        links = " · ".join(f'<a href="figures/{path.stem}.{kind}">{kind}</a>' for kind in kinds)
        image = f'<img src="figures/{path.name}" alt="{path.stem}" loading="lazy">'
        figures += [f"<figure>{image}<figcaption>{path.stem}: {links}</figcaption></figure>"]
    gallery = "\n".join(['<div class="gallery">', *figures, "</div>"])
    text += [gallery if figures else "None: no notebook of this suite has written one."]
    text += ["## Provenance", _runs(executed)]
    return "\n\n".join(text) + "\n"


def _summary(name, notebook):
    """Title of a section and the first two sentences of its first paragraph."""
    lines = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").splitlines()
    title = next((line.lstrip("# ") for line in lines if line.startswith("# ")), name)
    text = "\n".join("" if line.startswith("#") else line for line in lines).strip()
    return title, " ".join(re.split(r"(?<=[.?!:])\s+", text.split("\n\n")[0])[:2])


def _commit(code):
    if not code.get("commit"):
        return "not in a git checkout"
    return f"commit {code['commit'][:10]}{' with uncommitted changes' if code.get('dirty') else ''}"


def _when(run):
    return f"{str(run.get('start_time'))[:16].replace('T', ' ')} UTC"


def _seconds(run):
    return f"{run.get('duration') or 0:.0f} s"


def _cell(value):
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value))


def _table(columns, rows, style=""):
    """HTML table of ready cells: unlike a Markdown table it takes any text in them."""
    head = "".join(f"<th>{escape(str(column))}</th>" for column in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>\n" if head else ""
    return f'<div class="wide {style}"><table>\n{head}<tbody>\n{body}\n</tbody></table></div>'
