"""Every figure drawn from smoke runs and looked at by a checker, which is shown to find what it looks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from evodyn.core import netcdf
from evodyn.core.checksums import write_text
from tests.figure_checks import problems
from tests.scripts import ROOT, call, module

TRAVELLING = ROOT / "tests" / "travelling.py"
INDEX = module("paper_figures/_index.py")
SCRIPTS = {
    path.stem: sorted({file.partition("/")[0] for file in INDEX.reads(path)})
    for path in INDEX.FIGURES
    if path.stem not in ("_index", "style", "tables")
}


def needs_torch(study: str) -> bool:
    return bool(INDEX.needs_torch(ROOT / "studies" / f"{study}.py"))


@pytest.fixture(scope="module")
def luggage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what smoke runs would send to other processes."""
    return tmp_path_factory.mktemp("luggage")


@pytest.fixture(scope="module")
def smoke_run(luggage: Path) -> Any:
    """Return a function that makes the smoke run of a study in results/quick, once."""
    done: set[str] = set()

    def run(study: str) -> None:
        if study not in done:
            by = [TRAVELLING, luggage]
            out, _ = call(f"studies/{study}.py", "--smoke", columns=80, by=by)
            long = [line for line in out.splitlines() if len(line.rstrip()) > 80]
            assert not [line for line in long if os.sep not in line], long
            done.add(study)

    return run


def drawn(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """Draw a figure from quick runs into a folder and return it."""
    script = module(f"paper_figures/{name}.py")
    style = script.style
    kept: list[Figure] = []

    def keep(*arguments: Any) -> None:
        kept.append(save(*arguments))

    save = style.save
    monkeypatch.setattr(style, "save", keep)
    monkeypatch.setattr(style, "FIGURES", folder)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--quick"])
    with plt.rc_context():
        script.main()
    (figure,) = kept
    return figure


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.nn] if any(map(needs_torch, s)) else []) for n, s in SCRIPTS.items()],
)
def test_a_figure_has_no_overlap_nothing_clipped_and_every_axis_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoke_run: Any
) -> None:
    for study in SCRIPTS[name]:
        smoke_run(study)
    figure = drawn(name, tmp_path, monkeypatch)
    assert problems(figure) == []
    files = {kind: (tmp_path / "quick" / f"{name}.{kind}").read_bytes() for kind in ("pdf", "png", "txt")}
    assert files["pdf"].startswith(b"%PDF")
    assert files["png"].startswith(b"\x89PNG")
    caption = files["txt"].decode()
    assert caption.startswith("Quick run at reduced sizes")
    assert any(text.get_text().startswith("Quick run") for text in figure.texts)
    for study in SCRIPTS[name]:
        assert f"results/quick/{study}/" in caption
    # At the width of a page; a figure that is to be scaled down loses its type size.
    assert figure.get_figwidth() <= 7.2


@pytest.mark.parametrize("torch", [False, pytest.param(True, marks=pytest.mark.nn)])
def test_what_studies_send_to_other_processes_arrives(torch: bool, luggage: Path, smoke_run: Any) -> None:
    studies = sorted({s for names in SCRIPTS.values() for s in names if needs_torch(s) == torch})
    for study in studies:
        smoke_run(study)
    command, paths = [sys.executable, str(TRAVELLING), str(luggage)], os.environ | {"PYTHONPATH": str(ROOT)}
    arrived = subprocess.run(command, env=paths, capture_output=True, text=True)
    assert arrived.returncode == 0, arrived.stderr
    assert {line.partition(".")[0] for line in arrived.stdout.splitlines()} >= {*studies}


@pytest.mark.nn
def test_a_quick_run_is_not_drawn_beside_the_printed_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoke_run: Any
) -> None:
    smoke_run("mnist_bridge")
    figure = drawn("paper_tables", tmp_path, monkeypatch)
    paper = module("paper_figures/paper_tables.py").style.PAPER
    assert not [line for axes in figure.axes for line in axes.lines if line.get_color() == paper]
    assert "printed numbers are left out" in (tmp_path / "quick" / "paper_tables.txt").read_text()


def test_readings_are_named_in_words() -> None:
    in_words = module("paper_figures/readings.py").in_words
    assert in_words("EMA 0.95, memory 1, raw") == "averaged (0.95), gradients kept, pixels in [0, 1]"
    assert in_words("memory 0.9, bias unscaled") == "gradients kept (0.9), biases unscaled"
    assert in_words("z-score") == "z-score"


def test_the_ten_figures_are_there() -> None:
    ten = {
        *("trajectories", "extinction", "phase_diagram", "simplex", "discrete_vs_continuous", "noise"),
        *("paper_tables", "network", "readings", "replay"),
    }
    assert ten <= set(SCRIPTS)
    assert all(SCRIPTS.values())
    assert all((ROOT / "studies" / f"{study}.py").exists() for s in SCRIPTS.values() for study in s)


def good() -> tuple[Figure, Any]:
    figure, axes = plt.subplots(figsize=(3, 2), layout="constrained")
    axes.set(xlabel="time", ylabel="mass", xlim=(0, 1), ylim=(0, 1))
    plt.close(figure)
    return figure, axes


def test_the_checker_passes_a_good_figure_and_finds_each_fault() -> None:
    assert problems(good()[0]) == []

    figure, axes = good()
    axes.text(0.5, 0.5, "the one")
    axes.text(0.55, 0.52, "the other")
    (found,) = problems(figure)
    assert "'the one' and 'the other' overlap" in found

    figure, axes = good()
    figure.text(0.95, 0.5, "too far right")
    assert "'too far right' leaves the figure" in problems(figure)

    figure, axes = good()
    axes.set_ylabel("")
    assert problems(figure) == ["axes 0: yaxis has no label"]
    axes.set_yticks([])
    assert problems(figure) == []

    figure, axes = good()
    axes.text(0.5, 0.5, "pale", color="limegreen")
    (found,) = problems(figure)
    assert found.startswith("'pale' has a contrast of 2.")

    figure, axes = good()
    axes.text(0.5, 0.5, "small", fontsize=4)
    assert problems(figure) == ["'small' is set in 4 points"]


def test_the_checker_turns_boxes_with_their_texts() -> None:
    figure, axes = good()
    for x in (0.4, 0.6):  # the boxes of these two, were they upright, would overlap
        axes.text(x, 0.5, "parallel lines", rotation=45, ha="center", va="center", fontsize=6)
    assert problems(figure) == []
    axes.text(0.41, 0.5, "parallel lines", rotation=45, ha="center", va="center", fontsize=6)
    assert len(problems(figure)) == 1


def test_texts_that_are_not_drawn_do_not_count() -> None:
    figure, axes = good()
    axes.text(0.5, 0.5, "one")
    axes.text(0.5, 0.5, "hidden", visible=False)
    axes.text(0.5, 0.5, " ")
    assert problems(figure) == []


def test_a_caption_tells_run_revision_and_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    style = module("paper_figures/extinction.py").style
    data = xr.Dataset({"a": ("x", np.zeros(2))})
    provenance: dict[str, Any] = {
        "command": ["some.py", "--workers", "2"],
        "date": "2026-01-02T03:04:05+00:00",
        "revision": "0123456789abcdef-dirty",
    }
    specification = {"scenario": {"seed": 7}, "seeds": [7, 8]}
    attributes = {"specification": json.dumps(specification), "provenance": json.dumps(provenance)}
    netcdf.write(data.assign_attrs(attributes), tmp_path / "some.nc")
    monkeypatch.setattr(sys, "argv", ["figure.py", str(tmp_path)])
    style.read("some", "some.nc")
    style.save(good()[0], "figure", ["What is shown."])
    caption = (tmp_path / "figure.txt").read_text()
    assert caption.startswith("What is shown. Data: ")
    for words in (
        "some.nc",
        "some.py --workers 2",
        "2026-01-02",
        "0123456789ab-dirty",
        "seed 7",
        "seeds 7, 8",
    ):
        assert words in caption
    assert "figure.pdf" in capsys.readouterr().out
    # The next figure names its own sources alone, and a smoke run is one wherever its data lie.
    provenance["command"].append("--smoke")
    netcdf.write(
        data.assign_attrs(attributes | {"provenance": json.dumps(provenance)}), tmp_path / "other.nc"
    )
    style.read("some", "other.nc")
    style.save(good()[0], "figure", ["What is shown."])
    caption = (tmp_path / "figure.txt").read_text()
    assert caption.startswith("Quick run")
    assert "some.nc" not in caption
    with pytest.raises(SystemExit, match=r"none.csv is missing. The study makes it: python studies/some.py"):
        style.read_rows("some", "none.csv")


def test_tables_in_latex_and_markdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = module("paper_figures/tables.py")
    monkeypatch.setattr(tables.style, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables.style, "FIGURES", tmp_path / "figures")
    table = tables.Table(
        "100 % of λ.", {"name": ("who", ""), "share": ("part_1", ".1%"), "gap": ("Δ", "+.2f")}
    )
    monkeypatch.setitem(tables.TABLES, "some/rows", table)
    source = tmp_path / "results" / "quick" / "some" / "rows.csv"
    monkeypatch.setattr(sys, "argv", ["tables.py", "some/rows", "--quick"])
    with pytest.raises(SystemExit, match=r"rows.csv is missing. The study makes it: make some"):
        tables.main()
    write_text(source, "name,share,gap,unused\na|b&c,0.125,-1.5,9\nd,,inf,9\n")
    tables.main()
    assert "rows.tex (also .md)" in capsys.readouterr().out
    made = tmp_path / "figures" / "quick" / "tables" / "some"
    assert (made / "rows.md").read_text() == (
        f"{tables.style.QUICK} 100 % of λ.\n\n"
        "| who | part_1 | Δ |\n| :-- | --: | --: |\n| a\\|b&c | 12.5 % | −1.50 |\n| d | – | – |\n"
    )
    lines = (made / "rows.tex").read_text().splitlines()
    assert rf"\caption{{{tables.style.QUICK} 100 \% of $\lambda$.}}" in lines
    assert r"\begin{tabular}{lrr}" in lines
    assert r"who & part\_1 & $\Delta$ \\" in lines
    assert r"a|b\&c & 12.5 \% & $-$1.50 \\" in lines
    for entry in tables.TABLES.values():  # what is printed in LaTeX is in its encoding
        shown = entry.caption + "".join(heading for heading, _ in entry.columns.values())
        assert tables.escaped(shown).isascii()
