"""The study of fixed points: its smoke run against theory, its table, and its figure."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import evodyn as ed
from evodyn.tasks import fixed_points
from evodyn.tasks.fixed_points import PAIRS, Classic, Pair, confront, judge
from tests.scripts import call, command_line, smoke_run

COMMAND = command_line("fixed_points")


def loaded(folder: Path) -> xr.Dataset:
    return xr.load_dataset(folder / "fixed_points.nc", engine="h5netcdf", decode_times=False)


def again(folder: Path, *arguments: str) -> tuple[str, str]:
    """Run the smoke run in this process; return what it printed and what it logged."""
    result = CliRunner().invoke(COMMAND, ["--smoke", "--out", str(folder), *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout, "".join(result.stderr.split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return smoke_run("fixed_points", tmp_path_factory)


@pytest.fixture(scope="module")
def data(finished: tuple[Path, str]) -> xr.Dataset:
    return loaded(finished[0])


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
    # There was some way to go from equal shares, and groups died on it.
    share = data.theory_mass / data.theory_mass.sum("group")
    assert (abs(share - 1 / share.count("group")).max("group") > 1e-3).all()
    assert any(0 < int(row["survivors"]) < int(row["groups"]) for row in rows)
    assert [f"{row['dynamics']}: {row['landscape']}" for row in rows] == list(data.case.values)


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
    assert set(data.fate.values) == {"return", "leave", "stay near"} and data.borne_out.all()
    assert f"{len(ratio)} of {len(ratio)} verdicts are borne out" in finished[1]


def test_workers_change_nothing_draws_are_added_and_nothing_is_computed_twice(
    finished: tuple[Path, str], data: xr.Dataset, tmp_path: Path
) -> None:
    shutil.copytree(finished[0] / "classics", tmp_path / "classics")
    out, err = again(tmp_path, "--seeds", "2", "--workers", "2")
    assert "0of90pointsreused" in err and "13of13pointsreused" in err
    both = loaded(tmp_path)
    first, second = (both.isel(case=both.member.values == member) for member in (0, 1))
    for name, variable in data.variables.items():
        np.testing.assert_array_equal(first[name].values, variable.values, err_msg=str(name))
    np.testing.assert_array_equal(first.case.values, second.case.values)
    # Another draw of every landscape, and theory holds for it too.
    assert (abs(first.theory_mean_fitness - second.theory_mean_fitness.values)[:-3] > 1e-3).all()
    assert (second.difference < 1e-10).all()
    with (tmp_path / "fixed_points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["member"]) for row in rows] == 45 * [0, 1]
    # The table: means of the first draw, the largest difference of both.
    for k in range(45):
        worst = f"{max(float(row['difference']) for row in rows[2 * k : 2 * k + 2]):.0e}"
        mean = f"{round(float(rows[2 * k]['theory_mean_fitness']), 6) + 0.0:.6f}"
        assert any({mean, worst} <= set(line.split()) for line in out.splitlines())
    assert f"Largest difference {float(both.difference.max()):.1e} over 45 pairs;" in out
    assert "Draws of every pair: 2;" in out
    assert [line for line in out.splitlines() if len(line) > 80 and "fixed_points." not in line] == []
    _, err = again(tmp_path)
    assert "45of45pointsreused" in err and "13of13pointsreused" in err
    assert ed.sweeps.content_digest(loaded(tmp_path)) == ed.sweeps.content_digest(data)


def test_dynamics_and_families_of_a_member_share_what_is_drawn() -> None:
    c = Pair("Replicator", "LinearDecay", member=1).landscape().contribution  # type: ignore[attr-defined]
    for dynamics, family in PAIRS:
        landscape: Any = Pair(dynamics, family, member=1).landscape()
        if family in ("LinearDecay", "Entropic", "Redundancy"):
            np.testing.assert_array_equal(landscape.contribution, c)
        for other in ({"member": 2}, {"member": 1, "seed": 1}):
            drawn: Any = Pair(dynamics, family, **other).landscape()
            assert not ed.specifications.same_value(landscape, drawn)
    tops = np.sort(Pair("Replicator", "Constant", member=1).landscape().contribution)  # type: ignore[attr-defined]
    np.testing.assert_allclose(tops, np.sort(c) + 0.5 * (np.arange(16) == 15), rtol=1e-15)


def test_too_short_an_integration_and_a_wrong_verdict_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, classic = Pair("Replicator", "c/(1 + p)", groups=6), Classic("coordination", probes=1)
    assert confront(pair).difference < 1e-10 and judge(classic).borne_out.all()
    monkeypatch.setattr(fixed_points, "RELAXATIONS", 10.0)
    assert confront(pair).difference > 1e-8
    found = ed.all_equilibria(ed.Replicator(), fixed_points.CLASSICS[classic.name], total_mass=3.0)
    wrong = [dataclasses.replace(point, stability=ed.Stability.UNSTABLE) for point in found]
    monkeypatch.setattr(fixed_points, "all_equilibria", lambda *_, **__: wrong)
    assert list(judge(classic).borne_out.values) == [False, False, True]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Pair("Moran", "Constant"), "dynamics is 'Moran'"),
        (lambda: Pair("Replicator", "Rugged"), "family is 'Rugged'"),
        (lambda: Pair("Selection", "Constant"), "family is 'Constant' with dynamics 'Selection'"),
        (lambda: Pair("Replicator", "Constant", groups=1), "groups is 1"),
        (lambda: Pair("Replicator", "Constant", seed=-1), "seed is -1"),
        (lambda: Pair("Replicator", "Constant", member=-1), "member is -1"),
        (lambda: Classic("chess"), "name is 'chess'"),
        (lambda: Classic("coordination", probes=0), "probes is 0"),
        (lambda: Classic("coordination", seed=-1), "seed is -1"),
    ],
)
def test_bad_points(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


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
