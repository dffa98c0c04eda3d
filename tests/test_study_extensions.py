"""The study of the extensions: theory and simulation agree, and the table and figure tell it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.scripts import caption, fits, module, saved, study

NAME = "extensions"
STUDY = module(f"studies/{NAME}.py")
TWO = ("--smoke", "--seeds", "2")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The smoke run with two populations and two processes: its folder and what it printed where."""
    folder = tmp_path_factory.mktemp("two")
    return folder, *study(NAME, folder, *TWO, "--workers", "2")


@pytest.fixture(scope="module")
def data(two: tuple[Path, str, str]) -> xr.Dataset:
    return saved(two[0], NAME)[0].isel(member=0)


def test_theory_and_simulation_agree(two: tuple[Path, str, str]) -> None:
    rows, out = saved(two[0], NAME)[1], two[1]
    assert {row["part"] for row in rows} == {"redundancy", "schedule", "objectives", "layers"}
    for row in rows:
        # The balance is only nearly followed by a rate that falls.
        allowed = 1e-3 if row["quantity"] == "annealed μ: mean fitness" else 2e-5
        assert abs(float(row["difference"])) < allowed * max(1.0, abs(float(row["theory"]))), row
        assert row["quantity"] in out
    assert fits(out, NAME)


def test_the_first_of_two_populations_is_the_only_one_and_processes_change_nothing(
    two: tuple[Path, str, str], tmp_path: Path
) -> None:
    shutil.copytree(two[0] / "points", tmp_path / "points")
    _, err = study(NAME, tmp_path, "--smoke")
    assert "4 of 4 points reused" in err
    alone, its_rows = saved(tmp_path, NAME)
    both, rows = saved(two[0], NAME)
    assert both.sizes["member"] == 2
    xr.testing.assert_equal(both.isel(member=[0]), alone)
    for name in ("slowest", "orbit", "kept", "level"):  # nothing was drawn for these
        assert "member" not in both[name].dims
    for name in ("distance", "mean_fitness", "mean_cost", "mean_benefit_curve"):
        assert both[name].dims[0] == "member"
        assert not np.allclose(both[name][0], both[name][1], rtol=1e-3, atol=0)
    assert [row for row in rows if row["member"] == "0"] == its_rows
    assert {row["part"] for row in rows if row["member"] == "1"} == {"redundancy", "schedule", "objectives"}
    direct = STUDY.extension(STUDY.Extension("redundancy", saved_times=101, member=1))
    np.testing.assert_array_equal(both.distance[1], direct.distance[0])
    np.testing.assert_array_equal(
        [float(row["simulation"]) for row in rows if (row["part"], row["member"]) == ("redundancy", "1")],
        direct.simulation,
    )


def test_the_table_shows_the_largest_difference_of_all_populations(two: tuple[Path, str, str]) -> None:
    rows = saved(two[0], NAME)[1]
    assert "The first of 2 populations" in two[1]
    ahead = set()
    for quantity in ("constant μ: mean fitness", "annealed μ: mean fitness", "w = 2.5: mean cost"):
        (line,) = (line for line in two[1].splitlines() if quantity in line)
        same = [float(row["difference"]) for row in rows if row["quantity"] == quantity]
        assert len(same) == 2
        assert line.split()[-1] == f"{max(same, key=abs):+.1e}"
        ahead.add(same.index(max(same, key=abs)))
    assert ahead == {0, 1}  # so that taking either population's would be seen


def test_a_second_run_computes_nothing_and_gives_the_same(two: tuple[Path, str, str]) -> None:
    before = saved(two[0], NAME)[0]
    out, err = study(NAME, two[0], *TWO)
    assert "0 of 7 points reused" in two[2]
    assert "7 of 7 points reused" in err
    assert out == two[1]
    xr.testing.assert_equal(saved(two[0], NAME)[0], before)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"part": "games"}, "part is 'games'"),
        ({"heterogeneity": -0.5}, "heterogeneity is -0.5"),
        ({"decay": 0.0}, "decay is 0.0"),
        ({"mutation_rate": float("nan")}, "mutation_rate is NaN"),
    ],
)
def test_bad_points_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        STUDY.Extension(**{"part": "layers"} | values)


def test_bad_options_are_named(tmp_path: Path) -> None:
    _, err = study(NAME, tmp_path, "--decay", "-1", code=2)
    assert "decay is -1.0" in err
    assert not list(tmp_path.glob("*"))


def test_redundancy_moves_what_equal_fitness_leaves_at_rest(data: xr.Dataset) -> None:
    rest, moving = data.distance.sel(fitness="neutral"), data.distance.sel(fitness="redundancy")
    np.testing.assert_allclose(rest, np.broadcast_to(rest.values[:, :1], rest.shape), rtol=1e-12)
    assert (moving[:, -1] < 1e-6).all()
    assert (rest[:, 0] > 0.1).all()


def test_a_falling_rate_ends_fitter_than_a_constant_one_and_begins_more_diverse_than_none(
    data: xr.Dataset,
) -> None:
    final = data.mean_fitness.isel(schedule_time=-1)
    assert float(final.sel(schedule="annealed")) > float(final.sel(schedule="constant")) + 0.05
    middle = data.effective_groups.sel(schedule_time=20.0, method="nearest")
    assert float(middle.sel(schedule="annealed")) > 1.2 * float(middle.sel(schedule="none"))


def test_weighing_cost_lowers_it_and_no_point_beats_another(data: xr.Dataset) -> None:
    assert (np.diff(data.mean_cost) < 0).all()
    assert (np.diff(data.mean_benefit) < 0).all()
    np.testing.assert_allclose(
        data.mean_cost, np.interp(data.weight, data.fine_weight, data.mean_cost_curve), rtol=2e-3
    )


def test_layers_circle_without_regularisation_and_settle_with_it(data: xr.Dataset) -> None:
    free, damped = data.orbit.sel(regularisation="without"), data.orbit.sel(regularisation="with")
    product = (free * (1 - free)).prod("layer")
    np.testing.assert_allclose(product, np.broadcast_to(product.values[:, :1], product.shape), rtol=1e-8)
    assert float(abs(free[:, -100:] - 0.5).max()) > 0.3
    assert float(abs(damped[:, -1] - 0.5).max()) < 0.05


def test_the_figure_is_drawn_from_saved_data(two: tuple[Path, str, str]) -> None:
    told = caption(NAME, two[0])
    for words in ("24 groups", "The first of 2 populations."):
        assert words in told
