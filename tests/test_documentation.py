"""The built documentation needs no network: neither for its formulas nor for anything else it loads."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evodyn as ed

for part in ("sphinx", "furo", "nbclient", "ipykernel"):
    pytest.importorskip(part, reason="the documentation needs the docs group")
DOCS = Path(__file__).parents[1] / "docs"
SOURCES = {
    str(page.relative_to(DOCS).with_suffix("")): page
    for page in DOCS.rglob("*.md")
    if not {"_build", "studies"} & set(page.parent.relative_to(DOCS).parts)
}

LOADED = re.compile(r"<(?:script|img|iframe|link|source)\b[^>]*\b(?:src|href)=[\"']([^\"']*)")
REMOTE = re.compile(r"url\([\"']?(\w+:)?//|@import [\"']?(\w+:)?//")  # in style sheets


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All pages and style sheets, without the reference from the docstrings, which takes most of the time."""
    source, built = (tmp_path_factory.mktemp(name) for name in ("source", "built"))
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("_build"), dirs_exist_ok=True)
    for name, page in SOURCES.items():
        (source / f"{name}.md").write_text(re.sub(r"(?m)^\.\. auto.*::.*$", "", page.read_text()))
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-c", str(DOCS), str(source), str(built)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    styles = {str(style): style.read_text() for style in built.rglob("*.css")}
    return styles | {
        str(page.relative_to(built).with_suffix("")): page.read_text() for page in built.rglob("*.html")
    }


def test_nothing_is_loaded_from_the_network(pages: dict[str, str]) -> None:
    assert SOURCES.keys() <= pages.keys() and "learn/first_extinction" in SOURCES
    loaded = [address for page in pages.values() for address in LOADED.findall(page)]
    assert any(".css" in address for address in loaded) and any(".js" in address for address in loaded)
    assert [address for address in loaded if re.match(r"(\w+:)?//", address)] == []
    assert [name for name, text in pages.items() if REMOTE.search(text)] == []


def test_formulas_are_mathml_and_not_tex(pages: dict[str, str]) -> None:
    for name, source in SOURCES.items():
        text, page = source.read_text(), pages[name]
        blocks = re.findall(r"(?s)\$\$.+?\$\$", text)
        assert page.count('display="block"') == len(blocks), name
        assert bool(blocks) or "$" not in text or 'display="inline"' in page, name
        assert not re.search(r"\\(frac|varphi|lambda|sum|\(|\[)", page), name
    assert "<mi>&#x003BB;</mi>" in pages["equilibria"]  # λ


def test_the_reference_lists_every_public_name_once() -> None:
    (bridge,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((DOCS.parent / "nn_bridge" / "__init__.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    names = [f"evodyn.{name}" for name in ed.__all__] + [f"nn_bridge.{name}" for name in bridge]
    listed = re.findall(r"(?m)^   ((?:evodyn|nn_bridge)\.\w+)$", SOURCES["reference"].read_text())
    assert sorted(listed) == sorted(names)


def test_notebooks_run_from_start_to_end_and_show_what_they_found(pages: dict[str, str]) -> None:
    """A cell that fails ends the build; what the others put out is on the pages."""
    files = sorted((DOCS / "notebooks").glob("*.ipynb"))
    assert [file.stem for file in files] == ["forecast", "own_landscape"]
    for file in files:
        cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
        assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "is saved as it ran"
        page = pages[f"notebooks/{file.stem}"]
        assert page.count("data:image/png") >= 2 and "Traceback" not in page and "Warning" not in page
    own, forecast = pages["notebooks/own_landscape"], pages["notebooks/forecast"]
    assert "<strong>Run</strong>" in own and "3 of 5 at the end" in own
    assert "asymptotically stable" in own
    # The sweep: where the resources are alike or tastes differ, both specialists live.
    rows = re.findall(r"<th>(\d+\.\d+)</th>\s*<td>(\d)</td>\s*<td>(\d)</td>", own)
    assert rows == [("0.25", "1", "2"), ("1.00", "2", "2"), ("4.00", "1", "2"), ("16.00", "1", "2")]
    (held,) = re.findall(r"([\d.]+)% of \d+ intervals hold the truth", forecast)
    assert 92 < float(held) < 98


def test_every_study_has_a_page_with_its_figures_and_their_captions(pages: dict[str, str]) -> None:
    studies = {script.stem for script in (DOCS.parent / "studies").glob("*.py") if script.stem[0] != "_"}
    found = {name.partition("/")[2] for name in pages if name.startswith("studies/")}
    assert found == studies
    shown = [
        figure for name in found for figure in re.findall(r"_images/(\w+)\.png", pages[f"studies/{name}"])
    ]
    assert {*shown} == {picture.stem for picture in (DOCS / "images").glob("*.png")}
    for name in found:
        page = pages[f"studies/{name}"]
        figures = set(re.findall(r'<img alt="[^"]+" src="\.\./_images/(\w+)', page))
        captions = re.findall(r"<figcaption>(.{80,}?)</figcaption>", page, re.DOTALL)
        assert len(captions) == len(figures) > 0
        assert f"make {name} " in re.sub("<[^>]+>", "", page)  # which tells words from spaces by spans


def test_code_can_be_copied_without_its_prompts(pages: dict[str, str]) -> None:
    assert all("_static/copy.js" in page for name, page in pages.items() if name in SOURCES)


def test_the_gallery_shows_every_plot_and_every_study_figure() -> None:
    text = SOURCES["gallery"].read_text()
    assert set(re.findall(r"ed\.plots\.(\w+)\(", text)) == set(ed.plots.__all__)
    figures = {script.stem for script in (DOCS.parent / "paper_figures").glob("*.py")} - {
        "_index",
        "style",
        "tables",
    }
    assert set(re.findall(r"images/(\w+)\.png", text)) == figures
    assert {picture.stem for picture in (DOCS / "images").glob("*.txt")} == figures
