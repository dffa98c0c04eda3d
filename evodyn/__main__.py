"""``evodyn``, or ``python -m evodyn``: list the studies, and run one by its name."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from evodyn.core.extras import extra

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """List the studies, or run the one that is named, with the options that follow.

    Parameters
    ----------
    arguments : list of str, optional
        Name and options of a study; those of the command line by default.

    Raises
    ------
    SystemExit
        With what the study returns, or with what is wrong with its name.

    Examples
    --------
    >>> main(["extinctoin"])
    Traceback (most recent call last):
    SystemExit: There is no study extinctoin; did you mean extinction? `evodyn` lists them.
    """
    name, *options = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    studies = described()
    if name in ("-h", "--help"):
        width = max(map(len, studies))
        print("Usage: evodyn STUDY [OPTIONS]; evodyn STUDY --help tells the options.\n\nStudies:")
        print("\n".join(f"  {study:{width}}  {line}" for study, line in studies.items()))
        return
    if name not in studies:
        near = difflib.get_close_matches(name, studies, 1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise SystemExit(f"There is no study {name}{hint} `evodyn` lists them.")
    with extra("studies", user=f"evodyn {name}"):
        shared: Any = importlib.import_module(f"{_package().__name__}._shared")
    with extra("nn", user=f"evodyn {name}"):
        study: Any = importlib.import_module(f"{_package().__name__}.{name}")
    shared.command_line(study.main)(options, prog_name=f"evodyn {name}")


def described() -> dict[str, str]:
    """Return the studies and the question of each, which is the first line of its file."""
    files = sorted(Path(_folder()).glob("[!_]*.py"))
    texts = {file.stem: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for file in files}
    return {name: (text or "").partition("\n")[0] for name, text in texts.items()}


def _folder() -> str:
    """Return where the studies are: in their package, or in the clone where this package is edited."""
    spec = importlib.util.find_spec("evodyn_studies")
    if spec is not None and spec.submodule_search_locations:
        return next(iter(spec.submodule_search_locations))
    return str(Path(__file__).resolve().parent.parent / "studies")


def _package() -> ModuleType:
    """Return the package of the studies."""
    if "evodyn_studies" not in sys.modules and importlib.util.find_spec("evodyn_studies") is None:
        spec: Any = importlib.util.spec_from_file_location("evodyn_studies", Path(_folder()) / "__init__.py")
        sys.modules["evodyn_studies"] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module("evodyn_studies")


if __name__ == "__main__":
    main()
