"""The study of mass trajectories: its data and its table against closed forms computed here."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.special import softmax
from typer.testing import CliRunner

from tests.scripts import command_line

COMMAND = command_line("trajectories")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, list[dict[str, str]], str]:
    """The smoke run: its data, the rows of its table, and what it printed."""
    folder = tmp_path_factory.mktemp("trajectories")
    result = CliRunner().invoke(COMMAND, ["--smoke", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    data = xr.load_dataset(folder / "trajectories.nc", engine="h5netcdf", decode_times=False)
    with (folder / "trajectories.csv").open(newline="") as file:
        return data, list(csv.DictReader(file)), result.stdout


def value(rows: list[dict[str, str]], decay: float, dynamics: str, quantity: str, column: str) -> float:
    (row,) = (
        row
        for row in rows
        if (float(row["decay"]), row["dynamics"], row["quantity"]) == (decay, dynamics, quantity)
    )
    return float(row[column])


def test_masses_with_constant_fitness_are_the_softmax_of_growth(finished: Any) -> None:
    data, rows, _ = finished
    c, t = data.contribution.values, data.time.values
    run = data.sel(decay=0.0, dynamics="replicator")
    expected = len(c) * softmax(np.outer(t, c), axis=1)
    np.testing.assert_allclose(run.mass.values, expected, rtol=1e-5, atol=1e-15)
    died = run.extinction_time.values
    assert np.isinf(died[c.argmax()])
    for group in np.flatnonzero(np.isfinite(died)):
        at = len(c) * softmax(died[group] * c)[group]
        assert at == pytest.approx(1e-3, rel=1e-6)
    assert abs(value(rows, 0.0, "replicator", "worst extinction time", "difference")) < 1e-6
    assert value(rows, 0.0, "replicator", "last extinction", "simulation") == died[np.isfinite(died)].max()


def test_the_clip_bounds_every_rate_and_the_cap_the_mass(finished: Any) -> None:
    data, _, _ = finished
    clip = json.loads(data.attrs["specification"])["signal_clip"]
    t = data.time.values[:, None]
    for decay in data.decay.values:
        mass = data.mass.sel(decay=decay, dynamics="normalized_growth").values
        assert (mass.sum(1) <= mass.shape[1] * (1 + 1e-12)).all()
        assert (np.log(mass) >= -2 * clip * t - 1e-7).all()
        assert (np.log(mass) <= clip * t + 1e-7).all()
    # Without the clip groups fall faster than that: the bound says something.
    free = data.mass.sel(decay=0.0, dynamics="replicator").values
    assert (np.log(free) < -2 * clip * t - 1e-7).any()
    assert (data.gap_to_normalized_growth.sel(dynamics="replicator") < 1e-6).all()


def test_mutation_keeps_every_mass_above_its_floor(finished: Any) -> None:
    data, rows, _ = finished
    rate = json.loads(data.attrs["specification"])["mutation_rate"]
    c = data.contribution.values
    run = data.sel(decay=0.0, dynamics="selection_mutation")
    rest = run.equilibrium_mass.values
    level = c + rate / rest  # Λ is the same for every group
    np.testing.assert_allclose(level, level[0], rtol=1e-9)
    np.testing.assert_allclose(rest.sum(), len(c), rtol=1e-9)
    np.testing.assert_allclose(run.mass.values[-1], rest, rtol=1e-3)
    lowest = value(rows, 0.0, "selection_mutation", "smallest mass at the end", "simulation")
    assert lowest == run.mass.values[-1].min() >= (rate / (c.max() + rate - c)).min()
    # With mutation fewer die, and those that do are the ones that theory names.
    dead = rest < 1e-3
    np.testing.assert_array_equal(run.mass.values[-1] < 1e-3, dead)
    assert 0 < dead.sum() < np.isfinite(data.extinction_time.sel(decay=0.0, dynamics="replicator")).sum()


def test_the_rest_under_eq_10_is_water_filling(finished: Any) -> None:
    data, _, out = finished
    run = data.sel(dynamics="replicator").isel(decay=1)
    rest, decay = run.equilibrium_mass.values, float(run.decay)
    fitness = data.contribution.values - decay * rest
    level = fitness[rest > 0]
    np.testing.assert_allclose(level, level[0], rtol=1e-9)
    assert (fitness[rest == 0] <= level[0]).all()
    assert not (np.isfinite(run.extinction_time.values) & (rest > 1e-3)).any()
    np.testing.assert_allclose(run.mass.values[-1], rest, atol=0.02)
    assert [line for line in out.splitlines() if len(line) > 80 and "trajectories." not in line] == []
    assert "…" not in out


def test_the_same_seed_gives_the_same_and_another_does_not(tmp_path: Path, finished: Any) -> None:
    arguments = ["--smoke", "--out", str(tmp_path), "--seed"]
    for seed, same in (("0", True), ("1", False)):
        assert CliRunner().invoke(COMMAND, [*arguments, seed]).exit_code == 0
        again = xr.load_dataset(tmp_path / "trajectories.nc", engine="h5netcdf", decode_times=False)
        assert again.equals(finished[0]) is same


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--decay", "0"), "decay is 0.0"),
        (("--threshold", "1"), "threshold is 1.0"),
        (("--kind", "normal"), "kind is 'normal'"),
        (("--mutation-rate", "-1"), "mutation_rate is -1.0"),
        (("--signal-clip", "0"), "signal_clip is 0.0"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(COMMAND, ["--out", str(tmp_path), *arguments])
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert not list(tmp_path.glob("*"))
