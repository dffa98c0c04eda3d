"""Ensembles in folders: what they are in memory, whatever comes in between, and no more of it at a time."""

from __future__ import annotations

import importlib
import pickle
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evodyn as ed
from evodyn.core.arrays import FloatArray
from evodyn.core.generators import member_rng
from evodyn.core.processes import FolderInUseError, held
from evodyn.simulate import draws, stored

P0 = np.array([1.0, 2.0, 0.5])
SPAN = (0.0, 4.0)
SOLVER = ed.Solver(method="RK45", rtol=1e-4)


def draw(generator: np.random.Generator) -> ed.landscapes.LinearDecay:
    return ed.landscapes.LinearDecay(generator.normal(size=3), 0.1)


def in_memory(members: int = 12, **options: Any) -> ed.Ensemble:
    asked: dict[str, Any] = {"save_at": [0.0, 2.0, 4.0], "extinction": ed.Extinction(0.3), "rng": 5}
    asked |= {"members": members, **options}
    return ed.solve_ensemble(ed.Replicator(), draw, P0, SPAN, **asked)


def files(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_a_folder_holds_the_ensemble(tmp_path: Path) -> None:
    whole = in_memory()
    found = in_memory(directory=tmp_path / "some")
    assert sorted(files(tmp_path / "some")) == [
        stored.HEAD, "members-000000000-000000007.nc", "members-000000008-000000011.nc"
    ]  # fmt: skip
    assert found.same_as(whole) and pickle.loads(pickle.dumps(found))[-1].same_as(whole[11])
    assert found[3:5].same_as(whole[3:5]) and found.termination == whole.termination
    for name in ("masses", "extinction_time"):
        np.testing.assert_array_equal(getattr(ed.load(tmp_path / "some"), name), getattr(whole, name))
    assert ed.load(tmp_path / "some" / "members-000000008-000000011.nc").same_as(whole[8:])
    # Who shows it does not read all of it.
    (tmp_path / "some" / "members-000000008-000000011.nc").unlink()
    assert "12 members, 3 groups, 3 saved times" in repr(found) and "12" in found._repr_html_()
    with pytest.raises(ValueError, match=r"lacks 4 of 12 members, the first of them 8: call solve_ensemble"):
        ed.load(tmp_path / "some")
    with pytest.raises(ValueError, match=r"has no ensemble.nc"):
        ed.load(tmp_path)


@pytest.mark.parametrize(("throw", "solver"), [(True, None), (False, SOLVER)], ids=["together", "one by one"])
def test_an_interrupt_loses_nothing_that_was_finished(
    throw: bool, solver: ed.Solver | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []
    drawn: list[int] = []

    def generator(seed: Any, member: int) -> np.random.Generator:
        drawn.append(member)
        return member_rng(seed, member)

    monkeypatch.setattr(draws, "member_rng", generator)

    def progress(fraction: float) -> None:
        heard.append(fraction)
        if fraction > 10.5 / 12:
            raise KeyboardInterrupt

    if throw:
        with pytest.raises(KeyboardInterrupt) as caught:
            in_memory(directory=tmp_path, progress=progress, solver=solver)
        part = caught.value.run  # type: ignore[attr-defined]
    else:
        part = in_memory(directory=tmp_path, progress=progress, solver=solver, throw=False)
    assert heard == sorted(heard)
    whole = in_memory(solver=solver)
    assert [ending.name for ending in part.termination] == ["COMPLETED"] * 11 + ["INTERRUPTED"]
    np.testing.assert_array_equal(part.masses[:11], whole.masses[:11])
    before = files(tmp_path)
    drawn.clear()
    again = in_memory(directory=tmp_path, solver=solver, rng=None)  # the seed is on file
    assert drawn == [0, 11]  # the first, to see that it is the same, and who is missing
    assert again.same_as(whole)
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 1
    assert len(in_memory(directory=tmp_path, solver=solver)) == 12
    assert drawn == [0, 11, 0] and files(tmp_path) == after


OTHERS: dict[str, dict[str, Any]] = {
    "rng": {"rng": 6},
    "number of members": {"members": 3},
    "save_at": {"save_at": [0.0, 4.0]},
    "extinction": {"extinction": None},
    "solver": {"solver": SOLVER},
    "settle": {"settle": 1e-3},
    "events": {"events": [ed.Event(when=[1.0], action=lambda masses: masses)]},
}


def test_an_ensemble_of_another_problem_is_refused_by_name(tmp_path: Path) -> None:
    in_memory(2, directory=tmp_path)
    before = files(tmp_path)
    asked: dict[str, Any] = {"members": 2, "directory": tmp_path}
    for name, options in OTHERS.items():
        with pytest.raises(ValueError, match=f"an ensemble with another {name} is; expected a folder"):
            in_memory(**(asked | options))

    def of(dynamics: ed.Dynamics, landscape: Any, p0: FloatArray, span: tuple[float, float]) -> None:
        ed.solve_ensemble(
            dynamics, landscape, p0, span, save_at=[0.0, 2.0, 4.0], extinction=ed.Extinction(0.3), rng=5,
            members=2, directory=tmp_path,
        )  # fmt: skip

    of(ed.Replicator(), draw, P0, SPAN)
    for name, arguments in {
        "dynamics": (ed.SelectionMutation(0.1), draw, P0, SPAN),
        "landscape": (ed.Replicator(), lambda generator: draw(generator), P0, SPAN),
        "p0": (ed.Replicator(), draw, 2 * P0, SPAN),
        "t_span": (ed.Replicator(), draw, P0, (0.0, 5.0)),
    }.items():
        with pytest.raises(ValueError, match=f"an ensemble with another {name} is; expected a folder"):
            of(*arguments)
    assert files(tmp_path) == before


def test_functions_count_with_their_code() -> None:
    def scaled(factor: float) -> Any:
        return lambda t, masses: factor - masses

    one, two = stored.identity([scaled(1.0)]), stored.identity([scaled(2.0)])
    assert one == stored.identity([scaled(1.0)]) != two


def test_what_a_folder_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dense is True and directory"):
        in_memory(directory=tmp_path, dense=True)
    with held(tmp_path), pytest.raises(FolderInUseError, match="in use by another run"):
        in_memory(directory=tmp_path)
    in_memory(2, directory=tmp_path)
    part = tmp_path / "members-000000000-000000001.nc"
    part.write_bytes(part.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"members-000000000-000000001.nc' is not a run saved by evodyn, or"):
        ed.load(tmp_path)[0]
    (tmp_path / stored.HEAD).unlink()
    with pytest.raises(ValueError, match=r"has members of an ensemble, but not ensemble\.nc"):
        in_memory(2, directory=tmp_path)
    (tmp_path / stored.HEAD).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"ensemble.nc' is no head of an ensemble, or is damaged"):
        in_memory(2, directory=tmp_path)


def test_members_that_fail_are_raised_and_solved_again(tmp_path: Path) -> None:
    def fails(t: float, masses: FloatArray) -> FloatArray:
        return P0 - masses if t < 2 else np.full(3, np.nan)

    both: tuple[Any, ...] = (ed.Replicator(), [lambda t, masses: P0 - masses, fails], P0, SPAN)
    with pytest.raises(ed.SolveError) as caught:
        ed.solve_ensemble(*both, directory=tmp_path)
    assert caught.value.result.termination is ed.Termination.FITNESS_NOT_FINITE
    assert sorted(files(tmp_path)) == [stored.HEAD, "members-000000000-000000000.nc"]
    ensemble = ed.solve_ensemble(*both, directory=tmp_path, throw=False)
    assert [ending.name for ending in ensemble.termination] == ["COMPLETED", "FITNESS_NOT_FINITE"]
    assert np.isnan(ensemble.masses[1, -1]).all() and not np.isnan(ensemble.masses[0]).any()


def test_no_more_than_a_part_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_BYTES", 8 * 9 * 2)  # two members of three groups at three times
    reader = importlib.import_module("evodyn.files.load")
    save, load = ed.Ensemble.save, reader.load
    made: list[weakref.ref[ed.Ensemble]] = []
    sizes: list[int] = []

    def alone(ensemble: ed.Ensemble) -> None:
        assert all(before() is None for before in made)
        made.append(weakref.ref(ensemble))
        sizes.append(len(ensemble))

    def saving(ensemble: ed.Ensemble, path: Path) -> None:
        alone(ensemble)
        save(ensemble, path)

    def loading(path: Path) -> ed.Ensemble:
        ensemble: ed.Ensemble = load(path)
        alone(ensemble)
        return ensemble

    monkeypatch.setattr(ed.Ensemble, "save", saving)
    monkeypatch.setattr(reader, "load", loading)
    found = in_memory(5, directory=tmp_path)
    assert sizes == [2, 2, 1]
    masses = [run.masses for run in found]
    assert sizes == [2, 2, 1, 2, 2, 1]
    np.testing.assert_array_equal(masses, in_memory(5).masses)
