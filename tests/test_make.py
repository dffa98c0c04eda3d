"""The make rules for figures, with the real Makefile on a small tree of stand-in studies and scripts."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Stand-ins write what the real ones would, and leave a line in a log.
STUDY = """
import sys, pathlib
def needs():
    {imports}
quick = "--smoke" in sys.argv
folder = pathlib.Path("results", "quick" if quick else "", "{name}")
folder.mkdir(parents=True, exist_ok=True)
for file in {files}:
    (folder / file).write_text("")
with open("log", "a") as log:
    print("study", "{name}", *sys.argv[1:], file=log)
"""
FIGURE = """
import sys, pathlib
def reads():
    {reads}
name = pathlib.Path(sys.argv[0]).stem
quick = "--quick" in sys.argv
for kind in ("pdf", "png", "txt"):
    path = pathlib.Path("figures", "quick" if quick else "", name + "." + kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
with open("log", "a") as log:
    print("figure", name, *sys.argv[1:], file=log)
"""
TABLES = """
import sys, pathlib
TABLES = {
    "alpha/rows": None,
}
for suffix in (".tex", ".md"):
    path = pathlib.Path("figures", "quick" if "--quick" in sys.argv else "", "tables", sys.argv[1] + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
with open("log", "a") as log:
    print("table", *sys.argv[1:], file=log)
"""
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two studies, alpha with two files and beta that needs torch; three figures and a table."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("studies", "paper_figures", ".venv"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    for installed in (".created", ".core", ".dev", ".nn"):
        (tmp_path / ".venv" / installed).write_text("")
    studies = {"alpha": ["alpha.nc", "rows.csv"], "beta": ["beta.nc"]}
    for name, files in studies.items():
        imports = "pass" if name == "alpha" else "import nn_bridge"
        code = STUDY.format(name=name, files=files, imports=imports)
        (tmp_path / "studies" / f"{name}.py").write_text(code)
    figures = {"one": [("alpha", "alpha.nc")], "two": [("alpha", "alpha.nc"), ("beta", "beta.nc")]}
    figures["three"] = [("beta", "beta.nc")]
    for name, reads in figures.items():
        figure(tmp_path, name, reads)
    for shared in ("studies/_shared.py", "paper_figures/style.py"):
        (tmp_path / shared).write_text("")
    shutil.copy(ROOT / "paper_figures" / "_index.py", tmp_path / "paper_figures")
    (tmp_path / "paper_figures" / "tables.py").write_text(TABLES)
    return tmp_path


def figure(tree: Path, name: str, reads: list[tuple[str, str]]) -> None:
    calls = "\n    ".join([f'style.read("{study}", "{file}")' for study, file in reads] or ["pass"])
    (tree / "paper_figures" / f"{name}.py").write_text(FIGURE.format(reads=calls))


def make(tree: Path, *arguments: str, code: int = 0) -> tuple[list[str], str]:
    """Call make and return what was run, sorted, and what make said."""
    log = tree / "log"
    log.unlink(missing_ok=True)
    command = ["make", f"RUN={sys.executable}", "WORKERS=2", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return sorted(log.read_text().splitlines()) if log.exists() else [], done.stdout + done.stderr


def change(path: Path) -> None:
    """Make a file newer than all others of the tree, whatever the resolution of the file system's clock."""
    for file in path.parent.parent.rglob("*"):
        os.utime(file, (file.stat().st_mtime - 10,) * 2)
    os.utime(path)


EVERYTHING = ["figure one", "figure three", "figure two", "study alpha --workers 2", "study beta --workers 2"]


def test_missing_studies_run_once_then_nothing_does(tree: Path) -> None:
    ran, said = make(tree, "figures")
    assert ran == [*EVERYTHING, "table alpha/rows"]
    assert "Studies to run first" in said
    assert "- alpha: " in said
    assert said.index("Running studies/alpha.py") < said.index("paper_figures/one.py")
    ran, said = make(tree, "figures")
    assert ran == []
    assert "Studies to run" not in said


def test_a_deleted_result_rebuilds_exactly_what_depends_on_it(tree: Path) -> None:
    make(tree, "figures")
    (tree / "results" / "beta" / "beta.nc").unlink()
    assert make(tree, "figures")[0] == ["figure three", "figure two", "study beta --workers 2"]
    (tree / "results" / "alpha" / "rows.csv").unlink()
    # The other file of the study is written again too.
    ran = make(tree, "figures")[0]
    assert ran == ["figure one", "figure two", "study alpha --workers 2", "table alpha/rows"]
    assert make(tree, "figures")[0] == []


def test_changes_of_script_and_style_draw_again_but_run_no_study(tree: Path) -> None:
    make(tree, "figures")
    change(tree / "paper_figures" / "one.py")
    assert make(tree, "figures")[0] == ["figure one"]
    change(tree / "paper_figures" / "style.py")
    assert make(tree, "figures")[0] == ["figure one", "figure three", "figure two", "table alpha/rows"]
    change(tree / "studies" / "alpha.py")
    assert make(tree, "figures")[0] == []
    (tree / "figures" / "two.png").unlink()
    (tree / "figures" / "tables" / "alpha" / "rows.md").unlink()
    assert make(tree, "figures", "figures/two.png")[0] == ["figure two"]
    assert make(tree, "figures/tables/alpha/rows.md")[0] == ["table alpha/rows"]


def test_quick_figures_have_studies_and_folders_of_their_own(tree: Path) -> None:
    ran, _ = make(tree, "figures", "QUICK=1")
    assert ran == [
        *(f"figure {name} --quick" for name in ("one", "three", "two")),
        "study alpha --smoke --workers 2",
        "study beta --smoke --workers 2",
        "table alpha/rows --quick",
    ]
    assert make(tree, "figures", "QUICK=1")[0] == []
    assert sorted(path.name for path in (tree / "results").iterdir()) == ["quick"]
    assert sorted(path.name for path in (tree / "figures").iterdir()) == ["quick"]
    assert make(tree, "figures")[0] == [*EVERYTHING, "table alpha/rows"]


def test_a_new_script_is_a_new_figure(tree: Path) -> None:
    make(tree, "figures")
    figure(tree, "four", [("beta", "beta.nc")])
    assert make(tree, "figures")[0] == ["figure four"]


def test_a_figure_without_its_study_or_without_data_is_an_error(tree: Path) -> None:
    figure(tree, "four", [("gamma", "gamma.nc")])
    _, said = make(tree, "figures", code=2)
    assert "results/gamma/gamma.nc" in said
    figure(tree, "four", [])
    _, said = make(tree, "figures", code=2)
    assert "paper_figures/four.py reads no study" in said


def test_a_study_by_its_name_runs_again_and_draws_what_is_its_alone(tree: Path) -> None:
    assert make(tree, "alpha")[0] == ["figure one", "study alpha --workers 2"]
    time.sleep(0.01)
    assert make(tree, "alpha")[0] == ["figure one", "study alpha --workers 2"]
    assert make(tree, "studies")[0] == ["figure one", "study alpha --workers 2"]  # beta needs torch
    assert make(tree, "beta", "QUICK=1")[0] == ["figure three --quick", "study beta --smoke --workers 2"]


@pytest.mark.slow
def test_a_study_with_its_figure_is_the_two_files_of_the_contributing_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, drawn = re.findall(r"(?s)```python\n(\"\"\".*?)```", (ROOT / "CONTRIBUTING.md").read_text())
    shutil.copy(ROOT / "Makefile", tmp_path)
    for file in (
        "studies/_shared.py",
        "paper_figures/style.py",
        "paper_figures/tables.py",
        "paper_figures/_index.py",
    ):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "studies" / "largest_mass.py").write_text(study)
    (tmp_path / "paper_figures" / "largest_mass.py").write_text(drawn)
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / ".venv").mkdir()
    for installed in (".created", ".core"):
        (tmp_path / ".venv" / installed).write_text("")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    _, said = make(tmp_path, "figures/quick/largest_mass.pdf", "QUICK=1")
    assert "Running studies/largest_mass.py" in said and "λ = 0.03" in said
    figure = tmp_path / "figures" / "quick" / "largest_mass.pdf"
    assert figure.read_bytes().startswith(b"%PDF")
    assert "the fittest of 16 groups" in figure.with_suffix(".txt").read_text()
    with (tmp_path / "results" / "quick" / "largest_mass" / "largest_mass.csv").open(newline="") as rows:
        assert all(
            abs(float(row["difference"])) < 0.02 * float(row["theory"]) for row in csv.DictReader(rows)
        )
    assert "Running" not in make(tmp_path, "figures/quick/largest_mass.pdf", "QUICK=1")[1]
    command = [sys.executable, "studies/largest_mass.py", "--smoke", "--draw"]
    for elsewhere in ([], ["--out", "elsewhere"]):
        said = subprocess.run([*command, *elsewhere], cwd=tmp_path, capture_output=True, text=True).stdout
        assert f"Figure: {'elsewhere' if elsewhere else 'figures/quick'}/largest_mass.pdf" in said
    shutil.rmtree(tmp_path / "paper_figures")
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "expected a clone" in refused.stderr
