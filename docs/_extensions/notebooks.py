"""Notebooks as pages: run in the build from start to end, and shown with what their cells put out."""

from __future__ import annotations

import logging
import os
import tempfile
from typing import Any

import nbformat
from myst_parser.parsers.sphinx_ import MystParser
from nbclient import NotebookClient

LOG = logging.getLogger(__name__)
LOG.setLevel(logging.WARNING)
FENCE = "`" * 8
SHOWN = ("text/html", "image/png", "text/plain")
"""Forms of an output, the best first."""


class NotebookParser(MystParser):
    """A parser of notebooks, which are read as the Markdown that `as_markdown` makes of them."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: Any) -> None:
        name = f"{document.settings.env.docname.rpartition('/')[2]}.ipynb"
        super().parse(as_markdown(executed(inputstring), name), document)


def executed(text: str) -> Any:
    """Return a notebook after all its cells were run, in a folder of their own.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails.
    """
    notebook = nbformat.reads(text, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=300,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],
            log=LOG,
        )
        return client.execute(env=os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"})


def as_markdown(notebook: Any, name: str) -> str:
    """Return a notebook as a page, whose first cell is its title; `name` is the file to download."""
    title, *cells = notebook.cells
    parts = [title.source, f"{{download}}`Download this notebook <{name}>`; the page shows it as it has run."]
    for cell in cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts.append(fenced("python", cell.source))
            parts += map(shown, cell.outputs)
    return "\n\n".join(filter(None, parts))


def shown(output: Any) -> str:
    """Return one output of a cell."""
    if output.output_type == "stream":
        return fenced("text", output.text) if output.name == "stdout" else ""
    form = next((form for form in SHOWN if form in output.data), "")
    content = output.data.get(form, "")
    if form == "image/png":
        content = f'<img alt="what the cell has drawn" src="data:image/png;base64,{content.strip()}">'
    if form == "text/plain":
        return fenced("text", content)
    return fenced("{raw} html", f'<div class="output">{content}</div>') if form else ""


def fenced(kind: str, content: str) -> str:
    """Return a block of Markdown."""
    return f"{FENCE}{kind}\n{content.rstrip()}\n{FENCE}"


def setup(app: Any) -> dict[str, bool]:
    """Register notebooks as sources."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True}
