"""How the report looks, as a Sphinx extension: settings, style sheet, and formulas as MathML (no script needed)."""

from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

SETTINGS = {
    "project": "CLIPSafe",
    "author": "CLIPSafe authors",
    "extensions": ["myst_nb", "sphinx_copybutton", "sphinx_design", __name__],
    "html_theme": "sphinx_book_theme",
    "html_theme_options": {
        "navbar_persistent": [],
        "show_toc_level": 2,
        "home_page_in_toc": True,
        "use_download_button": False,
        "use_fullscreen_button": False,
    },
    "html_static_path": [str(Path(__file__).parent / "static")],
    "html_css_files": ["custom.css"],
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_show_sphinx": False,
    "html_use_index": False,
    "html_math_renderer": "mathml",
    "myst_enable_extensions": ["dollarmath", "amsmath", "colon_fence"],
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "nb_ipywidgets_js": {},
    "nb_code_prompt_show": "Show code",
    "nb_code_prompt_hide": "Hide code",
}


def _visit(display):
    def visit(translator, node):
        translator.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit, None


def setup(app):
    """Register the math renderer; Sphinx calls this."""
    app.add_html_math_renderer("mathml", _visit("inline"), _visit("block"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
