"""Files: whole or refused by name, on full disks too, and readable by every later version."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr

import evodyn as ed
from evodyn import landscapes
from evodyn.core import netcdf
from evodyn.core.arrays import Array
from evodyn.core.checksums import SUMS, read_text, write_text
from evodyn.model.descriptions import decode
from evodyn.sweeps.sweep import sweep
from tests.scripts import ROOT, module

DATA = Path(__file__).parent / "data"
C = np.array([1.0, 0.4, 0.0, -0.5])
P0 = np.array([1.0, 2.0, 0.5, 0.0])

FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
import evodyn as ed
from evodyn.core.checksums import write_text

folder = Path(sys.argv[1])
landscape = ed.landscapes.Constant(np.arange(300.0))
run = ed.solve(ed.Replicator(), landscape, np.ones(300), (0.0, 5.0))
ensemble = ed.solve_ensemble(ed.Replicator(), landscape, np.ones((2, 300)), (0.0, 5.0))
noisy = ed.stochastic.noisy_iterate(ed.Replicator(), landscape, np.ones(300), 50, 1e-3, noise=0.1, rng=0)
writers = {
    "run": run.save,
    "ensemble": ensemble.save,
    "noisy": noisy.save,
    "text": lambda path: write_text(path, "text" * 20_000),
}
for name in writers:
    (folder / name).write_bytes(b"before")
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
for name, write in writers.items():
    try:
        write(folder / name)
    except OSError:
        print(name)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(sorted(path.name for path in folder.iterdir()), {path.read_bytes() for path in folder.iterdir()})
run.save(folder / "run")
print(ed.load(folder / "run").same_as(run))
"""


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_the_session_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == [
        *("run", "ensemble", "noisy", "text"),
        "['ensemble', 'noisy', 'run', 'text'] {b'before'}",
        "True",
        "",
    ]


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 1.0))
    (tmp_path / "runs").mkdir()
    with pytest.raises(IsADirectoryError, match=r"runs' is a folder; expected the name of a file"):
        run.save(tmp_path / "runs")
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_nothing_lets_hdf5_write_to_the_disk() -> None:
    sources = [p for folder in ("evodyn", "nn_bridge", "studies") for p in (ROOT / folder).rglob("*.py")]
    assert [path.name for path in sources if ".to_netcdf(" in path.read_text()] == []


@functools.cache
def a_run() -> ed.Run:
    return ed.solve(
        ed.Populations((ed.Replicator(), ed.SelectionMutation(0.1, [1.0, 2.0])), (2, 2)),
        landscapes.LinearDecay(C, 0.2),
        P0,
        (0.0, 5.0),
        save_at=[0.0, 2.5, 5.0],
        extinction=ed.Extinction(0.2),
    )


@functools.cache
def as_saved() -> xr.Dataset:
    with tempfile.TemporaryDirectory() as folder:
        a_run().save(Path(folder) / "run.nc")
        return netcdf.read(Path(folder) / "run.nc")[0]


@functools.cache
def an_ensemble() -> ed.Ensemble:
    """Return members with landscapes of different kinds, of which one ends early."""
    different = [landscapes.Constant(C), landscapes.LinearDecay(C, 0.1), landscapes.Constant(-C)]
    extinction = ed.Extinction(0.2, "stop")
    return ed.solve_ensemble(ed.Replicator(), different, P0 + 0.3, (0.0, 2.0), save_at=[0.0, 1.0, 2.0],
                             extinction=extinction)  # fmt: skip


@functools.cache
def noisy_runs() -> Any:
    return ed.stochastic.noisy_iterate(
        ed.Replicator(), landscapes.Constant(C), P0, 20, 0.1, noise=0.1, members=3, rng=0, threshold=0.5
    )


ENSEMBLES: dict[str, Callable[[], ed.Ensemble]] = {
    "different landscapes, ended early": an_ensemble,
    "one landscape": lambda: ed.solve_ensemble(
        ed.Populations(ed.Replicator(), (2, 2)),
        landscapes.LinearDecay(C, 0.1),
        np.stack((P0, 2 * P0)) + 0.1,
        (0.0, 20.0),
        extinction=ed.Extinction(0.1),
    ),
    "drawn landscapes": lambda: ed.solve_ensemble(
        ed.Replicator(),
        lambda generator: landscapes.Constant(generator.normal(size=4)),
        P0,
        (0.0, 2.0),
        members=3,
        rng=0,
    ),
    "of different sizes": lambda: ed.solve_ensemble(
        ed.Replicator(),
        [landscapes.Recorded(np.arange(k + 2.0), np.ones((k + 1, 4))) for k in (3, 5)],
        P0,
        (0.0, 2.0),
    ),
    "maps": lambda: ed.Ensemble(
        tuple(
            ed.iterate(
                ed.Replicator(), landscapes.Constant(k * C), P0, 20, 0.1, extinction=ed.Extinction(0.4)
            )
            for k in (1, 2)
        ),
        np.arange(21, dtype=np.float64) * 0.1,
    ),
}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensembles_are_saved_and_loaded_bit_for_bit(name: str, tmp_path: Path) -> None:
    ensemble = ENSEMBLES[name]()
    ensemble.save(tmp_path / "ensemble.nc")
    again = ed.load(tmp_path / "ensemble.nc")
    assert isinstance(again, ed.Ensemble) and again.same_as(ensemble) and ensemble.same_as(again)
    assert again.masses.tobytes() == ensemble.masses.tobytes() and again.termination == ensemble.termination
    with xr.open_dataset(tmp_path / "ensemble.nc", decode_times=False) as data:
        np.testing.assert_array_equal(data["mass"].values[:, : len(ensemble.t)], ensemble.masses)
        assert all({"long_name", "units"} <= set(v.attrs) for v in data.variables.values())


def test_members_of_two_kinds_are_refused(tmp_path: Path) -> None:
    map_ = ENSEMBLES["maps"]().runs[0]
    mixed = ed.Ensemble((map_, a_run()), np.array([0.0]))
    with pytest.raises(ValueError, match=r"solve and of iterate.*Run\.save"):
        mixed.save(tmp_path / "mixed.nc")


def test_noisy_trajectories_are_saved_and_loaded_bit_for_bit(tmp_path: Path) -> None:
    runs = noisy_runs()
    runs.save(tmp_path / "noisy.nc")
    again = ed.load(tmp_path / "noisy.nc")
    assert type(again) is ed.stochastic.StochasticRuns and again.same_as(runs)
    assert not any(getattr(again, name).flags.writeable for name in ("t", "masses", "extinction_time"))
    data = runs.to_xarray()
    assert data["mass"].dims == ("member", "time", "group")
    np.testing.assert_array_equal(data["log_mass"], runs.log_masses)


# Damage


def one_point(point: Any) -> xr.Dataset:
    return xr.Dataset({"value": ("x", np.arange(3.0) * point["factor"])}, attrs={"note": "one"})


def swept(path: Path) -> tuple[Callable[[], Any], Callable[[Any], bool]]:
    """Write the only point of a sweep; a damaged one is computed again."""
    (first,) = sweep(one_point, [{"factor": 2.0}], path.parent)
    (file,) = path.parent.glob("*.nc")
    file.rename(path)

    def again() -> Any:
        file.write_bytes(path.read_bytes())
        return sweep(one_point, [{"factor": 2.0}], path.parent)[0]

    return again, lambda found: bool(found.identical(first))


def saved(result: Any) -> Callable[[Path], tuple[Callable[[], Any], Callable[[Any], bool]]]:
    def write(path: Path) -> tuple[Callable[[], Any], Callable[[Any], bool]]:
        result.save(path)
        return lambda: ed.load(path), result.same_as

    return write


def study(path: Path) -> tuple[Callable[[], Any], Callable[[Any], bool]]:
    style, shared = module("paper_figures/extinction.py").style, module("studies/extinction.py")._shared
    data = xr.Dataset({"mass": (("time", "group"), [[1.0, 1.0], [0.5, 1.5]])}, {"time": [0.0, 1.0]})
    shared.write_netcdf(data, path, specification={"seed": 0}, provenance="{}")
    expected = style.read("any", path.name)
    return lambda: style.read("any", path.name), lambda found: bool(found.identical(expected))


def table(path: Path) -> tuple[Callable[[], Any], Callable[[Any], bool]]:
    style, shared = module("paper_figures/extinction.py").style, module("studies/extinction.py")._shared
    shared.write_csv([{"quantity": "a", "value": 0.1}, {"quantity": "b", "value": 2.5}], path)
    expected = style.read_rows("any", path.name)
    return lambda: style.read_rows("any", path.name), lambda found: bool(found == expected)


def summary(path: Path) -> tuple[Callable[[], Any], Callable[[Any], bool]]:
    style, shared = module("paper_figures/extinction.py").style, module("studies/extinction.py")._shared
    shared.write_json({"value": 2.5, "provenance": {"command": ["x"]}}, path)
    expected = style.read_json("any", path.name)
    return lambda: style.read_json("any", path.name), lambda found: bool(found == expected)


WRITERS: dict[str, Callable[[Path], tuple[Callable[[], Any], Callable[[Any], bool]]]] = {
    "run": lambda path: saved(a_run())(path),
    "ensemble": lambda path: saved(an_ensemble())(path),
    "noisy runs": lambda path: saved(noisy_runs())(path),
    "point of a sweep": swept,
    "study": study,
    "table of a study": table,
    "summary of a study": summary,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_flipped_bit_never_loads_as_something_else(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["figure.py", str(tmp_path)])  # where figures look for data
    path = tmp_path / "some.nc"
    load, same = WRITERS[kind](path)
    assert same(load())
    whole, named = path.read_bytes(), []
    flips = np.random.default_rng(5).choice(8 * len(whole), 25, replace=False)
    for flip in flips:
        damaged = bytearray(whole)
        damaged[flip // 8] ^= 1 << (flip % 8)
        path.write_bytes(damaged)
        try:
            assert same(load())
        except ValueError as error:
            named.append(path.name in str(error))
    assert all(named) and (len(named) > 20 or kind == "point of a sweep")


def test_points_of_sweeps_are_computed_again_after_any_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load, same = swept(tmp_path / "kept")
    data, _ = netcdf.read(tmp_path / "kept")
    data.attrs["note"] = "two"
    data.to_netcdf(tmp_path / "kept", engine="h5netcdf")
    assert same(load()) and "damaged and will be computed again" in caplog.text


def edited(data: xr.Dataset, old: str, new: str) -> xr.Dataset:
    text = {k: v.replace(old, new) for k, v in data.attrs.items() if isinstance(v, str)}
    assert text != data.attrs
    return data.assign_attrs(text)


def with_values(data: xr.Dataset, name: str, index: Any, value: Any) -> xr.Dataset:
    changed = data.copy(deep=True)
    changed[name].values[index] = value
    return changed


EDITS: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "decay": (lambda d: edited(d, '"decay": 0.2', '"decay": 0.3'), "checksum"),
    "threshold": (lambda d: edited(d, '"threshold": 0.2', '"threshold": 0.3'), "checksum"),
    "dynamics": (lambda d: edited(d, '"type": "Replicator"', '"type": "NormalizedGrowth"'), "checksum"),
    "steps": (lambda d: edited(d, '"termination": "COMPLETED"', '"termination": "STEP_LIMIT"'), "checksum"),
    "mass": (lambda d: with_values(d, "total_mass", (0, 0), 3.0000001), "checksum"),
    "unit": (lambda d: d.assign(log_share=d["log_share"].assign_attrs(units="kg")), "checksum"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_run_is_refused(name: str, tmp_path: Path) -> None:
    change, message = EDITS[name]
    sealed = as_saved().assign_attrs({netcdf.CHECKSUM: netcdf.checksum(as_saved())})
    change(sealed).to_netcdf(tmp_path / "edited.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=rf"edited\.nc.*{message}"):
        ed.load(tmp_path / "edited.nc")


def test_a_run_without_its_checksum_is_refused(tmp_path: Path) -> None:
    as_saved().to_netcdf(tmp_path / "bare.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"bare\.nc.*has no checksum"):
        ed.load(tmp_path / "bare.nc")


CRAFTED: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "share above 1": (lambda d: with_values(d, "log_share", (0, 0), 0.5), "log_share is outside"),
    "share not a number": (
        lambda d: with_values(d, "log_share", (0, 0), np.nan),
        "log_share is not a number",
    ),
    "negative mass": (lambda d: with_values(d, "end_mass", 0, -1.0), "end_mass is outside"),
    "negative total": (lambda d: with_values(d, "total_mass", (0, 0), -1.0), "total_mass is outside"),
    "totals disagree": (lambda d: with_values(d, "log_total_mass", (0, 0), 5.0), "total_mass.* disagree"),
    "times that fall": (lambda d: d.assign_coords(time=d["time"][::-1].values), "time does not increase"),
    "wrong length": (lambda d: d.isel(group=slice(3)), "for 3 groups"),
    "too few end masses": (
        lambda d: d.assign(end_mass=("other", d["end_mass"].values[:2])),
        r"end_mass has shape \(2,\)",
    ),
    "integers": (lambda d: d.assign(end_mass=d["end_mass"].astype(int)), "end_mass has shape .* of int"),
    "unknown group": (
        lambda d: d.assign(crossing_group=d["crossing_group"] + 40),
        "crossing_group is outside",
    ),
    "negative removal": (lambda d: with_values(d, "absorbed_mass", 1, -0.5), "absorbed_mass is outside"),
    "crossing two ways": (
        lambda d: d.assign(crossing_direction=abs(d["crossing_direction"]) * np.int8(2)),
        "crossing_direction is outside",
    ),
    "crossing never": (lambda d: with_values(d, "crossing_time", 0, np.inf), "crossing_time is outside"),
    "no such end": (lambda d: edited(d, '"COMPLETED"', '"FINISHED"'), "FINISHED"),
    "settings": (lambda d: edited(d, '"rtol": 1e-08', '"rtol": -1.0'), "rtol"),
    "count": (lambda d: edited(d, '"restarts": ', '"restarts": -'), "restarts"),
    "span": (lambda d: edited(d, '"t_span": [0.0, 5.0]', '"t_span": [0.0, NaN]'), "t_span"),
    "kind": (lambda d: edited(d, '"kind": "Run"', '"kind": "Walk"'), "something else"),
    "landscape": (lambda d: edited(d, '"type": "LinearDecay"', '"type": "Extinction"'), "Extinction"),
    "no specification": (lambda d: d.assign_attrs(specification="[]"), "damaged"),
    "no JSON": (lambda d: d.assign_attrs(status="{"), "damaged"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_run_with_a_right_checksum_is_refused(name: str, tmp_path: Path) -> None:
    change, message = CRAFTED[name]
    netcdf.write(change(as_saved()), tmp_path / "crafted.nc")
    with pytest.raises(ValueError, match=rf"crafted\.nc.*{message}"):
        ed.load(tmp_path / "crafted.nc")


def test_noisy_runs_with_negative_masses_are_refused(tmp_path: Path) -> None:
    noisy_runs().save(tmp_path / "noisy.nc")
    data, _ = netcdf.read(tmp_path / "noisy.nc")
    for name, changed in {
        "negative": with_values(data, "mass", (0, 0, 0), -1.0),
        "undefined": data.isel(time=slice(3)).assign_coords(time=[0.0, 0.1, np.nan]),
    }.items():
        path = tmp_path / f"{name}.nc"
        netcdf.write(changed, path)
        with pytest.raises(ValueError, match=path.name):
            ed.load(path)


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((16_000, 16_000), (1, 100)), ((1_200_000,), (1000,))],
    ids=["nothing written", "one chunk of more than compression could have made"],
)
def test_a_small_file_that_claims_a_large_shape_is_refused(
    shape: tuple[int, ...], chunks: tuple[int, ...], tmp_path: Path
) -> None:
    import tracemalloc

    h5py: Any = importlib.import_module("h5py")
    path = tmp_path / "large.nc"
    path.write_bytes((DATA / "map_schema_1.nc").read_bytes())
    with h5py.File(path, "r+") as file:
        large = file.create_dataset("large", shape=shape, dtype="f8", chunks=chunks)
        if len(shape) == 1:
            large[:1000] = 1.0
    assert path.stat().st_size < 50_000
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"large\.nc.*claims shape {re.escape(str(shape))}"):
        ed.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1e8
    tracemalloc.stop()


def test_what_netcdf_does_not_keep_is_refused(tmp_path: Path) -> None:
    complex_ = xr.Dataset({"a": ("x", np.array([1, None], dtype=object))})
    with pytest.raises((ValueError, TypeError)):
        netcdf.write(complex_, tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())


def test_checksums_of_text_are_those_of_sha256sum(tmp_path: Path) -> None:

    for name in ("a.csv", "b.csv", "a.csv"):
        write_text(tmp_path / name, f"{name}\r\n")
    sums = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.csv", "b.csv")}
    assert (tmp_path / SUMS).read_text() == "".join(f"{value}  {name}\n" for name, value in sums.items())
    assert read_text(tmp_path / "a.csv") == ("a.csv\r\n", True)
    (tmp_path / "b.csv").write_text("changed")
    with pytest.raises(ValueError, match=r"b\.csv.*does not match its checksum"):
        read_text(tmp_path / "b.csv")
    (tmp_path / SUMS).unlink()
    assert read_text(tmp_path / "b.csv") == ("changed", False)


# Files of earlier versions


@pytest.mark.parametrize(
    ("name", "dynamics", "digest"),
    [
        ("run", ed.Populations((ed.Replicator(), ed.SelectionMutation(0.1, [1.0, 2.0])), (2, 2)), "bf5357df"),
        ("map", ed.SelectionMutation(0.02), "41a16620"),
    ],
)
def test_runs_of_schema_1_load_and_say_that_they_have_no_checksum(
    name: str, dynamics: ed.Dynamics, digest: str, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=rf"{name}_schema_1\.nc.* no checksum"):
        run = ed.load(DATA / f"{name}_schema_1.nc")
    assert run.dynamics.same_as(dynamics) and run.termination is ed.Termination.COMPLETED
    assert run.landscape.same_as(landscapes.LinearDecay(C, 0.2 if name == "run" else 0.1))
    # Saved anew, it has a checksum and the same variables, bit for bit, and masses beside log-shares.
    assert netcdf.content_digest(netcdf.read(DATA / f"{name}_schema_1.nc")[0]).startswith(digest)
    run.save(tmp_path / "new.nc")
    new, _ = netcdf.read(tmp_path / "new.nc")
    assert netcdf.content_digest(new.drop_vars("mass") if "log_share" in new else new).startswith(digest)
    assert ed.load(tmp_path / "new.nc").same_as(run)


def test_masses_stand_beside_log_shares_and_older_files_do_without(tmp_path: Path) -> None:
    saved = as_saved()
    np.testing.assert_array_equal(saved["mass"], a_run().masses)
    netcdf.write(saved.drop_vars("mass"), tmp_path / "older.nc")
    assert ed.load(tmp_path / "older.nc").same_as(a_run())


def test_noisy_runs_of_before_lack_what_was_run(tmp_path: Path) -> None:
    runs = noisy_runs()
    runs.save(tmp_path / "noisy.nc")
    data, _ = netcdf.read(tmp_path / "noisy.nc")
    specification = json.loads(data.attrs["specification"])
    for name in ("dynamics", "landscape", "threshold"):
        del specification["fields"][name]
    older = data.drop_vars(["total_mass", "extinct_at_end", "specification_landscape_contribution"])
    netcdf.write(older.assign_attrs(specification=json.dumps(specification)), tmp_path / "older.nc")
    again = ed.load(tmp_path / "older.nc")
    assert again.dynamics is None and again.masses.tobytes() == runs.masses.tobytes()
    assert again.shares.shape == runs.shares.shape


def test_an_ensemble_without_its_members_records_is_named_so() -> None:
    with pytest.raises(
        ValueError, match=r"ensemble_schema_1\.nc.*tables of masses.*compute and save it again"
    ):
        ed.load(DATA / "ensemble_schema_1.nc")


@pytest.mark.parametrize("suffix", ["nc", "csv", "json"])
def test_study_files_without_a_checksum_are_drawn_and_said_to_be(
    suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = module("paper_figures/extinction.py").style
    monkeypatch.setattr(sys, "argv", ["figure.py", str(DATA)])
    read = {"nc": style.read, "csv": style.read_rows, "json": style.read_json}[suffix]
    with pytest.warns(UserWarning, match=rf"study_schema_1\.{suffix}.* no checksum"):
        found = read("any", f"study_schema_1.{suffix}")
    if suffix == "nc":
        assert found["mass"].values.tolist() == [[1.0, 1.0], [0.5, 1.5]]
    else:
        assert "2.5" in json.dumps(found)


def test_points_of_sweeps_of_schema_1_can_be_opened_and_are_never_reused() -> None:
    from evodyn.sweeps.sweep import _read

    found, sealed = netcdf.read(DATA / "point_schema_1.nc")
    assert found.sizes["group"] == 4 and not sealed
    # Their names did not depend on the code that computed them.
    assert _read(DATA / "point_schema_1.nc", found.attrs["sweep"]) is None


def test_study_files_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"study_schema_1\.nc.*something else"):
        ed.load(DATA / "study_schema_1.nc")


# A user's own specifications


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Logistic(ed.Dynamics):
    """A dynamics with fields."""

    capacity: float

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return fitness * (1 - masses / self.capacity)


class Attributed(ed.Dynamics):
    """A dynamics as one writes it who does not think of dataclasses."""

    def __init__(self, speed: float, weights: Any = (1, 2), **options: Any) -> None:
        self.speed = speed
        self.weights = np.array(weights)
        self.options = options
        self._half = speed / 2

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return self.speed * fitness


class Pulse(landscapes.Landscape):
    """A landscape with an attribute whose length is no number of groups."""

    def __init__(self, times: Any) -> None:
        self.times = np.array(times, dtype=float)

    def __call__(self, t: float, masses: Array) -> Array:
        return C - masses * float(np.interp(t, self.times, np.linspace(0, 1, len(self.times))))


OWN: dict[str, tuple[Any, Any]] = {
    "fields": (Logistic(9.0), landscapes.Constant(C)),
    "attributes": (Attributed(0.5, [3, 4, 5], names=["a"], deep={"b": (1, None)}), landscapes.Constant(C)),
    "landscape": (ed.Replicator(), Pulse([0.0, 1.0, 2.0])),
    "in a sum": (Logistic(9.0), landscapes.Constant(C) + Pulse([0.0, 1.0, 2.0])),
    "in blocks": (ed.Populations((Attributed(0.5), ed.Replicator()), (2, 2)), landscapes.Constant(C)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_users_own_specifications_are_saved_and_made_again(name: str, tmp_path: Path) -> None:
    dynamics, landscape = OWN[name]
    run = ed.solve(dynamics, landscape, P0, (0.0, 1.0), save_at=[0.0, 1.0])
    run.save(tmp_path / "run.nc")
    again = ed.load(tmp_path / "run.nc")
    assert again.same_as(run) and type(again.dynamics) is type(dynamics)
    assert ed.extend(again, 2.0).same_as(ed.extend(run, 2.0))


def test_a_class_that_is_not_found_is_not_rerunnable(tmp_path: Path) -> None:
    class Local(Attributed):
        def blocks(self, n: int) -> Any:
            return ((slice(0, 1), self), (slice(1, n), self))

    class LocalPulse(Pulse):
        pass

    run = dataclasses.replace(a_run(), dynamics=Local(0.5), landscape=LocalPulse([0.0, 1.0]))
    run.save(tmp_path / "run.nc")
    again = ed.load(tmp_path / "run.nc")
    assert "Local, not rerunnable" in repr(again.dynamics)
    assert "LocalPulse, not rerunnable" in repr(again.landscape)
    assert again.native.tobytes() == run.native.tobytes()
    assert again.masses.tobytes() == run.masses.tobytes()  # its blocks are known still
    message = r"was not found when the run was loaded.*dataclasses\.replace"
    with pytest.raises(TypeError, match=message):
        again.dynamics.velocity(P0, P0)
    with pytest.raises(TypeError, match=message):
        again.landscape(0.0, P0)
    # What was stored is stored again.
    again.save(tmp_path / "again.nc")
    one, other = (netcdf.read(tmp_path / f"{name}.nc")[0] for name in ("run", "again"))
    assert one.equals(other) and one.attrs["specification"] == other.attrs["specification"]
    restored = dataclasses.replace(again, dynamics=run.dynamics, landscape=run.landscape)
    assert restored.same_as(run)


def test_a_class_of_the_same_name_is_not_taken_for_evodyns(tmp_path: Path) -> None:
    replicator = type("Replicator", (Logistic,), {"__module__": __name__})
    ed.solve(replicator(9.0), landscapes.Constant(C), P0, (0.0, 1.0)).save(tmp_path / "run.nc")
    assert not isinstance(ed.load(tmp_path / "run.nc").dynamics, ed.Replicator)


@dataclasses.dataclass
class NoSpecification:
    """What no file may make."""

    value: float
    made: ClassVar[list[float]] = []

    def __post_init__(self) -> None:
        self.made.append(self.value)


def test_a_file_makes_specifications_and_nothing_else() -> None:
    described = {"type": f"{__name__}:NoSpecification", "kind": "landscape", "fields": {"value": 1.0}}
    assert "NoSpecification, not rerunnable" in repr(decode(described, {}))
    assert NoSpecification.made == []


def test_what_a_file_cannot_hold_is_named(tmp_path: Path) -> None:
    run = dataclasses.replace(a_run(), dynamics=Attributed(0.5, stream=io.StringIO()))
    with pytest.raises(ValueError, match=r"dynamics_options_stream is <_io\.StringIO.*cannot hold"):
        run.save(tmp_path / "run.nc")
    assert not list(tmp_path.iterdir())
