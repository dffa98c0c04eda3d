"""The study of inference: what it saves agrees with direct fits, and its intervals with the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from evodyn.extinction_theory import exact_extinction_times
from evodyn.inference import fit_fitness
from tests.scripts import module

STUDY = module("studies/inference.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, str]:
    """A smoke run: its data and what it printed."""
    folder: Path = tmp_path_factory.mktemp("inference")
    command = STUDY._shared.command_line(STUDY.main)
    spread = ["--heterogeneity", "0.2", "--heterogeneity", "0.05"]
    result = CliRunner().invoke(command, ["--out", str(folder), "--smoke", *spread])
    assert result.exit_code == 0, result.output
    data = xr.load_dataset(folder / "inference.nc", engine="h5netcdf", decode_times=False)
    return data, result.stdout


def test_saved_estimates_are_those_of_a_fit_to_the_part_that_was_seen(
    finished: tuple[xr.Dataset, str],
) -> None:
    data, printed = finished
    point = STUDY.Surveyed("gaussian", 0.2, groups=6, member=1)
    times, counts = point.counts()
    assert (counts.sum(axis=1) == point.sample).all()
    fit = fit_fitness(times[:13], counts[:13])
    cell = data.sel(heterogeneity=0.2, seed=1, part=0.3)
    assert float(cell.heterogeneity_low) == fit.heterogeneity.low
    np.testing.assert_array_equal(cell.extinction_time_high, fit.extinction_times(1e-2 / 6).high)
    c = point.contribution()
    assert float(cell.true_heterogeneity) == c.std(ddof=1)
    np.testing.assert_array_equal(cell.true_extinction_time, exact_extinction_times(c, np.ones(6), 1e-2))
    assert "BA.1 fell below 0.001 in week 27" in printed
    assert not [line for line in printed.splitlines() if len(line.rstrip()) > 80 and "inference." not in line]


def test_more_of_the_record_says_more(finished: tuple[xr.Dataset, str]) -> None:
    data, _ = finished
    small = data.sel(heterogeneity=0.05).mean("seed")
    width = (small.heterogeneity_high - small.heterogeneity_low).values
    assert width[0] > 3 * width[-1] and (np.diff(width) < 0).all()
    error = small.time_error.values
    assert error[0] > 3 * error[-1] > 0
    assert float(data.time_held.mean()) > 0.85
    assert all({"long_name", "units"} <= set(v.attrs) for v in data.variables.values())
    # A time that is predicted lies within its interval.
    inside = (data.extinction_time_low <= data.extinction_time_value) & (
        data.extinction_time_value <= data.extinction_time_high
    )
    assert bool(inside.all())


def test_lineages_replace_one_another(finished: tuple[xr.Dataset, str]) -> None:
    data, _ = finished
    last = data.isel(last_week=-1)
    assert (np.diff(last.fitness_value.values) > 0).all()
    np.testing.assert_allclose(data.share.sum("lineage"), 1.0)
    np.testing.assert_allclose(data.predicted_share_value.sum("lineage"), 1.0)
