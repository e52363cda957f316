"""Check a finished report: nothing missing, nothing empty, nothing fetched from outside."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
from bs4 import BeautifulSoup
from PIL import Image

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.params import ROOT

_FETCHED = {"src", "srcset", "poster", "data", "href"}
_OUTSIDE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_CSS_FETCH = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)
_SCRIPT_FETCH = re.compile(r"(?:\bimport\b[^;'\"]*|\bfetch\(|\.(?:src|href)\s*=)\s*['\"](https?://[^'\"]+)")


def check_report(folder, notebooks=ROOT / "notebooks"):
    """Check the report of a suite.

    Parameters
    ----------
    folder : str or Path
        outputs/SUITE
    notebooks : Path, optional
        Each .py notebook here must have its page.

    Raises
    ------
    ClipsafeError
        Names every page, figure or table that is missing, empty or out of date, every broken link, everything that a
        browser would fetch from elsewhere, and warnings of the build.
    """
    folder = Path(folder)
    if problems := list(_problems(folder, folder / "report", Path(notebooks))):
        raise ClipsafeError(f"{folder / 'report'} has {len(problems)} problem(s): {'; '.join(problems)}.")


def _problems(folder, report, notebooks):
    for failed in sorted((folder / "notebooks").glob("*.failed.ipynb")):
        yield f"{failed.name} stopped at an error"
    if (warnings := report / "warnings.txt").exists():
        yield f"the build warned: {warnings.read_text(encoding='utf-8').splitlines()[0]}"
    for name in ("index", *sorted(path.stem for path in notebooks.glob("*.py")), "results"):
        if not (report / f"{name}.html").exists():
            yield f"page {name}.html is missing"
    pages = {path: _read(path) for path in sorted(report.glob("*.html"))}
    for path, page in pages.items():
        yield from (f"{path.name}: {problem}" for problem in _page_problems(path, page, pages))
    for path in sorted(report.rglob("*.css")):
        for address in _CSS_FETCH.findall(path.read_text(encoding="utf-8")):
            yield f"{path.name} fetches {address}"
    yield from _file_problems(folder, report)


def _read(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def _page_problems(path, page, pages):
    article = page.select_one("article")
    if path.stem != "search" and (article is None or len(article.get_text(strip=True)) < 40):
        yield "page is empty"
    for table in article.select("table") if article else []:
        if not table.select("td"):
            yield f"table {table.get_text(' ', strip=True)[:40]!r} is empty"
    for formula in page.select("math"):
        if "\\" in formula.get_text():
            yield f"formula {formula.get_text(strip=True)[:40]!r} has a command that MathML rendering does not know"
    for tag in page.find_all(True):
        for attribute in _FETCHED & set(tag.attrs):
            address = tag[attribute].split()[0] if tag[attribute].strip() else ""
            if _OUTSIDE.match(address):
                if tag.name != "a" and "canonical" not in tag.get("rel", []):
                    yield f"fetches {address}"
            elif broken := _broken(path, page, address, pages):
                yield broken
    code = "\n".join(tag.get_text() for tag in page.find_all(["script", "style"]))
    yield from (f"fetches {address}" for address in _CSS_FETCH.findall(code) + _SCRIPT_FETCH.findall(code))


def _broken(path, page, address, pages):
    parts = urlsplit(address)
    if parts.scheme or not (parts.path or parts.fragment):
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
    if not target.is_file() or not target.stat().st_size:
        return f"{address} is missing or empty"
    page = next((other for name, other in pages.items() if name.resolve() == target), None)
    if page and parts.fragment and not page.find(id=unquote(parts.fragment)):
        return f"link {address} leads nowhere"
    return None


def _file_problems(folder, report):
    """Figures and tables: there, not blank, and the same in the report."""
    for kind, patterns in (("figures", ("*.png", "*.svg")), ("tables", ("*.parquet",))):
        made, shown = ({p.name: p for x in patterns for p in (top / kind).glob(x)} for top in (folder, report))
        if not made:
            yield f"there are no {kind}"
        for name in sorted(set(made) ^ set(shown)):
            yield f"{kind}/{name} is missing from {'the report' if name in made else folder.name}"
        yield from (f"{kind}/{name} is empty" for name, path in sorted(made.items()) if _is_empty(path))
    figures = [path for suffix in ("png", "svg") for path in (folder / "figures").glob(f"*.{suffix}")]
    for stem in sorted({path.stem for path in figures}):
        if sum(path.stem == stem for path in figures) != 2:
            yield f"figure {stem} needs a PNG and an SVG"
    yield from (f"image {path.name} is empty" for path in sorted(report.glob("_images/*.png")) if _is_empty(path))


def _is_empty(path):
    if not path.stat().st_size:
        return True
    if path.suffix == ".png":
        with Image.open(path) as image:
            return all(low == high for low, high in image.convert("RGBA").getextrema())
    if path.suffix == ".svg":
        return "<path" not in path.read_text(encoding="utf-8")
    return pd.read_parquet(path).empty
