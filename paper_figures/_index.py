"""What scripts read and need: prints what figures are drawn from, and which studies need torch.

The lines are NAME:STUDY/FILE for every file that a figure, or tables.py, is drawn from, and torch:STUDY. The
Makefile asks before anything is installed, so that the scripts are read and not run. With the name of a study
it draws the figures that show this study alone, and hands what follows on to their scripts.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIGURES = sorted(Path(__file__).resolve().parent.glob("*.py"))


def reads(script: Path) -> list[str]:
    """Return the files that a script reads, as STUDY/FILE, in order.

    They are the arguments of ``style.read("STUDY", "FILE")`` and its siblings, or the names in ``TABLES``.
    """
    found = []
    for node in _nodes(script):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="style"), attr=method),
                args=[ast.Constant(value=str(study)), ast.Constant(value=str(file)), *_],
            ) if method.startswith("read"):
                found.append(f"{study}/{file}")
            case ast.Assign(targets=[ast.Name(id="TABLES")], value=ast.Dict(keys=names)):
                found += [ast.literal_eval(name) for name in names if name is not None]
    return list(dict.fromkeys(found))


def needs_torch(script: Path) -> bool:
    """Tell whether a script imports nn_bridge."""
    modules = []
    for node in _nodes(script):
        match node:
            case ast.Import(names=names):
                modules += [name.name for name in names]
            case ast.ImportFrom(module=str(module)):
                modules.append(module)
    return any(module.partition(".")[0] == "nn_bridge" for module in modules)


def _nodes(script: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(script.read_text(encoding="utf-8")))


def draw(study: str, arguments: list[str]) -> int:
    """Draw the figures that show one study alone; return the first exit code that is not 0."""
    scripts = (script for script in FIGURES if script.stem != "tables")
    of_study = [script for script in scripts if {file.split("/")[0] for file in reads(script)} == {study}]
    codes = [subprocess.run([sys.executable, str(script), *arguments]).returncode for script in of_study]
    return next(filter(None, codes), 0)


def show() -> None:
    """Print the lines."""
    for script in FIGURES:
        for file in reads(script):
            print(f"{script.stem}:{file}")
    for script in sorted((ROOT / "studies").glob("*.py")):
        if needs_torch(script):
            print(f"torch:{script.stem}")


if __name__ == "__main__":
    study, *arguments = sys.argv[1:] or [""]
    if study:
        sys.exit(draw(study, arguments))
    show()
