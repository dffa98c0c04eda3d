"""The path of a newcomer: the tutorial on a landscape of one's own, run as a script in an empty folder."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "learn" / "your_landscape.md"


@pytest.fixture(scope="module")
def code() -> str:
    """All that the page has its reader type, and nothing else."""
    pytest.importorskip("joblib", reason="sweeps need the studies extra")
    pytest.importorskip("matplotlib", reason="pictures need the plots extra")
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE.read_text())
    parser = doctest.DocTestParser()
    return "".join(example.source for block in blocks for example in parser.get_examples(block))


@pytest.fixture(scope="module")
def folder(code: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the page's code has run as a script, and where its temporary files are too."""
    here = tmp_path_factory.mktemp("newcomer")
    (here / "path.py").write_text(code)
    environment = os.environ | {"MPLBACKEND": "Agg", "TMPDIR": str(here), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "path.py"], cwd=here, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    (here / "printed.txt").write_text(result.stdout)
    return here


def test_the_page_asks_for_no_inner_names(code: str) -> None:
    assert "import evodyn as ed" in code
    assert not re.search(r"from evodyn|import evodyn\.|\bed\.\w*\._|\bed\._", code)


def test_the_plot_of_extinctions_is_a_picture(folder: Path) -> None:
    (picture,) = folder.rglob("extinctions.png")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000


def test_the_table_says_who_survives_by_theory(folder: Path) -> None:
    """At rest p_i = K (c_i/φ - 1) for those with c_i above the common fitness φ, which the total fixes."""
    (file,) = folder.rglob("extinctions.csv")
    table = pd.read_csv(file)
    quality, half, total = np.array([1.0, 0.8, 0.6, 0.3, 0.1]), 2.0, 5.0
    for living in range(1, 6):  # the fittest come first
        common = quality[:living].sum() / (living + total / half)
        if living == 5 or common >= quality[living]:
            break
    exact = np.maximum(half * (quality / common - 1), 0.0)
    assert living == 3
    np.testing.assert_array_equal(table.contribution, quality)
    np.testing.assert_allclose(table.end_mass, exact, atol=1e-4)
    np.testing.assert_array_equal(table.extinct_at_end, exact == 0)
    assert np.isinf(table.extinction_time[exact > 0]).all()


def test_the_sweep_left_a_file_for_each_point_and_printed_them(folder: Path) -> None:
    assert len(list(folder.rglob("sweep/*.nc"))) == 6
    rows = re.findall(r"\[(\d+) (\d+)\]", (folder / "printed.txt").read_text())
    low, middle, high = (int(right) for _, right in rows)  # heterogeneity 0.1, 0.5, 1 where crowding is weak
    assert high < middle < low == 50
