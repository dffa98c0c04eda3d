"""Sphinx configuration: Markdown pages, and the reference from the docstrings."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.ext import autosummary

from evodyn import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "evodyn"
author = "The evodyn authors"
copyright = f"2026, {author}"  # Sphinx's own name
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "notebooks",
    "study_pages",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 2
suppress_warnings = ["ref.python"]  # many classes have masses: their name is no link
exclude_patterns = ["_build", "_extensions", "**.ipynb_checkpoints"]

autodoc_typehints = "none"  # numpydoc's parameter lists have them
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autosummary_generate = False  # its tables lead to the pages of capabilities
autodoc_mock_imports = ["torch", "torchvision", "safetensors", "onnx", "onnxruntime"]
napoleon_use_param = napoleon_use_rtype = False  # words of a type, such as groups, are no links
napoleon_use_ivar = True  # attributes are described where they are

# Examples marked as plots run in the build, and their pictures stand below them.
plot_include_source = True
plot_html_show_source_link = plot_html_show_formats = False
plot_formats = [("png", 120)]
plot_working_directory = str(Path(__file__).parents[1])  # examples read data of the repository
plot_rcparams = {"font.size": 9}
plot_apply_rcparams = True

html_theme = "furo"
html_title = "evodyn"
html_copy_source = False
html_math_renderer = "mathml"  # browsers draw it themselves: no script, no font and no network is needed
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_js_files = ["copy.js"]


def keep_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let |x| in a docstring be an absolute value, not a substitution."""
    code = (">>>", "...")
    lines[:] = [line if line.lstrip().startswith(code) else line.replace("|", r"\|") for line in lines]


def end_examples(app: Any, docname: str, source: list[str]) -> None:
    """Let a block of code end with its last line, not with the empty one that ends a tested example."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")


def as_mathml(display: str) -> Callable[[Any, nodes.math | nodes.math_block], None]:
    """Return what writes a formula as MathML, "inline" or as a "block"."""

    def write(translator: Any, node: nodes.math | nodes.math_block) -> None:
        translator.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    return write


def setup(app: Any) -> None:
    """Register what is done to docstrings, to their first sentences, to examples and to formulas."""
    autosummary.WELL_KNOWN_ABBREVIATIONS += ("Eq.", "Eqs.")  # behind which a sentence goes on
    app.add_html_math_renderer("mathml", (as_mathml("inline"), None), (as_mathml("block"), None))
    app.connect("autodoc-process-docstring", keep_bars)
    app.connect("source-read", end_examples)
