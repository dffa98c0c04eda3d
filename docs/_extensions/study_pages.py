"""A page for every study, made from its script, its figures and their captions.

Pages are written to docs/studies before the sources are read, so that a new study has its page like the
others. The scripts are read and not run: some of them need torch.
"""

from __future__ import annotations

import ast
import inspect
import re
import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path for path in (ROOT / "studies").glob("*.py") if not path.stem.startswith("_"))


def figures_of(study: str) -> list[str]:
    """Return the names of the figures that show a study alone."""
    index = runpy.run_path(str(ROOT / "paper_figures" / "_index.py"))
    scripts = (script for script in index["FIGURES"] if script.stem != "tables")
    read = {script.stem: {file.partition("/")[0] for file in index["reads"](script)} for script in scripts}
    return [figure for figure, studies in read.items() if studies == {study}]


def page_of(script: Path, images: Path) -> str:
    """Return the page of a study as Markdown."""
    code = ast.parse(script.read_text())
    (main,) = (node for node in code.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    (takes,) = re.findall(
        rf"TAKES_{script.stem} := (?:.*,)?([^,)]*)\)?$", (ROOT / "Makefile").read_text(), re.M
    )
    title = script.stem.replace("_", " ").replace("mnist", "MNIST")
    parts = [f"# {title[0].upper()}{title[1:]}", ast.get_docstring(code) or ""]
    for figure in figures_of(script.stem):
        caption = (images / f"{figure}.txt").read_text().strip()
        alt = caption.partition(". ")[0].partition(":")[0]
        parts.append(f"```{{figure}} ../images/{figure}.png\n:alt: {alt}\n\n{caption}\n```")
    command = f"make {script.stem}    # study and figures; about {takes} on two cores"
    parts += ["## How it is run", f"```\n{command}\n```"]
    parts.append(inspect.cleandoc(ast.get_docstring(main) or ""))
    parts.append(
        f"`studies/{script.stem}.py --help` lists its options; {{doc}}`../studies` has those that all share."
    )
    return "\n\n".join(parts) + "\n"


def write(app: Any) -> None:
    """Write the pages that changed."""
    folder = Path(app.srcdir) / "studies"
    folder.mkdir(exist_ok=True)
    pages = {f"{script.stem}.md": page_of(script, Path(app.srcdir) / "images") for script in SCRIPTS}
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        page = folder / name
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    """Have the pages written before the sources are looked for."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
