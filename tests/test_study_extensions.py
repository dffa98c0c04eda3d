"""The study of the extensions: theory and simulation agree, and the table and figure tell it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.scripts import call, smoke_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return smoke_run("extensions", tmp_path_factory)


@pytest.fixture(scope="module")
def data(finished: tuple[Path, str]) -> xr.Dataset:
    return xr.load_dataset(finished[0] / "extensions.nc", engine="h5netcdf", decode_times=False)


def test_theory_and_simulation_agree(finished: tuple[Path, str]) -> None:
    with (finished[0] / "extensions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["part"] for row in rows} == {"redundancy", "schedule", "objectives", "layers"}
    for row in rows:
        # The balance is only nearly followed by a rate that falls.
        allowed = 1e-3 if row["quantity"] == "annealed μ: mean fitness" else 2e-5
        assert abs(float(row["difference"])) < allowed * max(1.0, abs(float(row["theory"]))), row
        assert row["quantity"] in finished[1]
    assert "…" not in finished[1]
    assert max(len(line) for line in finished[1].splitlines() if "extensions." not in line) <= 80


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
    assert (np.diff(data.mean_accuracy) < 0).all()
    np.testing.assert_allclose(
        data.mean_cost, np.interp(data.weight, data.fine_weight, data.mean_cost_curve), rtol=2e-3
    )


def test_layers_circle_without_regularisation_and_settle_with_it(data: xr.Dataset) -> None:
    free, damped = data.orbit.sel(regularisation="without"), data.orbit.sel(regularisation="with")
    product = (free * (1 - free)).prod("layer")
    np.testing.assert_allclose(product, np.broadcast_to(product.values[:, :1], product.shape), rtol=1e-8)
    assert float(abs(free[:, -100:] - 0.5).max()) > 0.3
    assert float(abs(damped[:, -1] - 0.5).max()) < 0.05


def test_the_figure_is_drawn_from_saved_data(finished: tuple[Path, str]) -> None:
    call("paper_figures/extensions.py", finished[0])
    assert (finished[0] / "extensions.pdf").read_bytes().startswith(b"%PDF")
    assert "24 groups" in (finished[0] / "extensions.txt").read_text()
