"""The study of fixed points: its smoke run against theory, its table, and its figure."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import evodyn as ed
from evodyn.core.netcdf import content_digest
from evodyn.core.specifications import same_value
from tests.scripts import caption, fits, module, saved, study

NAME = "fixed_points"
STUDY = module(f"studies/{NAME}.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The smoke run with two draws, in two processes: its folder and what it printed."""
    folder = tmp_path_factory.mktemp(NAME)
    return folder, study(NAME, folder, "--smoke", "--seeds", "2", "--workers", "2")[0]


@pytest.fixture(scope="module")
def both(finished: tuple[Path, str]) -> xr.Dataset:
    return saved(finished[0], NAME)[0]


@pytest.fixture(scope="module")
def data(both: xr.Dataset) -> xr.Dataset:
    return both.isel(case=both.member.values == 0)


def test_integration_ends_at_the_rest_points(finished: tuple[Path, str], data: xr.Dataset) -> None:
    theory, simulated = data.theory_mass.values, data.simulated_mass.values
    difference = np.nanmax(np.abs(theory - simulated), axis=1) / np.nanmax(theory, axis=1)
    np.testing.assert_allclose(difference, data.difference.values, rtol=1e-12, atol=1e-300)
    assert difference.max() < 1e-10
    rows = [row for row in saved(finished[0], NAME)[1] if row["member"] == "0"]
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


def test_draws_are_added_and_nothing_is_computed_twice(
    finished: tuple[Path, str], both: xr.Dataset, data: xr.Dataset, tmp_path: Path
) -> None:
    out, second = finished[1], both.isel(case=both.member.values == 1)
    np.testing.assert_array_equal(data.case.values, second.case.values)
    # Another draw of every landscape, and theory holds for it too.
    assert (abs(data.theory_mean_fitness - second.theory_mean_fitness.values)[:-3] > 1e-3).all()
    assert (second.difference < 1e-10).all()
    rows = saved(finished[0], NAME)[1]
    assert [int(row["member"]) for row in rows] == 45 * [0, 1]
    # The table: means of the first draw, the largest difference of both.
    for k in range(45):
        worst = f"{max(float(row['difference']) for row in rows[2 * k : 2 * k + 2]):.0e}"
        mean = f"{round(float(rows[2 * k]['theory_mean_fitness']), 6) + 0.0:.6f}"
        assert any({mean, worst} <= set(line.split()) for line in out.splitlines())
    assert f"Largest difference {float(both.difference.max()):.1e} over 45 pairs;" in out
    assert "Draws of every pair: 2;" in out
    # One draw alone, in this process, of which some points are gone.
    for folder in ("pairs", "classics"):
        shutil.copytree(finished[0] / folder, tmp_path / folder)
    for folder in ("pairs", "classics"):
        for gone in sorted((tmp_path / folder).glob("*.nc"))[::3]:
            gone.unlink()
    _, err = study(NAME, tmp_path, "--smoke")
    assert "of 45 points reused" in err and "8 of 13 points reused" in err
    assert content_digest(saved(tmp_path, NAME)[0]) == content_digest(data)


def test_dynamics_and_families_of_a_member_share_what_is_drawn() -> None:
    def drawn(dynamics: str, family: str, **draw: int) -> Any:
        return STUDY.pair(dynamics, family, 16, **draw).landscape

    c = drawn("Replicator", "LinearDecay", member=1).contribution
    for dynamics, family in STUDY.PAIRS:
        landscape = drawn(dynamics, family, member=1)
        if family in ("LinearDecay", "Entropic", "Redundancy"):
            np.testing.assert_array_equal(landscape.contribution, c)
        for other in ({"member": 2}, {"member": 1, "seed": 1}):
            assert not same_value(landscape, drawn(dynamics, family, **other))
    tops = np.sort(drawn("Replicator", "Constant", member=1).contribution)
    np.testing.assert_allclose(tops, np.sort(c) + 0.5 * (np.arange(16) == 15), rtol=1e-15)


def test_too_short_an_integration_and_a_wrong_verdict_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = STUDY.pair("Replicator", "c/(1 + p)", 6)
    classic = STUDY.Classic("coordination", STUDY.CLASSICS["coordination"], probes=1, seed=0)
    assert STUDY.confront(pair).difference < 1e-10 and STUDY.judge(classic).borne_out.all()
    monkeypatch.setattr(STUDY, "RELAXATIONS", 10.0)
    assert STUDY.confront(pair).difference > 1e-8
    found = ed.all_equilibria(ed.Replicator(), classic.landscape, total_mass=3.0)
    wrong = [dataclasses.replace(point, stability=ed.Stability.UNSTABLE) for point in found]
    monkeypatch.setattr(ed, "all_equilibria", lambda *_, **__: wrong)
    assert list(STUDY.judge(classic).borne_out.values) == [False, False, True]


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
    assert fits(finished[1], NAME)


def test_the_figure_is_drawn_beside_its_data(finished: tuple[Path, str]) -> None:
    assert "Eq. 8" in caption("simplex", finished[0])
