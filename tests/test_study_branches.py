"""The study of branches: closed forms that it compares with, and what a smoke run finds of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import evodyn as ed
from tests.scripts import module

STUDY = module("studies/branches.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, str]:
    """A smoke run: its data and what it printed."""
    folder: Path = tmp_path_factory.mktemp("branches")
    command = STUDY._shared.command_line(STUDY.main)
    result = CliRunner().invoke(command, ["--out", str(folder), "--smoke"])
    assert result.exit_code == 0, result.output
    return xr.load_dataset(folder / "branches.nc", engine="h5netcdf", decode_times=False), result.stdout


def test_the_closed_forms_are_rest_points() -> None:
    for game, values in STUDY.SPLIT.items():
        for parameter in values:
            dynamics, landscape = STUDY.GAMES[game](parameter)
            share = STUDY.separatrix(game, parameter)
            masses = np.array([share, 1 - share])
            assert dynamics.velocity(masses, landscape(0.0, masses)) == pytest.approx([0, 0], abs=1e-14)
            # Just beside it the flow leads away.
            for side in (-1e-3, 1e-3):
                moved = masses + np.array([side, -side])
                assert dynamics.velocity(moved, landscape(0.0, moved))[0] * side > 0
    # Beyond the fold one attractor is left.
    high = STUDY.fold("conventions")
    rest = [
        ed.equilibrium(*STUDY.conventions(1.01 * high), start=start).masses
        for start in ([0.01, 0.99], [0.9, 0.1])
    ]
    assert rest[0] == pytest.approx(rest[1], rel=1e-6)


def test_branches_pass_where_the_closed_forms_say(finished: tuple[xr.Dataset, str]) -> None:
    data, printed = finished
    first = data.passage_parameter.isel(passage=0)
    assert float(first.sel(branch="hawks")) == pytest.approx(2.0, abs=1e-9)
    assert float(first.sel(branch="hawks and doves")) == pytest.approx(2.0, abs=1e-9)
    assert float(first.sel(branch="cooperation")) == pytest.approx(0.25, abs=1e-9)
    assert float(first.sel(branch="second convention")) == pytest.approx(STUDY.fold("conventions"), rel=1e-8)
    fitted = data.sel(branch="cooperation").dropna("step")
    x, stable = fitted.share.values, fitted.stable.values
    assert x * (1 - x) == pytest.approx(fitted.parameter.values, abs=1e-8)
    assert ((stable == 1) == (x > 0.5)).all()
    exact = data.decay_extinct_exact.values
    assert np.isfinite(exact).sum() > 5
    np.testing.assert_allclose(data.decay_extinct.values, exact, rtol=1e-8)
    assert "intervals (95 %) of basins hold the closed form" in printed
    assert not [line for line in printed.splitlines() if len(line.rstrip()) > 80 and "branches." not in line]


def test_masses_at_rest_are_water_filling(finished: tuple[xr.Dataset, str]) -> None:
    cell = finished[0].isel(seed=1)
    c = cell.contribution.values
    for level in (0, 5, 10):
        decay, masses = float(cell.decay[level]), cell.mass.values[level]
        landscape = ed.landscapes.LinearDecay(c, decay)
        exact = ed.equilibrium(ed.Replicator(), landscape, total_mass=float(len(c))).masses
        np.testing.assert_allclose(masses, exact, atol=1e-7)
