"""The study of mass trajectories: its data and its table against closed forms computed here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.special import softmax

import evodyn as ed
from tests.scripts import caption, fits, module, saved, study

NAME = "trajectories"
STUDY = module(f"studies/{NAME}.py")


def run(folder: Path, *options: str) -> tuple[xr.Dataset, list[dict[str, str]], str, str]:
    """Run the study at its smallest: its data, the rows of its table, and what it printed where."""
    printed = study(NAME, folder, "--smoke", *options)
    return *saved(folder, NAME), *printed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, list[dict[str, str]], str]:
    """The smoke run: its data, the rows of its table, and what it printed."""
    data, rows, out, _ = run(tmp_path_factory.mktemp("trajectories"))
    return data.isel(member=0), rows, out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset, list[dict[str, str]], str]:
    """The smoke run with two populations and two processes."""
    folder = tmp_path_factory.mktemp("two")
    data, rows, out, err = run(folder, "--seeds", "2", "--workers", "2")
    assert "0 of 12 points reused" in err
    return folder, data, rows, out


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
    assert fits(out, NAME)


def test_the_first_of_two_populations_is_the_only_one_and_processes_change_nothing(
    finished: Any, two: Any
) -> None:
    _, data, rows, _ = two
    assert list(data.dynamics.values) == ["replicator", "normalized_growth", "selection_mutation"]
    assert data.contribution.dims == ("member", "group")
    xr.testing.assert_equal(data.isel(member=0), finished[0])
    assert [row for row in rows if row["member"] == "0"] == finished[1]
    assert len(rows) == 2 * len(finished[1])
    growth = ed.NormalizedGrowth(mass_cap=10.0, signal_clip=0.3)
    direct = STUDY.trajectory(STUDY.Trajectory(dynamics=growth, groups=10, member=1))
    cell = data.sel(member=1, decay=0.3, dynamics="normalized_growth")
    for name, variable in direct.data_vars.items():
        np.testing.assert_array_equal(cell[name], variable)
    assert not np.isin(direct.contribution, finished[0].contribution).any()


def test_a_second_run_reuses_what_is_there_unless_told_otherwise(two: Any, tmp_path: Path) -> None:
    folder, data, *_ = two
    shutil.copytree(folder / "points", tmp_path / "points")
    for gone in list(tmp_path.glob("points/*.nc"))[:3]:
        gone.unlink()
    again, *_, err = run(tmp_path, "--seeds", "2")
    assert "9 of 12 points reused" in err
    xr.testing.assert_equal(again, data)
    *_, err = run(tmp_path, "--fresh")  # of which all are there
    assert "0 of 6 points reused" in err


def test_the_table_shows_the_worst_difference_of_all_populations(two: Any) -> None:
    _, _, rows, out = two
    assert "The first of 2 populations" in out
    checked = 0
    for line in out.splitlines():
        for quantity, worst in (
            ("earliest extinction", min),  # a lower bound, which no population may break
            ("total mass, largest", max),
            ("largest mass at the end", lambda found: max(found, key=abs)),
        ):
            if quantity in line:
                decay, equation, *_, simulation, difference = line.split()
                name = {"6": "replicator", "7": "normalized_growth", "8": "selection_mutation"}[equation]
                first, second = (
                    row
                    for row in rows
                    if (float(row["decay"]), row["dynamics"]) == (float(decay), name)
                    and row["quantity"] == quantity
                )
                assert difference == f"{worst([float(row['difference']) for row in (first, second)]):+.1e}"
                assert simulation == f"{float(first['simulation']):.4g}"
                checked += 1
    assert checked == 8


def test_another_seed_draws_another_population(tmp_path: Path, finished: Any) -> None:
    other = run(tmp_path, "--seed", "1")[0].contribution
    assert not np.isin(other, finished[0].contribution).any()


def test_the_figure_tells_of_several_populations(two: Any) -> None:
    told = caption(NAME, two[0])
    assert "10 groups" in told
    assert "The first of 2 populations." in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--decay", "0"), "decay is 0.0"),
        (("--threshold", "1"), "threshold is 1.0"),
        (("--kind", "normal"), "kind is 'normal'"),
        (("--decay", "-1"), "decay is -1.0"),
        (("--mutation-rate", "0"), "mutation_rate is 0.0"),
        (("--t-end", "inf"), "t_end is inf"),
        (("--signal-clip", "0"), "signal_clip is 0.0"),
        (("--seeds", "0"), "seeds"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    _, err = study(NAME, tmp_path, *arguments, code=2)
    assert words in err
    assert not list(tmp_path.glob("*"))
