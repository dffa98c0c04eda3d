"""Results: read-only, saved and loaded bit for bit, continued as if they had never stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

import evodyn as ed
from evodyn import landscapes
from evodyn.analysis.records import record_of
from evodyn.core import netcdf
from evodyn.core.arrays import Array
from evodyn.core.specifications import Specification
from tests.test_solve import EVERY, REPLICATOR, solver

C = np.array([1.0, 0.4, 0.0, -0.5])
P0 = np.array([1.0, 2.0, 0.5, 0.0])


def pressure(t: float, masses: Array) -> Array:
    return -0.1 * masses


def growth(masses: Array, fitness: Array) -> Array:
    return fitness - masses


def fails_late(t: float, masses: Array) -> Array:
    fitness: Array = C - 0.1 * masses
    return fitness if t < 2 else np.full(4, np.nan)


RUNS: dict[str, Callable[[], ed.Run]] = {
    "closed form": lambda: ed.solve(
        REPLICATOR, landscapes.Constant(C), P0, (0.0, 9.0), extinction=ed.Extinction(0.1)
    ),
    "closed form, absorbing": lambda: ed.solve(
        REPLICATOR, landscapes.Constant(C), P0, (0.0, 9.0), extinction=ed.Extinction(0.1, "absorb")
    ),
    "integrated": lambda: ed.solve(
        ed.Replicator(0.5),
        landscapes.LinearDecay(C, 0.1) + landscapes.Seasonal(C, 0.5, 2.0, C) + pressure,
        P0,
        (-1.0, 6.0),
        save_at=[0.0, 1.0 / 3.0, 5.5],
        extinction=ed.Extinction(0.3),
        solver=ed.Solver(method="RK45", rtol=1e-5, atol=0.0, max_step=0.5),
    ),
    "no extinction": lambda: ed.solve(REPLICATOR, landscapes.Entropic(C, 0.3), P0, (0.0, 5.0)),
    "game": lambda: ed.solve(REPLICATOR, landscapes.MatrixGame(np.outer(C, C[::-1])), P0, (0.0, 5.0)),
    "redundancy": lambda: ed.solve(
        REPLICATOR, landscapes.Redundancy(C, np.eye(4) + 0.1, 0.3), P0, (0.0, 5.0), save_at=[5.0]
    ),
    "mutation": lambda: ed.solve(
        ed.SelectionMutation(0.2, P0, 3.0),
        landscapes.Constant(C),
        P0,
        (0.0, 5.0),
        extinction=ed.Extinction(0.2),
    ),
    "mutation in time": lambda: ed.solve(
        ed.SelectionMutation(np.sin), landscapes.Constant(C), P0, (0.0, 3.0), save_at=[0.0, 1.0]
    ),
    "general selection": lambda: ed.solve(ed.Selection(growth), landscapes.Constant(C), P0, (0.0, 2.0)),
    "cap": lambda: ed.solve(
        ed.NormalizedGrowth(3.5, 0.2),
        landscapes.Constant(4 * C),
        P0,
        (0.0, 5.0),
        extinction=ed.Extinction(0.4),
    ),
    "blocks": lambda: ed.solve(
        ed.Populations((ed.Replicator(), ed.SelectionMutation(0.1, [1.0, 2.0])), (2, 2)),
        landscapes.LinearDecay(C, 0.2),
        P0,
        (0.0, 5.0),
        extinction=ed.Extinction(0.2),
    ),
    "one dynamics for blocks": lambda: ed.solve(
        ed.Populations(ed.SelectionMutation(0.1, P0), (3, 1)), landscapes.Constant(C), P0 + 0.1, (0.0, 5.0)
    ),
    "record": lambda: ed.solve(
        REPLICATOR, landscapes.Recorded([0.0, 1.0, 6.0], [C, C[::-1]], 0.1), P0, (0.0, 5.0)
    ),
    "stopped": lambda: ed.solve(
        REPLICATOR, landscapes.LinearDecay(C, 0.01), P0, (0.0, 50.0), extinction=ed.Extinction(0.01, "stop")
    ),
    "all absorbed": lambda: ed.solve(
        REPLICATOR, landscapes.Constant(C), P0, (0.0, 5.0), extinction=ed.Extinction(9.0, "absorb")
    ),
    "failed": lambda: ed.solve(REPLICATOR, fails_late, P0, (0.0, 5.0), throw=False),
    "step limit": lambda: ed.solve(
        REPLICATOR,
        landscapes.LinearDecay(C, 1.0),
        P0,
        (0.0, 50.0),
        solver=ed.Solver(method="RK23", max_steps=7),
        throw=False,
    ),
    "map": lambda: ed.iterate(
        REPLICATOR, landscapes.LinearDecay(C, 0.1), P0, 100, 0.1, save_every=7, extinction=ed.Extinction(0.2)
    ),
    "exponential map, absorbing": lambda: ed.iterate(
        ed.SelectionMutation(0.02),
        landscapes.LinearDecay(C, 0.1),
        P0,
        100,
        0.1,
        extinction=ed.Extinction(0.05, "absorb"),
        scheme="exponential",
        t_start=5.0,
    ),
}
by_run = pytest.mark.parametrize("name", RUNS)


def arrays_of(value: object) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, tuple):
        return [array for inner in value for array in arrays_of(inner)]
    if isinstance(value, Specification):
        return [array for inner in vars(value).values() for array in arrays_of(inner)]
    return []


@by_run
def test_results_are_read_only(name: str) -> None:
    run = RUNS[name]()
    for array in (run.masses, run.log_masses, *arrays_of(run)):
        assert not array.flags.writeable
        if array.size:
            with pytest.raises(ValueError, match="read-only"):
                array.flat[0] = array.flat[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.t = run.t  # type: ignore[misc]
    assert len(repr(run)) < 250 and "\n" not in repr(run)


@by_run
def test_shapes_agree_and_nothing_is_nan(name: str) -> None:
    run = RUNS[name]()
    rows, n = len(run.t), len(P0)
    blocks = (2,) if isinstance(run.dynamics, ed.Populations) else ()
    assert run.masses.shape == run.log_masses.shape == (rows, n)
    assert run.total_mass.shape == run.mean_fitness.shape == (rows, *blocks)
    assert run.extinction_time.shape == run.extinct_at_end.shape == run.absorbed_mass.shape == (n,)
    assert run.extinct_at_end.dtype == bool
    assert (np.diff(run.t) > 0).all()
    assert not np.isnan(run.log_masses).any() and (run.masses >= 0).all()
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(np.log(run.masses), run.log_masses, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        run.masses.sum(axis=1), run.total_mass.reshape(rows, -1).sum(axis=1), rtol=1e-12
    )
    # The last row and the end state, where they are of the same time.
    if run.t[-1] == run.end_state.t:
        np.testing.assert_allclose(run.end_state.masses, run.masses[-1], rtol=1e-12)
        below = run.masses[-1] < (run.extinction.threshold if run.extinction else 5e-324)
        if run.termination is not ed.Termination.STOPPED_AT_EXTINCTION:
            np.testing.assert_array_equal(run.extinct_at_end, below)


@by_run
def test_saved_and_loaded_bit_for_bit(name: str, tmp_path: Path) -> None:
    run = RUNS[name]()
    path = tmp_path / "run.nc"
    run.save(path)
    again = ed.load(path)
    callables = _has_callable(run)
    if not callables:
        assert again.same_as(run) and run.same_as(again)
    for field in dataclasses.fields(run):
        mine, theirs = getattr(run, field.name), getattr(again, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
            assert mine.tobytes() == theirs.tobytes() and not theirs.flags.writeable
    assert again.crossings.tolist() == run.crossings.tolist()
    assert again.stats == run.stats and again.termination is run.termination and again.t_span == run.t_span
    assert again.end_state.same_as(run.end_state)
    assert again.masses.tobytes() == run.masses.tobytes()
    # Saved once more it is the same file, but for the provenance.
    again.save(str(tmp_path / "again.nc"))
    with xarray.open_dataset(path) as one, xarray.open_dataset(tmp_path / "again.nc") as other:
        assert one.equals(other)
        assert one.attrs["specification"] == other.attrs["specification"]


def _has_callable(run: ed.Run) -> bool:
    return '"rerunnable": false' in str(run.to_xarray().attrs["specification"])


@by_run
def test_files_describe_themselves(name: str, tmp_path: Path) -> None:
    run = RUNS[name]()
    run.save(tmp_path / "run.nc")
    with xarray.open_dataset(tmp_path / "run.nc", decode_times=False) as data:
        for variable in data.variables.values():
            assert variable.attrs["long_name"] and variable.attrs["units"]
        specification = json.loads(data.attrs["specification"])
        assert specification["schema"] >= 1
        provenance = json.loads(data.attrs["provenance"])
        assert {"evodyn", "date"} <= set(provenance)
        assert "date" not in data.attrs["specification"]
    assert [path.name for path in tmp_path.iterdir()] == ["run.nc"]


@by_run
def test_labelled_datasets(name: str) -> None:
    run = RUNS[name]()
    data = run.to_xarray()
    np.testing.assert_array_equal(data["mass"], run.masses)
    np.testing.assert_array_equal(data["log_mass"], run.log_masses)
    assert data["mass"].dims == ("time", "group")
    np.testing.assert_array_equal(data["time"], run.t)
    np.testing.assert_array_equal(data["extinction_time"], run.extinction_time)
    assert data["mass"].sel(group=1).isel(time=-1) == run.masses[-1, 1]


@by_run
def test_runs_survive_a_process_boundary(name: str) -> None:
    run = RUNS[name]()
    again = pickle.loads(pickle.dumps(run))
    assert again.same_as(run)
    assert not any(array.flags.writeable for array in arrays_of(again))


def test_a_different_run_is_told_apart() -> None:
    run = RUNS["map"]()
    assert run.same_as(RUNS["map"]())
    assert not run.same_as(RUNS["exponential map, absorbing"]()) and not run.same_as(None)
    nudged = run.native.copy()
    nudged[3, 1] = np.nextafter(nudged[3, 1], 2)
    assert not run.same_as(dataclasses.replace(run, native=nudged))
    assert not run.same_as(dataclasses.replace(run, landscape=landscapes.LinearDecay(C, 0.2)))


def test_functions_are_stored_by_name_only(tmp_path: Path) -> None:
    run = RUNS["integrated"]()
    run.save(tmp_path / "run.nc")
    again = ed.load(tmp_path / "run.nc")
    assert "pressure" in repr(again.landscape)
    lost: Any = again.landscape
    with pytest.raises(TypeError, match=r"pressure.* stored by name only"):
        lost(0.0, np.ones(4))
    with pytest.raises((TypeError, ed.SolveError), match="stored by name only"):
        ed.extend(again, 8.0)
    restored = dataclasses.replace(again, landscape=run.landscape)
    assert restored.same_as(run)
    assert ed.extend(restored, 8.0).same_as(ed.extend(run, 8.0))


def test_no_code_is_loaded(tmp_path: Path) -> None:
    # A name in the file is never looked up.
    run = RUNS["integrated"]()
    run.save(tmp_path / "run.nc")
    data, _ = netcdf.read(tmp_path / "run.nc")
    data.attrs["specification"] = data.attrs["specification"].replace("pressure", "os.system")
    netcdf.write(data, tmp_path / "forged.nc")
    assert "not rerunnable" in repr(ed.load(tmp_path / "forged.nc").landscape.terms[-1])


def test_loading_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.nc"):
        ed.load(tmp_path / "nothing.nc")
    (tmp_path / "text.nc").write_text("no NetCDF at all")
    with pytest.raises(ValueError, match=r"text\.nc.*is not a run saved by evodyn, or is damaged"):
        ed.load(tmp_path / "text.nc")
    xarray.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"other\.nc.*is not a run saved by evodyn, or is damaged"):
        ed.load(tmp_path / "other.nc")
    run = RUNS["map"]()
    run.save(tmp_path / "run.nc")
    whole = (tmp_path / "run.nc").read_bytes()
    (tmp_path / "half.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        ed.load(tmp_path / "half.nc")
    data, _ = netcdf.read(tmp_path / "run.nc")
    for name, old, new in (
        ("later", '"schema": 2', '"schema": 99'),
        ("unknown", "LinearDecay", "CubicDecay"),
    ):
        changed = data.copy()
        changed.attrs["specification"] = data.attrs["specification"].replace(old, new)
        assert changed.attrs["specification"] != data.attrs["specification"]
        netcdf.write(changed, tmp_path / f"{name}.nc")
        with pytest.raises(ValueError, match=r"schema 99|CubicDecay"):
            ed.load(tmp_path / f"{name}.nc")
    missing = data.drop_vars("mass")
    netcdf.write(missing, tmp_path / "missing.nc")
    with pytest.raises(ValueError, match=r"missing\.nc"):
        ed.load(tmp_path / "missing.nc")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RUNS["map"]()
    path = tmp_path / "run.nc"
    run.save(path)
    before = path.read_bytes()

    def breaks(*args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", breaks)
    with pytest.raises(OSError, match="no space left"):
        RUNS["closed form"]().save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["run.nc"]


# Continuing


CONTINUED = {
    "closed form": (9.0, 14.0),
    "closed form, absorbing": (9.0, 14.0),
    "integrated": (6.0, 9.0),
    "no extinction": (5.0, 9.0),
    "mutation": (5.0, 9.0),
    "general selection": (2.0, 3.0),
    "cap": (5.0, 9.0),
    "blocks": (5.0, 9.0),
    "record": (5.0, 6.0),
}


@pytest.mark.parametrize("name", CONTINUED)
def test_a_continued_run_is_a_longer_run(name: str, tmp_path: Path) -> None:
    run = RUNS[name]()
    end, later = CONTINUED[name]
    times = np.linspace(end, later, 5)[1:]
    longer = ed.extend(run, later, save_at=times)
    assert longer.t_span == (run.t_span[0], later) and longer.termination is ed.Termination.COMPLETED
    np.testing.assert_array_equal(longer.t, np.concatenate((run.t, times)))
    assert longer.native[: len(run.t)].tobytes() == run.native.tobytes()
    assert longer.stats.steps > run.stats.steps
    assert isinstance(run.settings, ed.Solver)
    whole = ed.solve(
        run.dynamics,
        run.landscape,
        P0 + 0.1 if name == "one dynamics for blocks" else P0,
        (run.t_span[0], later),
        save_at=longer.t,
        extinction=run.extinction,
        solver=run.settings,
    )
    bound = 1e-3 if name == "integrated" else 1e-6
    np.testing.assert_allclose(longer.masses, whole.masses, rtol=bound, atol=1e-12)
    np.testing.assert_allclose(longer.total_mass, whole.total_mass, rtol=bound)
    np.testing.assert_allclose(longer.mean_fitness, whole.mean_fitness, rtol=bound, atol=bound)
    assert [(g, d) for g, _, d in longer.crossings] == [(g, d) for g, _, d in whole.crossings]
    np.testing.assert_allclose(longer.extinction_time, whole.extinction_time, rtol=bound)
    np.testing.assert_allclose(longer.absorbed_mass, whole.absorbed_mass, rtol=bound)
    np.testing.assert_array_equal(longer.extinct_at_end, whole.extinct_at_end)
    # From the file it goes on as from memory, bit for bit.
    if not _has_callable(run):
        run.save(tmp_path / "run.nc")
        assert ed.extend(ed.load(tmp_path / "run.nc"), later, save_at=times).same_as(longer)


@pytest.mark.parametrize("method", EVERY)
def test_log_masses_go_on_where_masses_have_ended(method: Any) -> None:
    landscape = landscapes.Constant([1.0, 0.0])
    first = ed.solve(REPLICATOR, landscape, [1.0, 1.0], (0.0, 900.0), solver=solver(method))
    assert first.masses[-1, 1] == 0
    longer = ed.extend(first, 1740.0)
    assert longer.log_masses[-1, 1] == pytest.approx(np.log(2) - 1740.0, abs=1e-4)
    # And comes back: the landscape may be replaced between the two.
    turned = dataclasses.replace(first, landscape=landscapes.Constant([0.0, 1.0]))
    back = ed.extend(turned, 1810.0)
    assert back.log_masses[-1, 0] == pytest.approx(np.log(2) - 10.0 - np.log1p(np.exp(-10.0)), abs=1e-3)
    assert back.total_mass[-1] == pytest.approx(2.0, rel=1e-12)


def test_extinction_goes_on() -> None:
    # A group that was absorbed stays so, one that was below is not counted twice.
    landscape = landscapes.Seasonal([0.0, 0.0, 0.0], [2.0, -2.0, 0.0], 5.0)
    for policy in ("observe", "absorb"):
        extinction = ed.Extinction(0.3, policy)
        whole = ed.solve(REPLICATOR, landscape, np.ones(3), (0.0, 12.0), extinction=extinction)
        run = ed.solve(REPLICATOR, landscape, np.ones(3), (0.0, 1.0), extinction=extinction)
        for end in (1.5, 2.0, 6.0, 11.0, 12.0):
            run = ed.extend(run, end)
        assert len(run.crossings) == len(whole.crossings) > (6 if policy == "observe" else 0)
        np.testing.assert_allclose(run.crossings.time, whole.crossings.time, rtol=1e-6)
        np.testing.assert_array_equal(run.crossings.group, whole.crossings.group)
        np.testing.assert_allclose(run.extinction_time, whole.extinction_time, rtol=1e-6)
        np.testing.assert_allclose(run.absorbed_mass, whole.absorbed_mass, atol=1e-6)


@pytest.mark.parametrize("every", [1, 7, 10, 200])
@pytest.mark.parametrize("policy", ["observe", "absorb"])
@pytest.mark.parametrize("cuts", [[50], [33], [1, 2, 50, 51], [99]])
def test_a_continued_map_is_a_longer_map_bit_for_bit(cuts: list[int], policy: Any, every: int) -> None:
    dynamics, landscape = ed.SelectionMutation(0.01, 0.5), landscapes.Seasonal(C, 2.0, 3.0, 5 * C)
    h = 0.1

    def start(n: int) -> ed.Run:
        return ed.iterate(
            dynamics,
            landscape,
            P0,
            n,
            h,
            save_every=every,
            extinction=ed.Extinction(0.2, policy),
            t_start=1.0,
        )

    whole, run = start(100), start(cuts[0])
    for step in [*cuts[1:], 100]:
        run = ed.extend(run, 1.0 + step * h)
    assert len(whole.crossings) > 0
    for name in ("t", "native", "total_mass", "log_total_mass", "mean_fitness", "extinction_time",
                 "absorbed_mass"):  # fmt: skip
        np.testing.assert_array_equal(getattr(run, name), getattr(whole, name))
    assert run.crossings.tolist() == whole.crossings.tolist()
    assert run.settings.same_as(whole.settings) and run.end_state.same_as(whole.end_state)
    assert run.t_span == whole.t_span and run.stats.projections == whole.stats.projections


def test_what_cannot_be_continued() -> None:
    run = RUNS["closed form"]()
    rules: list[tuple[Callable[[], object], str]] = [
        (lambda: ed.extend(RUNS["stopped"](), 60.0), "run ended as STOPPED_AT_EXTINCTION; expected"),
        (lambda: ed.extend(RUNS["failed"](), 60.0), "run ended as FITNESS_NOT_FINITE; expected"),
        (lambda: ed.extend(RUNS["step limit"](), 60.0), "run ended as STEP_LIMIT; expected"),
        (lambda: ed.extend(run, 9.0), r"t_end is 9\.0; expected a time after the run's end at 9\.0"),
        (lambda: ed.extend(run, 1.0), r"t_end is 1\.0; expected a time after"),
        (lambda: ed.extend(run, float("nan")), "t_end is NaN; expected"),
        (lambda: ed.extend(run, float("inf")), "t_end is inf; expected a finite number"),
        (lambda: ed.extend(run, 12.0, save_at=[8.0, 10.0]), r"save_at contains .*8\.0"),
        (lambda: ed.extend(run, 12.0, save_at=[9.0, 10.0]), r"save_at begins at .*9\.0.*after"),
        (lambda: ed.extend(run, 12.0, save_at=[10.0, 13.0]), r"save_at contains .*13\.0"),
        (lambda: ed.extend(RUNS["map"](), 10.05), r"t_end is 10\.05, .* whole number of steps"),
        (lambda: ed.extend(RUNS["map"](), 11.0, save_at=[10.5]), "save_at is given for a run of iterate"),
        (lambda: ed.extend(RUNS["record"](), 7.0), "outside the record"),
    ]
    for call, message in rules:
        with pytest.raises((ValueError, ed.SolveError), match=message):
            call()


def test_a_continuation_that_fails_keeps_all_before() -> None:
    run = ed.solve(REPLICATOR, fails_late, P0, (0.0, 1.5))
    with pytest.raises(ed.SolveError) as caught:
        ed.extend(run, 5.0)
    partial = caught.value.result
    assert partial.termination is ed.Termination.FITNESS_NOT_FINITE
    returned = ed.extend(run, 5.0, throw=False)
    for result in (partial, returned):
        np.testing.assert_array_equal(result.t[: len(run.t)], run.t)
        assert result.native[: len(run.t)].tobytes() == run.native.tobytes()
        assert result.t_span[0] == 0.0 and 1.5 <= result.t_span[1] <= 2.0


def test_a_map_that_fails_on_continuing_keeps_all_before() -> None:
    run = ed.iterate(REPLICATOR, fails_late, P0, 15, 0.1)
    with pytest.raises(ed.SolveError) as caught:
        ed.extend(run, 3.0)
    for result in (caught.value.result, ed.extend(run, 3.0, throw=False)):
        np.testing.assert_array_equal(result.t[: len(run.t)], run.t)
        assert result.t_span == pytest.approx((0.0, 2.0))


def test_an_ensemble_is_read_only() -> None:
    ensemble = ed.solve_ensemble(REPLICATOR, landscapes.Constant(C), np.stack((P0, 2 * P0)), (0.0, 1.0))
    for name in ("t", "masses", "log_masses", "total_mass", "mean_fitness", "extinction_time",
                 "extinct_at_end", "absorbed_mass"):  # fmt: skip
        with pytest.raises(ValueError, match="read-only"):
            getattr(ensemble, name)[...] = 0


# What results say of themselves


@by_run
def test_shares_and_survivors(name: str) -> None:
    run = RUNS[name]()
    blocks = [block for block, _ in run.dynamics.blocks(4)]
    for block in blocks:
        mass = run.masses[:, block]
        total = mass.sum(axis=1, keepdims=True)
        shares = np.divide(mass, total, out=np.full_like(mass, np.nan), where=total > 0)
        np.testing.assert_allclose(run.shares[:, block], shares, rtol=1e-13)
    np.testing.assert_array_equal(run.survivors, ~run.extinct_at_end)
    times = np.array([-2.0, 0.0, 1.3, 5.0, np.inf])
    expected = [sum(death <= t < np.inf or death < t for death in run.extinction_time) / 4 for t in times]
    np.testing.assert_array_equal(run.fraction_extinct(times), expected)
    assert run.fraction_extinct(1.3) == expected[2]


@by_run
def test_a_run_is_a_table_with_one_row_for_each_group(name: str) -> None:
    run = RUNS[name]()
    table = run.to_dataframe()
    assert table["group"].tolist() == [0, 1, 2, 3]
    assert table["end_mass"].tolist() == run.end_state.masses.tolist()
    assert table["extinction_time"].tolist() == run.extinction_time.tolist()
    assert ("block" in table) == (len(run.dynamics.blocks(4)) > 1)
    if "block" in table:
        assert table["block"].tolist() in ([0, 0, 1, 1], [0, 0, 0, 1])
    if name == "integrated":  # LinearDecay + Seasonal + a function
        assert table["contribution"].tolist() == (2 * C).tolist()
    assert ("contribution" in table) == (name not in ("game", "record", "failed"))


def test_an_ensemble_is_the_tables_of_its_members() -> None:
    members = [landscapes.LinearDecay(k * C, 0.1) for k in (1.0, 2.0)]
    ensemble = ed.solve_ensemble(REPLICATOR, members, P0, (0.0, 5.0), extinction=ed.Extinction(0.2))
    table = ensemble.to_dataframe()
    assert table["member"].tolist() == [0] * 4 + [1] * 4
    for member, part in table.groupby("member"):
        alone = ensemble[int(str(member))].to_dataframe()
        assert part.drop(columns="member").reset_index(drop=True).equals(alone)


def test_shares_of_maps_that_lose_all_mass() -> None:
    run = ed.iterate(ed.NormalizedGrowth(mass_cap=2.0), landscapes.Constant([1.0, -9.0]), [1.0, 1.0], 3, 0.5)
    np.testing.assert_allclose(run.shares.sum(axis=1), 1.0, rtol=1e-15)
    gone = ed.iterate(REPLICATOR, landscapes.Constant(C), P0, 2, 1.0, extinction=ed.Extinction(9.0, "absorb"))
    assert np.isnan(gone.shares).all() and not gone.survivors.any()


def test_whoever_lacks_pandas_learns_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'to_dataframe needs pandas.*pip install "evodyn\[tables\]"'):
        RUNS["map"]().to_dataframe()


def test_an_ensemble_is_a_sequence_of_runs() -> None:
    cases = [landscapes.Constant(C), landscapes.Constant(-C), landscapes.Constant(0 * C)]
    ensemble = ed.solve_ensemble(
        REPLICATOR,
        cases,
        P0 + 0.3,
        (0.0, 8.0),
        save_at=[0.0, 4.0, 8.0],
        extinction=ed.Extinction(0.2, "stop"),
    )
    assert len(ensemble) == 3 and list(ensemble) == [ensemble[0], ensemble[1], ensemble[-1]]
    assert ensemble[np.int64(1)] is ensemble.runs[1]
    assert ensemble[::2].runs == (ensemble[0], ensemble[2])
    np.testing.assert_array_equal(ensemble[::2].masses, ensemble.masses[::2])
    with pytest.raises(IndexError, match="member is 3; expected a whole number from -3 to 2, or a slice"):
        ensemble[3]
    with pytest.raises(TypeError, match="member is 'first'; expected a whole number"):
        ensemble["first"]  # type: ignore[call-overload]
    with pytest.raises(IndexError, match="selects none of 3 members"):
        ensemble[5:]
    # Members that stopped are not known afterwards.
    found = ensemble.fraction_extinct([0.0, 8.0])
    np.testing.assert_array_equal(np.isnan(found), [[False, True], [False, True], [False, False]])
    np.testing.assert_array_equal(ensemble.survivors, ~ensemble.extinct_at_end)
    np.testing.assert_allclose(ensemble[2:].shares.sum(axis=-1), 1.0)


def test_axes_are_not_labelled_by_the_name_alone() -> None:
    run = RUNS["closed form"]()
    for data in (run.to_xarray(), ed.diagnostics.diagnostics(run)):
        for variable in data.variables.values():
            assert variable.attrs["units"] != variable.attrs["long_name"]
            assert variable.attrs["units"] not in ("mass", "time")


def test_analysis_of_a_dataset_keeps_masses_below_the_smallest_float() -> None:
    run = ed.solve(REPLICATOR, landscapes.Constant(C), P0, (0.0, 2000.0))
    assert run.masses[-1, 1] == 0.0 and run.log_masses[-1, 1] < -1000
    data = run.dataset()
    assert "log_mass" not in data
    np.testing.assert_array_equal(record_of(data).log_masses, run.log_masses)
