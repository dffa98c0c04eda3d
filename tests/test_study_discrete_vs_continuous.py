"""The study of the discrete maps: what it prints, saves and draws agrees with theory."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import evodyn as ed
from evodyn.discrete_stability import error_constant
from tests.scripts import caption, fits, module, saved, study

NAME = "discrete_vs_continuous"
STUDY = module(f"studies/{NAME}.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp(NAME)
    return folder, study(NAME, folder, "--smoke")[0]


@pytest.fixture(scope="module")
def data(finished: tuple[Path, str]) -> xr.Dataset:
    return saved(finished[0], NAME)[0]


def test_the_maps_err_by_their_constants_to_first_order(data: xr.Dataset) -> None:
    size = np.abs(data.constant).max("group")
    difference = np.abs(data.measured_constant - data.constant).max("group")
    assert (difference < 2e-4 * size).all()
    assert (size > 0.01).all()
    np.testing.assert_allclose(data.order, 1.0, atol=0.01)
    mutation = ed.SelectionMutation(0.1, target=1.0)
    landscape = STUDY.MapScenario(mutation, groups=16, member=1).landscape()
    direct = error_constant(mutation, landscape, np.ones(16), (0.0, 4.0), save_at=[4.0], scheme="exponential")
    np.testing.assert_allclose(
        data.constant.sel(case="Eq. 14, exponential", seed=1), direct[0], rtol=1e-12, atol=1e-15
    )


def test_equations_12_and_13_differ_only_where_the_cap_takes_mass_away(data: xr.Dataset) -> None:
    euler = data.sel(case=["Eq. 12, Euler", "Eq. 13, Euler"])
    np.testing.assert_array_equal(euler.error[0], euler.error[1])
    exponential = data.sel(case=["Eq. 12, exponential", "Eq. 13, exponential"])
    assert (exponential.error[0] > 1.5 * exponential.error[1]).all()
    mass = data.measured_constant.sum("group")
    np.testing.assert_allclose(mass.sel(case="Eq. 13, exponential"), 0.0, atol=1e-4)
    assert (mass.sel(case="Eq. 12, exponential") > 0.1).all()


def test_limits_are_where_theory_puts_them(data: xr.Dataset) -> None:
    np.testing.assert_allclose(data.measured_flip, data.flip, rtol=1e-4)
    known = np.isfinite(data.positivity.values)
    assert known.sum() > 8
    assert known[-1].all()  # with mutation, where the worst have most
    np.testing.assert_allclose(
        data.measured_positivity.values[known], data.positivity.values[known], rtol=1e-4
    )
    plain, clipped = data.sel(variant="Eq. 12"), data.sel(variant="Eq. 12, clipped")
    np.testing.assert_array_equal(plain.flip, clipped.flip)
    assert (clipped.positivity >= plain.positivity)[:2].all()
    assert float(clipped.positivity[0]) == 2.0  # 1/κ


def test_a_uniform_start_settles_below_the_limits_and_not_above_the_flip(data: xr.Dataset) -> None:
    plain = data.sel(variant="Eq. 12")
    for k, step in enumerate(data.trial_step_size.values):
        outcome = data.outcome.values[:, k]
        below = step < 0.7 * np.fmin(plain.flip.values, np.nan_to_num(plain.positivity.values, nan=np.inf))
        assert (outcome[below] == 0).all()
        assert (outcome[step > 1.1 * plain.flip.values] != 0).all()


def test_two_groups_double_their_period_where_algebra_says(data: xr.Dataset) -> None:
    assert list(data.landmark.values) == ["flip", "cycle splits", "period 4", "projection"]
    np.testing.assert_allclose(data.landmark_theory, [2, 3, 1 + math.sqrt(5), 4])
    np.testing.assert_allclose(data.landmark_measured, data.landmark_theory, rtol=1e-3)
    a = data.twin_step.values
    middle = (a > 2.1) & (a < 2.9)
    width = np.ptp(data.orbit.values[middle], axis=1) / 2
    np.testing.assert_allclose(width, np.sqrt((a[middle] - 2) / a[middle]) / 2, rtol=1e-6)


def test_the_table_agrees_with_the_data_and_fits(finished: tuple[Path, str], data: xr.Dataset) -> None:
    folder, out = finished
    assert fits(out, NAME)
    rows = saved(folder, NAME)[1]
    for row in rows:
        difference = float(row["difference"])
        if row["quantity"] != "error constant":
            assert math.isclose(difference, float(row["simulation"]) - float(row["theory"]), abs_tol=1e-12)
        assert abs(difference) < 5e-3 * max(1.0, float(row["theory"]))
    assert sum(row["part"] == "two groups" for row in rows) == 4


def test_the_figure_is_drawn_from_saved_data(finished: tuple[Path, str]) -> None:
    told = caption(NAME, finished[0])
    for words in ("16 groups", "κ = 0.5", "μ = 0.1", "1 + √5"):
        assert words in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--decay", "0"), "decay is 0.0"),
        (("--kind", "normal"), "kind is 'normal'"),
        (("--mutation-rate", "0"), "mutation_rate is 0.0"),
        (("--signal-clip", "0"), "signal_clip"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    _, err = study(NAME, tmp_path, *options, code=2)
    assert words in err
    assert not list(tmp_path.glob("*"))


def test_neutral_groups_flip_at_two_and_never_need_a_projection() -> None:
    scenario = STUDY.MapScenario(
        ed.Replicator(),
        kind="neutral",
        heterogeneity=0.0,
        groups=5,
        decay=0.4,
        steps=400,
        step_sizes=(1.0, 1e3),
    )
    result = STUDY.step_limits(scenario)
    assert float(result.flip) == pytest.approx(2 / 0.4, rel=1e-12)
    assert float(result.measured_flip) == pytest.approx(5.0, rel=1e-4)
    assert math.isnan(result.positivity)
    # From the uniform start itself nothing moves, whatever the step size.
    np.testing.assert_array_equal(result.outcome, [0, 0])
    assert float(STUDY.map_error(scenario).error.max()) < 1e-12


def test_only_the_euler_map_has_limits() -> None:
    with pytest.raises(ValueError, match="expected 'euler'"):
        STUDY.step_limits(STUDY.MapScenario(ed.Replicator(), scheme="exponential"))


def test_bisection_at_its_edges() -> None:
    assert STUDY.bisected(lambda x: True, 1.0, 2.0) == 1.0
    assert STUDY.bisected(lambda x: False, 1.0, 2.0) == math.inf
