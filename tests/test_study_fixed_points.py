"""The study of fixed points: its smoke run against theory, its table, and its figure."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.scripts import call, smoke_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return smoke_run("fixed_points", tmp_path_factory)


@pytest.fixture(scope="module")
def data(finished: tuple[Path, str]) -> xr.Dataset:
    return xr.load_dataset(finished[0] / "fixed_points.nc", engine="h5netcdf", decode_times=False)


def test_integration_ends_at_the_rest_points(finished: tuple[Path, str], data: xr.Dataset) -> None:
    theory, simulated = data.theory_mass.values, data.simulated_mass.values
    difference = np.nanmax(np.abs(theory - simulated), axis=1) / np.nanmax(theory, axis=1)
    np.testing.assert_allclose(difference, data.difference.values, rtol=1e-12, atol=1e-300)
    assert difference.max() < 1e-10
    with (finished[0] / "fixed_points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(difference) == 45
    # Every dynamics on every family, Eq. 5 without comparison where it has a rest point; none in closed form.
    assert len({row["dynamics"] for row in rows}) == 7
    assert len({row["landscape"] for row in rows}) == 7
    assert all(row["integrator"] != "closed_form" and float(row["residual"]) < 1e-12 for row in rows)
    # There was some way to go, and groups died on it.
    assert min(float(row["way"]) for row in rows) > 1e-3
    assert any(0 < int(row["survivors"]) < int(row["groups"]) for row in rows)


def test_a_rest_point_is_at_rest_by_hand(data: xr.Dataset) -> None:
    masses = data.simulated_mass.sel(case="Replicator: LinearDecay").dropna("group").values
    fitness = data.theory_mean_fitness.sel(case="Replicator: LinearDecay").item()
    # Water filling: c = φ̄ + λp for survivors gives back contributions; the dead have none.
    assert masses.sum() == pytest.approx(len(masses), rel=1e-12)
    logistic = data.simulated_mass.sel(case="Selection: Entropic").dropna("group").values
    assert (logistic > 0).all()
    assert fitness < 1.5


def test_every_verdict_is_borne_out(finished: tuple[Path, str], data: xr.Dataset) -> None:
    names = str(data.verdict.attrs["flag_meanings"]).split()
    verdicts = np.array([names[code] for code in data.verdict.values])
    ratio = data.perturbation_ratio.values
    assert (ratio[verdicts == "STABLE"] < 0.1).all()
    assert (ratio[verdicts == "UNSTABLE"] > 10).all()
    assert ((ratio[verdicts == "NEUTRAL"] > 0.1) & (ratio[verdicts == "NEUTRAL"] < 10)).all()
    assert {"STABLE", "UNSTABLE", "NEUTRAL"} == set(verdicts)
    expected = {
        "hawk and dove": ["UNSTABLE", "UNSTABLE", "STABLE"],
        "coordination": ["STABLE", "STABLE", "UNSTABLE"],
        "rock-paper-scissors, inward": ["UNSTABLE"] * 3 + ["STABLE"],
        "rock-paper-scissors, zero-sum": ["UNSTABLE"] * 3 + ["NEUTRAL"],
        "rock-paper-scissors, outward": ["UNSTABLE"] * 4,
        "neutral game": ["NEUTRAL"] * 7,
    }
    for case, wanted in expected.items():
        mine = [str(label).startswith(f"{case}:") for label in data.judged.values]
        assert list(verdicts[mine]) == wanted
    assert f"{len(ratio)} of {len(ratio)} verdicts are borne out" in finished[1]


def test_the_flows_of_the_figure(data: xr.Dataset) -> None:
    np.testing.assert_allclose(data.node.values.sum(axis=1), 1, rtol=1e-14)
    assert (data.node.values > 0).all()
    np.testing.assert_allclose(data.field.values.sum(axis=-1), 0, atol=1e-14)
    paths = data.path.values
    drawn = np.isfinite(paths).all(axis=(2, 3))
    assert drawn.any(axis=1).all()
    np.testing.assert_allclose(paths[drawn].sum(axis=-1), 1, atol=1e-9)
    # The zero-sum orbit conserves the product of the shares; the inward spiral ends at its centre.
    zero_sum = data.path.sel(panel="zero-sum: win 1").dropna("trajectory").values
    product = zero_sum.prod(axis=-1)
    np.testing.assert_allclose(product, product[:, :1] * np.ones(product.shape[1]), rtol=1e-6)
    inward = data.path.sel(panel="inward: win 1.5").dropna("trajectory").values
    assert np.abs(inward[:, -1] - 1 / 3).max() < np.abs(inward[:, 0] - 1 / 3).max() / 50
    water = data.rest_point.sel(panel="Eq. 10, water filling").values
    names = str(data.stability.attrs["flag_meanings"]).split()
    stable = data.stability.sel(panel="Eq. 10, water filling").values == names.index("STABLE")
    np.testing.assert_allclose(water[stable], [[0.75, 0.25, 0.0]], atol=1e-15)
    modes = data.eigenvalue.sel(panel="outward: win 0.5").values[3]
    np.testing.assert_allclose(modes[:, 0], 1 / 12, rtol=1e-12)
    np.testing.assert_allclose(np.abs(modes[:, 1]), 1.5 * 3**0.5 / 6, rtol=1e-12)


def test_what_is_written_says_what_it_is(finished: tuple[Path, str], data: xr.Dataset) -> None:
    assert all({"long_name", "units"} <= set(variable.attrs) for variable in data.variables.values())
    assert json.loads(data.attrs["specification"])["study"] == "fixed_points"
    assert "revision" in json.loads(data.attrs["provenance"])
    long = [line for line in finished[1].splitlines() if len(line) > 80 and "fixed_points." not in line]
    assert long == []
    assert "…" not in finished[1]


def test_the_figure_is_drawn_beside_its_data(finished: tuple[Path, str]) -> None:
    call("paper_figures/simplex.py", finished[0])
    assert all((finished[0] / f"simplex.{kind}").stat().st_size > 500 for kind in ("pdf", "png", "txt"))
