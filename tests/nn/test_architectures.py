"""The study of architectures, in small: what it saves agrees with formulas, and prints within a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts import caption, fits, module, saved, study

pytestmark = pytest.mark.nn

STUDY = module("studies/architectures.py")


def test_the_study_halves_networks_and_counts_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STUDY, "SMOKE", {"epochs": 1, "samples": 128, "tests": 50})
    monkeypatch.setattr(STUDY, "SPARSITIES", [0.0, 0.5])
    names = ["LeNet-5", "transformer"]
    out, _ = study("architectures", tmp_path, "--smoke", *(f"--network={name}" for name in names))
    assert fits(out, "architectures")
    data, rows = saved(tmp_path, "architectures")
    lenet, transformer = ({key: float(row[key]) for key in row if key != "network"} for row in rows)
    assert [row["network"] for row in rows] == names
    assert (lenet["groups_before"], lenet["groups_after"]) == (226, 113)
    filters, units = (6, 16), (120, 84)
    for size, by in (("before", 1), ("after", 2)):
        (a, b), (c, d) = (n // by for n in filters), (n // by for n in units)
        weights = 25 * a + 25 * a * b + 25 * b * c + c * d + 10 * d
        assert lenet[f"parameters_{size}"] == weights + a + b + c + d + 10
        convolved = 28**2 * 25 * a + 10**2 * 25 * a * b
        assert lenet[f"macs_{size}"] == convolved + 25 * b * c + c * d + 10 * d
        # 28 rows: projections, attention over them, and the units, in two layers; embedding and output.
        inner, hidden = 32 // by, 64 // by
        layer = 28 * (4 * 32 * inner + 2 * 32 * hidden) + 2 * 28**2 * inner
        assert transformer[f"macs_{size}"] == 28 * 28 * 32 + 2 * layer + 320
    for name in names:
        run = data.sel(network=name, seed=0)
        # Without any removal the accuracy is that after selection; removed physically or at mass 0, the same.
        assert float(run.by_mass[0]) == float(run.at_random[0]) == float(run.accuracy.sel(stage="selected"))
        assert float(run.by_mass[1]) == pytest.approx(float(run.accuracy.sel(stage="removed")), abs=0.021)
        assert ((run.in_one_training > 0) & (run.in_one_training <= 1)).all()
        assert (run.latency > 0).all() and (run.file_bytes > 4 * run.parameters).all()
    text = caption("architectures", tmp_path)
    assert "50 % of every layer" in text and "LeNet-5" in text
