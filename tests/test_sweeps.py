"""Sweeps: the same results from any number of processes, from a cluster, and after a kill."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import evodyn as ed
import evodyn.sweeps.points
import evodyn.sweeps.workers
from evodyn.core.atomic import PARTIAL, replacing
from evodyn.core.netcdf import content_digest
from evodyn.sweeps.points import configuration, points_of
from evodyn.sweeps.sweep import SweepError, sweep


def random_walk(point: Any) -> xr.Dataset:
    """A task whose result has floats (NaN among them), integers, booleans and strings."""
    rng = np.random.default_rng(point["seed"])
    matrix = rng.normal(size=(200, 200))
    walk = (matrix @ matrix.T)[0].cumsum()
    return xr.Dataset(
        {
            "walk": ("step", walk, {"units": "1", "long_name": "walk"}),
            "undefined": ("step", -np.full(200, np.nan)),
            "positive": ("step", walk > 0),
            "steps": ((), len(walk)),
            "process": ("nobody", np.empty(0)),
        },
        coords={"label": ("kind", ["π", "second"])},
        attrs={"title": "random walk"},
    )


def counted_walk(point: Any) -> xr.Dataset:
    """The same, leaving a mark for every call."""
    with open(point["log"], "a") as log:
        log.write(f"{point['seed']}\n")
    time.sleep(point.get("seconds", 0.0))
    return random_walk(point)


def odd_seeds_fail(point: Any) -> xr.Dataset:
    if point["seed"] % 2:
        raise ZeroDivisionError(f"seed {point['seed']} is odd")
    return random_walk(point)


def named(point: Any) -> xr.Dataset:
    return xr.Dataset({"name": ("row", [point["name"]])})


def returns_a_number(point: Any) -> Any:
    return 1.0


def returns_complex(point: Any) -> xr.Dataset:
    return xr.Dataset({"objects": ("x", np.array([{1: 2}, None], dtype=object))})


@dataclasses.dataclass(frozen=True)
class Point:
    seed: int
    rates: tuple[float, ...] = (0.5,)


SEEDS = [{"seed": seed} for seed in (3, 1, 2, 5, 4)]


def calls(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def identical(left: list[xr.Dataset], right: list[xr.Dataset]) -> bool:
    return len(left) == len(right) and all(
        a.identical(b) and content_digest(a) == content_digest(b) for a, b in zip(left, right, strict=True)
    )


def test_serial_and_parallel_results_are_equal_bit_for_bit_and_in_order(tmp_path: Path) -> None:
    serial = sweep(random_walk, SEEDS, tmp_path / "serial")
    parallel = sweep(random_walk, SEEDS, tmp_path / "parallel", workers=2)
    backwards = sweep(random_walk, SEEDS[::-1], tmp_path / "backwards")
    assert identical(serial, parallel)
    assert identical(serial, backwards[::-1])
    for point, result in zip(SEEDS, serial, strict=True):
        direct = random_walk(point)
        assert result.drop_attrs().identical(direct.drop_attrs())
        assert content_digest(result) == content_digest(direct)
        assert json.loads(result.attrs["sweep"])["configuration"] == point
    # The checker can fail: another seed is another result.
    assert not identical(serial, serial[::-1])


@pytest.mark.slow
def uphill(n: int) -> Any:
    return np.arange(1.0, n + 1)


def downhill(n: int) -> Any:
    return -np.arange(1.0, n + 1)


def decayed(point: Any) -> xr.Dataset:
    c = point["fitness"](3)
    label = ("mass", np.arange(point["groups"]), {"units": "1"})
    return xr.Dataset({"value": ("mass", point["decay"] * c[: point["groups"]])}, coords={"mass": label})


def test_a_grid_is_all_combinations_with_their_labels(tmp_path: Path) -> None:
    grid: dict[str, Any] = {"decay": np.array([0.1, 0.5]), "fitness": [uphill, downhill], "groups": (2, 3)}
    data = sweep(decayed, grid, tmp_path)
    assert data.value.dims == ("decay", "fitness", "groups", "mass") and data.value.shape == (2, 2, 2, 3)
    assert list(data.fitness.values) == ["uphill", "downhill"] and list(data.groups.values) == [2, 3]
    points = [
        {"decay": d, "fitness": f, "groups": n} for d in (0.1, 0.5) for f in grid["fitness"] for n in (2, 3)
    ]
    alone = sweep(decayed, points, tmp_path)  # the same points: nothing is computed again
    for point, one in zip(points, alone, strict=True):
        at = {"decay": point["decay"], "fitness": point["fitness"].__name__, "groups": point["groups"]}
        found = data.value.sel(at).values
        np.testing.assert_array_equal(found[: point["groups"]], one.value.values)
        assert np.isnan(found[point["groups"] :]).all()  # of a group that this one does not have
    assert json.loads(data.attrs["sweep"]) == [json.loads(one.attrs["sweep"]) for one in alone]
    twice = sweep(decayed, {**grid, "fitness": [uphill, uphill]}, tmp_path)
    assert list(twice.fitness.values) == [0, 1]  # names that tell nobody apart are numbers


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"decay": [], "fitness": [uphill], "groups": [2]}, r"points\['decay'\] is empty"),
        ({}, "points is {}; expected at least one name"),
        ({"decay": "ab"}, r"points\['decay'\] is 'ab'; expected the values"),
        ({"decay": 0.5}, r"points\['decay'\] is 0.5; expected the values"),
        ({"decay": [0.5], "fitness": [uphill], "groups": [2], "mass": [1]}, "the name 'mass', and so have"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(grid: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(decayed, grid, tmp_path)


def test_an_existing_dask_cluster_gives_the_same_bits(tmp_path: Path) -> None:
    distributed: Any = importlib.import_module("distributed")
    serial = sweep(random_walk, SEEDS, tmp_path / "serial")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        remote = sweep(random_walk, SEEDS, tmp_path / "remote", scheduler=cluster.scheduler_address)
        with pytest.raises(SweepError, match="seed 3 is odd"):
            sweep(odd_seeds_fail, SEEDS, tmp_path / "remote", scheduler=cluster.scheduler_address)
        pids = cluster.workers[0].pid, cluster.workers[1].pid
    assert os.getpid() not in pids
    assert identical(serial, remote)


def test_finished_points_are_not_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="evodyn.sweeps")
    log = tmp_path / "log"
    points = [{"seed": seed, "log": str(log)} for seed in range(4)]
    first = sweep(counted_walk, points[:2], tmp_path / "sweep")
    assert calls(log) == [0, 1]
    more = sweep(counted_walk, points, tmp_path / "sweep")
    assert calls(log) == [0, 1, 2, 3]
    assert "2 of 4 points reused" in caplog.text
    assert identical(first, more[:2])
    again = sweep(counted_walk, points, tmp_path / "sweep", fresh=True)
    assert calls(log) == [0, 1, 2, 3] * 2
    assert identical(more, again)


def test_nothing_of_another_configuration_function_or_version_is_reused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="evodyn.sweeps")
    sweep(random_walk, [{"seed": 1}], tmp_path)
    log = tmp_path / "log"
    sweep(counted_walk, [{"seed": 1, "log": str(log)}], tmp_path)
    sweep(counted_walk, [{"seed": 1, "log": str(log), "seconds": 0.0}], tmp_path)
    monkeypatch.setattr(evodyn.sweeps.points, "__version__", "0.0.0")
    sweep(counted_walk, [{"seed": 1, "log": str(log)}], tmp_path)
    assert calls(log) == [1, 1, 1]
    assert len(list(tmp_path.glob("*.nc"))) == 4
    assert caplog.text.count("0 of 1 points reused") == 4
    assert re.search(r"3 files \(\w+\.nc, \w+\.nc, \w+\.nc\) of other configurations", caplog.text)


@dataclasses.dataclass(frozen=True)
class OtherPoint(Point):
    pass


class Name(str):
    __slots__ = ()


def kind_of(point: Any) -> xr.Dataset:
    point = point["inner"] if isinstance(point, dict) else point
    return xr.Dataset({"kind": ("row", [type(point).__name__])})


def test_types_are_part_of_a_point(tmp_path: Path) -> None:
    plain: list[Any] = [Point(1), OtherPoint(1), dataclasses.asdict(Point(1))]
    points = [*plain[:2], *({"inner": value} for value in (*plain, (1,), [1], Name("a"), "a"))]
    points += [{"inner": value} for value in (1, 1.0, True, np.float64(1), np.float32(1))]
    results = [str(result.kind[0].item()) for result in sweep(kind_of, points, tmp_path)]
    expected = ["Point", "OtherPoint", "Point", "OtherPoint", "dict", "tuple", "list", "Name", "str"]
    assert results == [*expected, "int", "float", "bool", "float64", "float32"]
    assert len(list(tmp_path.glob("*.nc"))) == len(points)


TASK = """
import dataclasses
import functools
import xarray as xr

SCALE = 1.0
COUNTED = 0


@dataclasses.dataclass(frozen=True)
class Setting:
    value: float

    def doubled(self):
        return 2 * self.value


def doubled(x):
    return 2 * x


def tripled(x):
    return 3 * x


def unused(x):
    return 4 * x


MAPS = {"double": doubled}


def guarded(x):
    try: x = x + 1
    except ValueError:
        return None
    return x


def task(setting, offset=0.0):
    global COUNTED
    COUNTED += 1
    with open(__file__ + ".log", "a") as log:
        log.write("x")
    return xr.Dataset({"x": SCALE * guarded(MAPS["double"](setting.doubled())) + offset})
"""
EDITS = {
    "a comment": ("def task", "# A comment.\n\n\ndef task", False),
    "a docstring": ("    global COUNTED", "    'Docstring.'\n    global COUNTED", False),
    "layout": (
        "    try: x = x + 1",
        "    try:\n        x = (\n            x\n            + 1\n        )",
        False,
    ),
    "a function that is not called": ("return 4 * x", "return 5 * x", False),
    "the function": ("+ offset", "- offset", True),
    "its default": ("offset=0.0", "offset=1.0", True),
    "a method of the point": ("return 2 * self.value", "return 3 * self.value", True),
    "a function in a table": ("return 2 * x", "return 5 * x", True),
    "a table": ('"double": doubled', '"double": tripled', True),
    "a constant": ("SCALE = 1.0", "SCALE = 2.0", True),
    "what is guarded": ("try: x = x + 1", "x = x + 1\n    try: x = +x", True),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_function_is_computed_again_and_a_new_layout_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    old, new, changes = EDITS[edit]
    assert TASK.count(old) == 1
    name = f"edited_{list(EDITS).index(edit)}"
    file = tmp_path / f"{name}.py"
    for text in (TASK, TASK, TASK.replace(old, new)):
        file.write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop(name, None)
        task = importlib.import_module(name)
        sweep(task.task, [task.Setting(1.0), task.Setting(2.0)], tmp_path / "sweep")
        # Within a session too, where the task has counted.
        sweep(task.task, [task.Setting(1.0), task.Setting(2.0)], tmp_path / "sweep")
    assert len((tmp_path / f"{name}.py.log").read_text()) == (4 if changes else 2)
    assert len(list((tmp_path / "sweep").glob("*.nc"))) == (4 if changes else 2)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["", "edited."], ids=["a file", "a package"])
def test_workers_of_an_earlier_sweep_do_not_run_old_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    folder, name = tmp_path / package.rstrip("."), f"{package}edited_task"
    folder.mkdir(exist_ok=True)
    for factor in (1, 2):
        (folder / "edited_task.py").write_text(
            f"import xarray as xr\ndef task(point):\n    return xr.Dataset({{'x': {factor} * point['x']}})\n"
        )
        importlib.invalidate_caches()
        sys.modules.pop(name, None)
        task = importlib.import_module(name).task
        results = sweep(task, [{"x": x} for x in (1, 2, 3)], tmp_path / "sweep", workers=2)
        assert [int(result.x) for result in results] == [factor, 2 * factor, 3 * factor]


def test_a_point_listed_twice_is_computed_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    point = {"seed": 1, "log": str(log)}
    results = sweep(counted_walk, [point, dict(reversed(point.items()))], tmp_path / "sweep")
    assert calls(log) == [1]
    assert len(results) == 2
    assert sweep(counted_walk, [], tmp_path / "sweep") == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: raw[: len(raw) // 3], "Error"),
        (lambda raw: b"", "Error"),
        (None, "not match its checksum"),
    ],
    ids=["truncated", "empty", "a bit flipped"],
)
def test_damaged_files_are_computed_again_and_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any, reason: str
) -> None:
    (before,) = sweep(random_walk, SEEDS[:1], tmp_path)
    (path,) = tmp_path.glob("*.nc")
    raw = path.read_bytes()
    if damage is None:
        stored = before.walk.values[7].tobytes()
        assert raw.count(stored) == 1
        flipped = bytes([stored[0] ^ 1]) + stored[1:]
        path.write_bytes(raw.replace(stored, flipped))
        assert float(xr.load_dataset(path, engine="h5netcdf").walk[7]) != float(before.walk[7])
    else:
        path.write_bytes(damage(raw))
    (after,) = sweep(random_walk, SEEDS[:1], tmp_path)
    assert identical([before], [after])
    assert "damaged and will be computed again" in caplog.text
    assert reason in caplog.text


def test_a_file_under_anothers_name_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = sweep(random_walk, SEEDS[:2], tmp_path)
    first, second = sorted(tmp_path.glob("*.nc"))
    first.write_bytes(second.read_bytes())
    assert identical(sweep(random_walk, SEEDS[:2], tmp_path), [one, two])
    assert "computed from something else than its name says" in caplog.text


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_point_does_not_stop_the_others(tmp_path: Path, workers: int) -> None:
    points = [{"seed": seed} for seed in range(14)]
    with pytest.raises(SweepError) as caught:
        sweep(odd_seeds_fail, points, tmp_path, workers=workers)
    message = str(caught.value)
    assert message.startswith(f"7 points of {__name__}:odd_seeds_fail failed")
    assert "{'seed': 1}: ZeroDivisionError: seed 1 is odd" in message
    assert "and 2 more" in message
    assert [point["seed"] for point, _ in caught.value.failures] == [1, 3, 5, 7, 9, 11, 13]
    assert all("odd_seeds_fail" in trace for _, trace in caught.value.failures)
    assert len(list(tmp_path.glob("*.nc"))) == 7
    good = sweep(odd_seeds_fail, points[::2], tmp_path)
    assert identical(good, sweep(odd_seeds_fail, points[::2], tmp_path / "new"))


@pytest.mark.parametrize(
    ("task", "words"), [(returns_a_number, "returned float"), (returns_complex, "Error")]
)
def test_results_that_no_file_can_hold_are_failures(tmp_path: Path, task: Any, words: str) -> None:
    with pytest.raises(SweepError, match=words):
        sweep(task, [{"seed": 0}], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_with_another_version_is_refused() -> None:
    task, point = pickle.dumps(random_walk), pickle.dumps({"seed": 1})
    attempt = evodyn.sweeps.workers._attempt_elsewhere
    _, result, trace = attempt("key", task, point, "0.0.0", None)
    assert result is None
    assert "install the same version" in trace
    _, result, trace = attempt("key", task, point, ed.__version__, "other")
    assert result is None
    assert "this worker has other code" in trace
    (identified,) = points_of(random_walk, [{"seed": 1}])
    _, result, trace = attempt("key", task, point, ed.__version__, identified.code)
    assert result is not None and not trace


def test_progress_counts_reused_and_failed_points(tmp_path: Path) -> None:
    sweep(odd_seeds_fail, [{"seed": 0}], tmp_path)
    seen: list[tuple[int, int]] = []
    with pytest.raises(SweepError):
        sweep(
            odd_seeds_fail,
            [{"seed": k} for k in range(4)],
            tmp_path,
            progress=lambda done, total: seen.append((done, total)),
        )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def _nested() -> Any:
    def inside(point: Any) -> xr.Dataset:
        return random_walk(point)

    return inside


class _Object:
    def __call__(self, point: Any) -> xr.Dataset:
        return random_walk(point)


@pytest.mark.parametrize("task", [lambda point: random_walk(point), _nested(), _Object()])
def test_functions_without_a_name_in_their_module_are_refused(tmp_path: Path, task: Any) -> None:
    with pytest.raises(ValueError, match=r"function is .*top level of a module, script or notebook"):
        sweep(task, SEEDS, tmp_path)


LOOSE = """
import dataclasses
import functools
import os
import sys

import numpy as np
import xarray as xr

import evodyn as ed
{helper}

SCALE = 2.0


@functools.lru_cache(maxsize=3)
def first(n):
    return n and first(0)  # a cache travels with its function, which may call itself


@dataclasses.dataclass(frozen=True)
class Scenario:
    dynamics: ed.Dynamics
    rates: tuple[float, ...]


def scaled(x):
    return SCALE * x


def task(scenario):
    assert [field.name for field in dataclasses.fields(scenario)] == ["dynamics", "rates"]
    assert first(3) == 0 and first.cache_parameters()["maxsize"] == 3
    velocity = scenario.dynamics.velocity(np.ones(3), np.array(scenario.rates))
    return xr.Dataset({{"x": ("k", scaled(velocity)), "process": os.getpid()}})


MUTATIONS = [ed.SelectionMutation(0.1 * k, target=np.arange(1.0, 4.0)) for k in range(4)]
POINTS = [Scenario(mutation, (0.0, 1.0, 2.0)) for mutation in MUTATIONS]
if __name__ == "__main__":
    folder, *where = sys.argv[1:]
    options = {{"scheduler": where[0]}} if where else {{"workers": 2}}
    found = ed.sweep(task, POINTS, folder, **options)
    assert not {{int(result.process) for result in found}} & {{os.getpid()}}
"""


def script(path: Path, *arguments: object, module: str = "") -> None:
    """Run a script, or a module of a package, in a folder where nothing else is importable."""
    command = [sys.executable, "-Werror", *(["-m", module] if module else [str(path)]), *map(str, arguments)]
    paths = os.pathsep.join(
        filter(None, [str(Path(ed.__file__).parent.parent), os.environ.get("PYTHONPATH")])
    )
    done = subprocess.run(
        command, cwd=path.parent, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_the_code_of_a_script_travels_and_its_name_is_no_part_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, folder = tmp_path / "packaged", tmp_path / "points"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for file in (tmp_path / "loose_task.py", package / "inside.py"):
        file.write_text(LOOSE.format(helper=""))
    script(tmp_path / "loose_task.py", folder)
    saved = sorted(folder.glob("*.nc"))
    before = [file.read_bytes() for file in saved]
    assert len(saved) == 4
    script(tmp_path / "loose_task.py", folder)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("loose_task", "packaged.inside"):
        task: Any = importlib.import_module(name)
        sweep(task.task, task.POINTS, folder)
    assert [file.read_bytes() for file in sorted(folder.glob("*.nc"))] == before
    monkeypatch.setattr(task, "SCALE", 3.0)
    sweep(task.task, task.POINTS, folder)
    assert len(list(folder.glob("*.nc"))) == 8


def test_the_code_of_a_script_travels_to_a_cluster(tmp_path: Path) -> None:
    distributed: Any = importlib.import_module("distributed")
    (tmp_path / "beside.py").write_text("def halved(x):\n    return x / 2\n")
    (tmp_path / "loose_task.py").write_text(
        LOOSE.format(helper="from beside import halved").replace(
            "return SCALE * x", "return halved(SCALE * x)"
        )
    )
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        script(tmp_path / "loose_task.py", tmp_path / "points", cluster.scheduler_address)
    found = [xr.load_dataset(file, engine="h5netcdf") for file in sorted((tmp_path / "points").glob("*.nc"))]
    assert len(found) == 4
    assert all(result.attrs["sweep"].count('"function": "task"') == 1 for result in found)


def locked(point: Any) -> xr.Dataset:
    with LOCK:
        return random_walk(point)


LOCK = threading.Lock()


def test_what_cannot_travel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evodyn.core.pickles, "is_loose", lambda module: vars(module) is globals())
    with pytest.raises(ValueError, match=r"function locked .* cannot travel to other processes \(TypeError"):
        sweep(locked, SEEDS, tmp_path, workers=2)
    assert len(sweep(locked, SEEDS[:1], tmp_path)) == 1


def falling(t: float) -> float:
    return 1 / (1 + t)


def rising(t: float) -> float:
    return 1 - 1 / (1 + t)


def test_specifications_arrays_and_functions_are_part_of_a_point(tmp_path: Path) -> None:
    target = np.array([1.0, 2.0])
    values: list[Any] = [
        ed.Replicator(),
        ed.NormalizedGrowth(),
        ed.SelectionMutation(0.1),
        ed.SelectionMutation(0.1, target=target),
        ed.SelectionMutation(0.1, target=target[::-1]),
        ed.SelectionMutation(falling),
        ed.SelectionMutation(rising),
        ed.Populations(ed.Replicator(), (1, 2)),
        target,
        target.astype(np.float32),
        target[None],
    ]
    points = points_of(named, [{"value": value} for value in values])
    assert len({point.key for point in points}) == len(values)
    again = points_of(named, [{"value": ed.SelectionMutation(0.1, target=[1.0, 2.0])}])
    assert again[0].key == points[3].key


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"workers": 2, "scheduler": "tcp://localhost:1"}, "expected one of them"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sweep(random_walk, SEEDS, tmp_path, **arguments)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(FileExistsError, match=r"results' is a file; expected a folder"):
        sweep(random_walk, SEEDS, tmp_path / "results")


@pytest.mark.parametrize(
    ("point", "name"),
    [
        ({"rate": float("nan")}, "points[0].rate is nan"),
        ({"rates": [1.0, float("inf")]}, "points[0].rates[1] is inf"),
        ({"array": np.array([None])}, "points[0].array"),
        ({"function": lambda t: t}, "points[0].function"),
        ({1: "one"}, "points[0] is {1: 'one'}"),
        (object(), "points[0]"),
    ],
)
def test_points_must_be_plain(tmp_path: Path, point: Any, name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(name)):
        sweep(random_walk, [point], tmp_path)


def test_configuration_keeps_every_plain_value() -> None:
    point = {"a": np.int64(3), "b": np.float64(0.1), "c": Point(2), "d": None, "e": [True, "x", -0.0, 2**70]}
    described = configuration(point)
    assert described == {
        "a": 3,
        "b": 0.1,
        "c": {"seed": 2, "rates": [0.5]},
        "d": None,
        "e": [True, "x", -0.0, 2**70],
    }
    assert json.loads(json.dumps(described, allow_nan=False)) == described


@pytest.mark.parametrize(("library", "workers"), [("threadpoolctl", 1), ("cloudpickle", 2), ("joblib", 2)])
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, workers: int
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}.*evodyn\[studies\]"):
        sweep(random_walk, SEEDS, tmp_path, workers=workers)


SCRIPT = f"""
import signal
import sys
from {__name__} import counted_walk
from evodyn.sweeps.sweep import sweep
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
log, folder = sys.argv[1:]
sweep(counted_walk, [dict(seed=k, log=log, seconds=0.5) for k in range(12)], folder, workers=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_an_interrupted_sweep_resumes_to_the_same_bits(tmp_path: Path, how: signal.Signals) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    log, folder = tmp_path / "log", tmp_path / "interrupted"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(log), str(folder)],
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while len(list(folder.glob("*.nc"))) < 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        # Ctrl-C in a terminal reaches the workers too; a kill takes the whole group here.
        os.killpg(process.pid, how)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode != 0
    assert how != signal.SIGINT or b"KeyboardInterrupt" in stderr
    finished = len(list(folder.glob("*.nc")))
    assert 3 <= finished < 12

    # What a kill leaves behind is swept away, not read.
    (folder / f".0123.nc.abc{PARTIAL}").write_bytes(b"half a file")
    log.unlink()
    points = [{"seed": k, "log": str(log), "seconds": 0.5} for k in range(12)]
    resumed = sweep(counted_walk, points, folder, workers=2)
    assert len(calls(log)) == 12 - finished
    assert not list(folder.glob(f".*{PARTIAL}"))
    assert identical(resumed, sweep(counted_walk, points, tmp_path / "uninterrupted"))


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    with replacing(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        _interrupted_write(path)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_current_umask()


def _interrupted_write(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_joined_texts_are_saved_whole(tmp_path: Path) -> None:
    points = [{"name": "one"}, {"name": "a longer one"}]
    joined = xr.concat(sweep(named, points, tmp_path / "points"), "row")
    joined.to_netcdf(tmp_path / "joined.nc", engine="h5netcdf")
    assert xr.load_dataset(tmp_path / "joined.nc", engine="h5netcdf").name.values.tolist() == [
        "one",
        "a longer one",
    ]
