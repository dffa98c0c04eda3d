"""The studies as their users run them: from the command line, interrupted, resumed, and drawn."""

from __future__ import annotations

import ast
import contextlib
import csv
import errno
import importlib
import importlib.util
import inspect
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import xarray as xr
from typer.testing import CliRunner

import evodyn as ed
from evodyn.core.netcdf import content_digest
from tests.scripts import COPY, ROOT, call, fits, module, start

SMALL = ("--groups", "40", "--t-end", "60", "--seeds", "2")
BOTH = ("--heterogeneity", "1", "--heterogeneity", "0")


def extinction(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run the extinction study, small, in this process, as its command line would."""
    result = CliRunner().invoke(COMMAND, ["--out", str(folder), *SMALL, *arguments])
    assert result.exit_code == code, result.output
    return result.stdout, " ".join(result.stderr.split())


STUDY = module("studies/extinction.py")
SHARED = STUDY._shared
Scenario, simulate = STUDY.Scenario, STUDY.simulate
COMMAND = SHARED.command_line(STUDY.main)


def saved(folder: Path) -> xr.Dataset:
    return xr.load_dataset(folder / "extinction.nc", engine="h5netcdf", decode_times=False)


def same_result(left: Path, right: Path) -> bool:
    """Equal data variables and specification, bit for bit; provenance may differ."""
    a, b = saved(left), saved(right)
    return content_digest(a) == content_digest(b) and a.attrs["specification"] == b.attrs["specification"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A small run of the extinction study: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("extinction")
    out, _ = extinction(folder, "--heterogeneity", "0", "--heterogeneity", "1")
    return folder, out


def test_saved_data_hold_what_was_simulated(finished: tuple[Path, str]) -> None:
    data = saved(finished[0])
    times = data.time.values
    assert (times[0], times[-1]) == (0, 60) and (np.diff(times) > 0).all()
    sizes = {"kind": 1, "dynamics": 1, "decay": 2, "heterogeneity": 2, "seed": 2, "group": 40}
    assert {name: data.sizes[name] for name in sizes} == sizes
    assert all({"long_name", "units"} <= set(v.attrs) for v in data.variables.values())
    for decay in data.decay.values:
        for h in data.heterogeneity.values:
            for member in range(2):
                direct = simulate(
                    Scenario(groups=40, t_end=60.0, decay=float(decay), heterogeneity=float(h), member=member)
                )
                cell = data.sel(decay=decay, heterogeneity=h, seed=member, kind="lognormal")
                for name, variable in direct.data_vars.items():
                    np.testing.assert_array_equal(cell[name].values.squeeze(), variable.values)
    provenance = json.loads(data.attrs["provenance"])
    assert {"evodyn", "revision", "date", "wall_seconds", "command"} <= set(provenance)
    assert "wall_seconds" not in data.attrs["specification"]


def test_neutral_groups_never_die_and_others_die_as_theory_says(finished: tuple[Path, str]) -> None:
    data = saved(finished[0]).squeeze(["kind", "dynamics"])
    assert not data.extinct_at_end.sel(heterogeneity=0.0).any()
    assert np.isinf(data.extinction_time.sel(heterogeneity=0.0)).all()
    free = data.sel(decay=0.0, heterogeneity=1.0)
    times, exact = free.extinction_time.values, free.closed_form_extinction_time.values
    assert np.isfinite(exact).sum() > 70
    np.testing.assert_array_equal(np.isfinite(times), np.isfinite(exact))
    finite = np.isfinite(exact)
    np.testing.assert_allclose(times[finite], exact[finite], rtol=1e-6)
    dense = data.sel(decay=0.3)
    assert np.isnan(dense.closed_form_extinction_time).all()
    dead, doomed = dense.extinct_at_end.values, dense.equilibrium_mass.values < 1e-3
    assert not (dead & ~doomed).any()
    assert 0 < dead.sum() <= doomed.sum()
    # The record of times and the trajectory tell the same story.
    last = dense.fraction_extinct.isel(time=-1).values
    np.testing.assert_allclose(last, dead.mean(axis=-1), atol=1e-12)


def test_the_equilibrium_is_water_filling_by_an_independent_search() -> None:
    scenario = Scenario(groups=50, heterogeneity=0.8, decay=0.3)
    c = scenario.contribution()
    low, high = c.min() - 0.3 * 50, c.max()
    for _ in range(200):  # bisection on the water level ν of Σ (c - ν)_+ = λP
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.maximum(c - middle, 0).sum() > 0.3 * 50 else (low, middle)
    masses = np.maximum(c - low, 0) / 0.3
    assert STUDY.fraction_extinct_at_equilibrium(scenario) == np.mean(masses < 1e-3)
    np.testing.assert_allclose(simulate(scenario).equilibrium_mass, masses, rtol=1e-9, atol=1e-12)


def test_the_table_fits_80_columns_and_agrees_with_csv_and_data(finished: tuple[Path, str]) -> None:
    folder, out = finished
    assert fits(out, "extinction")
    with (folder / "extinction.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    data = saved(folder)
    for row in rows:
        key = {"decay": float(row["decay"]), "heterogeneity": float(row["heterogeneity"])}
        fractions = data.fraction_extinct.sel(**key).isel(time=-1).values.ravel()
        assert math.isclose(float(row["fraction_extinct"]), fractions.mean(), abs_tol=1e-15)
        # Student's t with one degree of freedom: 12.7062 standard errors.
        half = 12.706205 * fractions.std(ddof=1) / math.sqrt(2)
        assert math.isclose(
            float(row["interval_high"]), min(fractions.mean() + half, 1), rel_tol=1e-6, abs_tol=1e-12
        )
        assert f"{100 * fractions.mean():.2f}" in out
        theory = data.fraction_extinct_at_equilibrium.sel(**key).values.mean()
        assert math.isclose(float(row["difference"]), fractions.mean() - theory, abs_tol=1e-12)
    assert "λ = 0:" in out
    assert "λ = 0.3:" in out
    assert "None of the groups died that live at equilibrium." in out


def test_a_table_is_never_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [f"{k:08d}" for k in range(30)]
    with contextlib.ExitStack() as stack:
        study = SHARED.Study("wide", {}, stack, out=tmp_path)
        study.show(SHARED.table("Wide", cells, [cells[::-1]]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert cells in lines and cells[::-1] in lines


def test_workers_and_order_change_nothing_and_a_second_run_computes_nothing(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    _, err = extinction(tmp_path, *BOTH, "--workers", "2")
    assert "0 of 8 points reused" in err
    assert same_result(finished[0], tmp_path)
    _, err = extinction(tmp_path, *BOTH)
    assert "8 of 8 points reused" in err
    assert same_result(finished[0], tmp_path)


def test_another_configuration_reuses_nothing_and_says_so(finished: tuple[Path, str], tmp_path: Path) -> None:
    arguments = ("--heterogeneity", "1", "--decay", "0")
    extinction(tmp_path, *arguments)
    for change in (("--kind", "pareto"), ("--threshold", "0.01"), ("--seed", "1")):
        _, err = extinction(tmp_path, *arguments, *change)
        assert "0 of 2 points reused" in err
        assert "of other configurations, versions or code there, not used" in err
        assert not same_result(finished[0], tmp_path)


def test_a_killed_study_resumes_to_the_same_result_bit_for_bit(tmp_path: Path) -> None:
    arguments = "--groups 200 --seeds 10 --heterogeneity 1.5 --kind pareto --dynamics replicator --decay 0.01"
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start("studies/extinction.py", "--out", killed, *arguments.split(), "--workers", "2")
    deadline = time.monotonic() + 60
    while len(list(killed.glob("points/*.nc"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = len(list(killed.glob("points/*.nc")))
    assert 2 <= finished < 10
    assert not (killed / "extinction.nc").exists()
    _, err = extinction(killed, *arguments.split(), "--t-end", "300")
    assert f"{finished} of 10 points reused" in err
    extinction(whole, *arguments.split(), "--t-end", "300")
    assert same_result(killed, whole)


SLOW = ["--groups", "400", "--seeds", "40", "--heterogeneity", "1.5", "--decay", "0.01", "--workers", "2"]


def begun(folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start a study of many seconds, and return it with its workers once it has finished some points."""
    process = start("studies/extinction.py", "--out", folder, *SLOW, *arguments)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("points/*.nc"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process, psutil.Process(process.pid).children(recursive=True)


def alive(processes: list[psutil.Process], *, seconds: float) -> list[psutil.Process]:
    """Return which processes have not ended after so long at most."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        processes = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not processes:
            break
        time.sleep(0.1)
    return processes


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130), (signal.SIGHUP, 130)], ids=str
)
def test_a_study_that_is_ended_leaves_no_workers_and_no_lock(
    tmp_path: Path, how: signal.Signals, code: int
) -> None:
    process, workers = begun(tmp_path)
    assert len(workers) >= 2
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert how == signal.SIGKILL or "Interrupted. What is finished is kept" in err
    assert "Traceback" not in err
    assert alive(workers, seconds=8) == []
    (tmp_path / ".extinction.csv.1234.partial").write_text("what a kill left")
    (tmp_path / "points" / ".1.nc.1234.partial").write_text("what a kill left")
    extinction(tmp_path, "--heterogeneity", "0", "--decay", "0")
    assert not [*tmp_path.rglob("*.partial"), *tmp_path.rglob(".lock")]


LOST = """
import os, pathlib, signal, time
import xarray as xr
import _shared
from evodyn.core import processes

processes.REMINDER_SECONDS = 0.1
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored in the background


class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        pathlib.Path("lost").touch()  # never reached: the interrupt is raised before, and dropped


def task(point):
    if point["last"]:
        Deaf()
        try:
            time.sleep(60)
        finally:  # longer than reminders are apart
            time.sleep(0.5)
            pathlib.Path("ended").touch()
    return xr.Dataset()


def main(study: _shared.Study, seed: _shared.Seed = 0):
    study.sweep("Deaf", task, [{{"last": False}}, {{"last": True}}])


if __name__ == "__main__":
    _shared.command_line(main)()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_an_interrupt_that_python_drops_comes_again_and_ends_the_study_in_order(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "deaf.py").write_text(LOST.format(name=name))
    done = subprocess.run(
        [sys.executable, "deaf.py", "--out", "out"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(COPY / "studies"), *sys.path])},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 130, done.stderr
    assert "ignored" not in done.stderr
    assert done.stderr.count("Interrupted. What is finished is kept") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"deaf.py", "out", "ended"}
    assert len(list((tmp_path / "out").rglob("*.nc"))) == 1
    assert not list((tmp_path / "out").rglob(".lock"))


def test_a_second_run_in_the_same_folder_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    process, _ = begun(tmp_path)
    living = tmp_path / "points" / ".1.nc.1234.partial"
    living.write_text("half a file of the first run")
    _, err = extinction(tmp_path, code=1)
    assert f"in use by another run (process {process.pid} on " in err
    assert "Traceback" not in err
    assert living.exists()
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def test_the_study_runs_on_a_cluster_that_is_already_there(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    distributed: Any = importlib.import_module("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        extinction(tmp_path, *BOTH, "--scheduler", cluster.scheduler_address)
    assert same_result(finished[0], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--kind", "normal"), "kind is 'normal'"),
        (("--kind", "neutral"), "neutral groups do not differ"),
        (("--decay", "-1"), "decay is -1.0"),
        (("--dynamics", "moran"), "dynamics is 'moran'"),
        (("--dynamics", "selection_mutation", "--mutation-rate", "0"), "mutation_rate is 0.0"),
        (("--threshold", "2"), "threshold is 2.0"),
        (("--seeds", "0"), "seeds"),
        (("--workers", "2", "--scheduler", "tcp://127.0.0.1:9"), "expected one of them"),
    ],
)
def test_bad_options_are_named_without_a_traceback(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    _, err = extinction(tmp_path, "--heterogeneity", "1", *arguments, code=2)
    assert words in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert not list(tmp_path.glob("*"))


def test_folders_that_cannot_be_written_to_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    closed = tmp_path / "closed"
    opened = os.open

    def permitted(path: Any, *arguments: Any, **options: Any) -> int:  # root may write to every folder
        if Path(path).parent == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", permitted)
    for folder, reason in {
        tmp_path / "file": "it is a file",
        tmp_path / "file" / "below": "Not a directory",
        tmp_path / ("a" * 300): "File name too long",
        closed: "Permission denied",
    }.items():
        _, err = extinction(folder, *BOTH, code=2)
        assert reason in " ".join(err.replace("│", " ").split())
        assert "Traceback" not in err


def test_too_many_seeds_are_refused_at_once(tmp_path: Path) -> None:
    _, err = extinction(tmp_path, "--seeds", "1000000000", code=2)
    assert "100000" in err


@pytest.mark.parametrize(
    ("scheduler", "words", "code"),
    [
        ("nonsense", "scheduler is 'nonsense'; expected the address", 2),
        ("tcp://127.0.0.1:9", "where no Dask scheduler answers", 1),
    ],
)
def test_a_wrong_scheduler_is_one_message_at_once(
    tmp_path: Path, scheduler: str, words: str, code: int
) -> None:
    started = time.monotonic()
    _, err = extinction(tmp_path, *BOTH, "--scheduler", scheduler, code=code)
    assert words in " ".join(err.replace("│", " ").split())
    assert time.monotonic() - started < 10


LONELY = """
import time
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers={workers}, threads_per_worker=1, dashboard_address=":0")
    print(cluster.scheduler_address, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("workers", [0, 2], ids=["without workers", "lost"])
def test_a_scheduler_without_workers_or_lost_is_one_message(tmp_path: Path, workers: int) -> None:
    script = tmp_path / "cluster.py"
    script.write_text(LONELY.format(workers=workers))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(COPY / "studies"), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-Wignore", str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        options = ["--groups", "400", "--seeds", "40", "--scheduler", address]
        study = start("studies/extinction.py", "--out", tmp_path / "out", *options)
        while workers and study.poll() is None and len(list((tmp_path / "out").glob("points/*.nc"))) < 1:
            time.sleep(0.1)
        if workers:
            os.killpg(process.pid, signal.SIGKILL)
        _, err = study.communicate(timeout=30)
        if not workers:
            os.killpg(process.pid, signal.SIGKILL)
    assert study.returncode == 1
    assert ("was lost; what is finished is kept" if workers else "has no workers; start some") in err
    assert err.rstrip().splitlines()[-1].startswith(("the scheduler tcp://", "with a scheduler"))
    assert "Traceback" not in err


def test_mutation_and_normalised_growth_run_too(tmp_path: Path) -> None:
    both = ("--dynamics", "normalized_growth", "--dynamics", "selection_mutation")
    extinction(tmp_path, "--heterogeneity", "1", *both, "--decay", "0.3", "--threshold", "0.02")
    data = saved(tmp_path).squeeze(["kind", "decay", "heterogeneity"])
    growth = simulate(Scenario(groups=40, t_end=60.0, threshold=0.02))
    np.testing.assert_allclose(
        data.extinction_time.sel(dynamics="normalized_growth", seed=0), growth.extinction_time, rtol=1e-6
    )
    mutants = data.sel(dynamics="selection_mutation")
    assert (mutants.equilibrium_mass > 0).all()
    np.testing.assert_allclose(mutants.equilibrium_mass.sum("group"), 40, rtol=1e-9)


def test_smoke_runs_are_kept_apart() -> None:
    out = CliRunner().invoke(COMMAND, ["--smoke", "--heterogeneity", "1", "--decay", "0"]).stdout
    folder = Path("results", "quick", "extinction", "heterogeneity-1.0_decay-0.0")
    assert str(folder / "extinction.csv") in out
    assert saved(COPY / folder).sizes["group"] == 48


def test_other_settings_have_a_folder_of_their_own() -> None:
    """The command of the README leaves alone what the figures are drawn from."""
    default = COPY / "results" / "extinction"
    default.mkdir(parents=True)
    (default / "extinction.nc").write_text("of the defaults")
    readme = (ROOT / "README.md").read_text()
    (command,) = re.findall(
        r"^\.venv/bin/python studies/extinction\.py (--(?:\\\n|.)*)", readme, flags=re.MULTILINE
    )
    options = command.replace("\\\n", " ").split()
    for name, value in (("--seeds", "2"), ("--workers", "1")):
        options[options.index(name) + 1] = value
    result = CliRunner().invoke(COMMAND, [*options, "--groups", "40", "--t-end", "60"])
    assert result.exit_code == 0, result.output
    name = "kind-pareto_heterogeneity-1.5_decay-0.01_groups-40_t_end-60.0_seeds-2"
    assert f"the results go to {os.path.relpath(default / name)}." in result.stderr
    assert saved(default / name).sizes["group"] == 40
    assert (default / "extinction.nc").read_text() == "of the defaults"
    assert {path.name for path in default.iterdir()} == {"extinction.nc", name}


def test_how_to_compute_is_no_setting() -> None:
    changed = SHARED._changed
    _, *own = inspect.signature(STUDY.main).parameters.values()
    options = {parameter.name: parameter.default for parameter in own}
    assert not set(options) & set(SHARED.HOW)
    assert changed(STUDY.main, options | {"decay": [0.3, 0.0, 0.3]}) == {}
    assert changed(STUDY.main, options | {"seed": 1, "decay": [0.3]}) == {"decay": [0.3], "seed": 1}


def test_names_of_folders_are_short_and_differ() -> None:
    names = [
        SHARED.label({"dataset": value, "decay": list(range(count))})
        for value in ("a/b", "ab", "../ab")
        for count in (1, 100, 101)
    ]
    assert len(set(names)) == len(names)
    assert all(len(name) < 100 and re.fullmatch(r"[\w.+-]+", name) for name in names)
    assert SHARED.label({}) == ""


def test_help_tells_every_option() -> None:
    out, _ = call("studies/extinction.py", "--help")
    for option in [
        "seed",
        "seeds",
        "out",
        "fresh",
        "smoke",
        "workers",
        "scheduler",
        "heterogeneity",
        "kind",
        "dynamics",
        "decay",
    ]:
        assert f"--{option} " in out


def test_the_figure_is_drawn_from_saved_data(finished: tuple[Path, str]) -> None:
    folder = finished[0]
    out, _ = call("paper_figures/extinction.py", folder)
    assert "extinction.pdf" in out
    assert (folder / "extinction.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "extinction.png").read_bytes().startswith(b"\x89PNG")
    caption = (folder / "extinction.txt").read_text()
    for words in ("40 groups", "lognormal", "2 seeds", "λ = 0.3", "water-filling"):
        assert words in caption


def test_a_figure_without_data_names_the_study(tmp_path: Path) -> None:
    _, err = call("paper_figures/extinction.py", tmp_path, code=1)
    assert "extinction.nc is missing" in err
    assert "python studies/extinction.py" in err
    extinction(tmp_path, "--heterogeneity", "1", "--decay", "0")
    _, err = call("paper_figures/extinction.py", tmp_path, code=1)
    assert "the figure needs λ = 0 and another" in err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"groups": 0}, "n is 0"),
        ({"kind": "normal"}, "kind is 'normal'"),
        ({"saved_times": 2}, "saved_times is 2"),
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"t_end": math.inf}, "t_end is inf"),
    ],
)
def test_bad_scenarios(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Scenario(**values)


def test_scenarios_differ_in_nothing_but_their_draws() -> None:
    one, two = Scenario(heterogeneity=0.5), Scenario(heterogeneity=0.5, member=1)
    assert not np.array_equal(one.contribution(), two.contribution())
    np.testing.assert_array_equal(one.contribution(), Scenario(heterogeneity=0.5).contribution())
    # The same random numbers at every heterogeneity: the order of the groups is the same.
    other = Scenario(heterogeneity=2.0)
    np.testing.assert_array_equal(np.argsort(one.contribution()), np.argsort(other.contribution()))
    assert isinstance(one.landscape(), ed.landscapes.LinearDecay)
    assert isinstance(Scenario(decay=0.0).landscape(), ed.landscapes.Constant)


@pytest.mark.parametrize("script", sorted((ROOT / "studies").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_all_studies_share_their_options(script: Path) -> None:
    (main,) = (
        node
        for node in ast.parse(script.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    own = {argument.arg for argument in main.args.args}
    assert {"seed", "seeds"} <= own
    assert set(SHARED.HOW) == {"out", "fresh", "smoke", "workers", "scheduler", "draw"}
    assert "study" in own or set(SHARED.HOW) <= own
