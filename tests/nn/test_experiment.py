"""The paper's experiment: its settings, that it resumes after a kill, and its comparison with the paper."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

import evodyn as ed
from evodyn.core.netcdf import content_digest
from evodyn.model.descriptions import decode, encode
from evodyn.sweeps.sweep import SweepError
from nn_bridge import Selector, load_mnist, population_layers
from nn_bridge.paper.experiment import Experiment, paper_dynamics
from nn_bridge.paper.reports import EpochReport, postbox
from nn_bridge.paper.runs import Source, run_all, train, trained_network
from nn_bridge.paper.tables import BASELINE, comparison, printed_table
from tests.scripts import module

pytestmark = pytest.mark.nn

TINY: dict[str, Any] = {
    "widths": (784, 16, 8, 10),
    "epochs": 3,
    "train_samples": 1280,
    "learning_rate": 0.05,
    "test_samples": 300,
    "step_size": 0.1,
    "relative": True,
    "smoothing": 0.9,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = tmp_path_factory.mktemp("data")
    load_mnist(root)
    return Source(data_root=str(root))


def run(experiment: Experiment, folder: Path, source: Source, **options: Any) -> xr.Dataset:
    return run_all([experiment], folder, source, **options)[0]


def same(a: xr.Dataset, b: xr.Dataset) -> bool:
    return content_digest(a) == content_digest(b) and a.identical(b.assign_attrs(a.attrs))


def test_the_defaults_are_section_8() -> None:
    e = Experiment()
    assert (e.widths, e.epochs, e.batch_size, e.seed) == ((784, 512, 256, 10), 20, 128, 0)
    assert (e.learning_rate, e.momentum, e.step_size, e.decay) == (0.01, 0.9, 5e-4, 1e-3)
    assert e.sparsities == (0.35, 0.40, 0.45, 0.50) and e.thresholds == (0.6, 0.7, 0.8, 0.9)
    assert e.dynamics.same_as(paper_dynamics()["replicator"])
    selections = [Experiment(dynamics=d).selection() for d in paper_dynamics().values()]
    expected = [
        ed.Replicator(signal_clip=0.10),
        ed.NormalizedGrowth(mass_cap=768.0, signal_clip=0.10),
        ed.SelectionMutation(2e-3, signal_clip=0.10),
    ]
    assert all(a.same_as(b) for a, b in zip(selections, expected, strict=True))
    signal = e.signal()
    assert (signal.per_sample, signal.smoothing, signal.relative, signal.summed) == (False, 0.0, False, False)


def test_layers_that_compete_apart_share_the_cap() -> None:
    dynamics = Experiment(dynamics=ed.NormalizedGrowth(768.0), scope="layer").selection()
    parts = [member for _, member in dynamics.blocks(768)]
    assert [part.mass_cap for part in parts] == [512.0, 256.0]


def test_an_experiment_holds_any_dynamics_and_is_described_with_it() -> None:
    target = np.linspace(0.5, 1.5, 768)
    for dynamics in (ed.SelectionMutation(0.1, target, 0.2), ed.Selection(lambda masses, fitness: fitness)):
        assert Experiment(dynamics=dynamics).selection() is dynamics
    experiment = Experiment(dynamics=ed.SelectionMutation(0.1, target, 0.2), widths=(784, 512, 256, 10))
    arrays: dict[str, np.ndarray] = {}
    description = json.loads(json.dumps(encode(experiment, arrays, "experiment")))
    assert decode(description, arrays).same_as(experiment)
    assert not decode(description, {key: 2 * values for key, values in arrays.items()}).same_as(experiment)


def test_a_clip_of_fitness_itself_is_that_of_the_dynamics() -> None:
    experiment = Experiment(dynamics=ed.Replicator(0.5), clipped="fitness")
    assert experiment.selection().same_as(ed.Replicator())
    fitness = experiment.landscape(torch.tensor([-2.0, 0.25, 2.0]))(0.0, torch.zeros(3))
    assert np.asarray(fitness).tolist() == [-0.5, 0.25, 0.5]
    assert Experiment(dynamics=ed.Replicator(0.5)).selection().same_as(ed.Replicator(0.5))


@pytest.mark.parametrize(
    "bad",
    [
        {"dynamics": "moran"},
        {"epochs": 0},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"smoothing": 1.0},
        {"clipped": "sum"},
        {"dataset": "cifar"},
        {"scope": "neuron"},
        {"pruning": "best"},
        {"train_samples": -5},
        {"test_samples": 0},
        {"widths": (784, 0, 10)},
        {"sparsities": (0.5, 35)},
        {"thresholds": (-0.1,)},
    ],
)
def test_impossible_experiments_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Experiment(**bad)


def test_a_run_reports_stores_and_is_not_done_twice(
    tmp_path: Path, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = Experiment(**TINY)
    reports: list[EpochReport] = []

    def keep(index: int, report: EpochReport) -> None:
        reports.append(report)

    result = run(experiment, tmp_path, source, on_epoch=keep)
    assert [r.epoch for r in reports] == [0, 1, 2, 3]
    assert [r.accuracy for r in reports] == result["accuracy"].values.tolist()
    assert result["accuracy"][-1] > 0.6 > result["accuracy"][0]
    assert result["mass"].shape == (4, 24) and (result["mass"][0] == 1).all()
    assert int(result["histogram"].sum()) == 24
    assert result["layer"].values.tolist() == [0] * 16 + [1] * 8
    assert all({"long_name", "units"} <= variable.attrs.keys() for variable in result.variables.values())
    configuration = json.loads(result.attrs["sweep"])["configuration"]
    assert configuration["experiment"]["smoothing"] == 0.9
    assert configuration["experiment"]["dynamics"] == {"signal_clip": 0.1}
    reports.clear()
    again = run(experiment, tmp_path, source, on_epoch=keep)
    assert not reports and same(again, result)
    # Another configuration beside it takes nothing from it, though its numbers may be equal; nor does one of
    # another type of dynamics. All of them stay, and are named.
    with caplog.at_level("INFO", "evodyn.sweeps"):
        other = run(Experiment(**TINY | {"dynamics": ed.NormalizedGrowth(None, 0.1)}), tmp_path, source)
    assert len(list(tmp_path.glob("*.nc"))) == 2 and content_digest(other) == content_digest(result)
    assert "0 of 1 points reused" in caplog.text and "1 file (" in caplog.text
    for file in tmp_path.glob("*.nc"):
        file.write_bytes(file.read_bytes()[:-300])
    assert same(run(experiment, tmp_path, source, on_epoch=keep), result)
    assert len(reports) == 4  # from its checkpoint
    assert same(run(experiment, tmp_path, source, fresh=True), result)


def test_the_removals_are_those_of_the_trained_network(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(**TINY)
    result = run(experiment, tmp_path, source)
    # Nothing is trained any further, so that other threads than those of the training are no cause to warn.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    model = trained_network(experiment, tmp_path, source)
    masses = torch.cat([layer.masses for layer in population_layers(model)]).numpy()
    assert np.array_equal(masses, result["mass"].values[-1])
    np.testing.assert_array_equal(
        result["epsilon_at_sparsity"].values, np.quantile(masses, experiment.sparsities)
    )
    np.testing.assert_array_equal(
        result["removed_at_threshold"].values, [(masses < e).mean() for e in experiment.thresholds]
    )
    # One of them by hand: zero the masses below the median.
    data = load_mnist(source.data_root).first(1280, 300)
    for layer in population_layers(model):
        layer.masses[layer.masses < float(np.quantile(masses, 0.5))] = 0.0
    with torch.no_grad():
        right = (model(data.test_images).argmax(1) == data.test_labels).double().mean()
    assert float(result["accuracy_at_sparsity"][3]) == float(right)
    with pytest.raises(ValueError, match="no checkpoint of a finished run"):
        trained_network(Experiment(), tmp_path, source)


SCRIPT = """
import json, sys
from nn_bridge.paper.experiment import Experiment
from nn_bridge.paper.runs import Source, run_all
arguments = json.loads(sys.argv[1])
run_all([Experiment(**arguments["experiment"])], sys.argv[2], Source(**arguments["source"]))
"""


def test_a_killed_run_goes_on_to_the_same_result_bit_for_bit(tmp_path: Path, source: Source) -> None:
    settings = TINY | {"epochs": 12}
    experiment = Experiment(**settings)
    arguments = {
        "experiment": settings | {"widths": list(settings["widths"])},
        "source": {"threads": source.threads, "data_root": source.data_root},
    }
    # Tuples arrive as lists in the other process, and must name the same run.
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments), str(tmp_path / "killed")]
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("killed/*.nc")), "killed too late to test anything"
    epochs: list[int] = []
    resumed = run(
        experiment, tmp_path / "killed", source, on_epoch=lambda index, report: epochs.append(report.epoch)
    )
    assert epochs == list(range(settings["epochs"] + 1))
    assert same(resumed, run(experiment, tmp_path / "whole", source))
    assert not list(tmp_path.glob("killed/*.previous.pt"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, source: Source) -> list[xr.Dataset]:
    """What comes of `PAIR` in this process."""
    return run_all(PAIR, tmp_path_factory.mktemp("alone"), source)


PAIR = [Experiment(**TINY | {"seed": seed, "epochs": 1, "train_samples": 256}) for seed in (0, 1)]


def test_workers_change_nothing(tmp_path: Path, source: Source, alone: list[xr.Dataset]) -> None:
    seen: list[tuple[int, int]] = []
    together = run_all(
        PAIR,
        tmp_path,
        source,
        workers=2,
        on_epoch=lambda index, report: seen.append((index, report.epoch)),
    )
    assert all(map(same, alone, together))
    assert not same(*alone)
    assert sorted(seen) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_cluster_changes_nothing(tmp_path: Path, source: Source, alone: list[xr.Dataset]) -> None:
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        found = run_all(PAIR, tmp_path, source, scheduler=cluster.scheduler_address)
    assert all(map(same, found, alone))
    assert len(list(tmp_path.glob("*.nc"))) == len(list(tmp_path.glob("*.pt"))) == 2
    with pytest.raises(ValueError, match=r"workers is 2 and scheduler 'tcp://127\.0\.0\.1:9'"):
        run_all(PAIR, tmp_path, source, workers=2, scheduler="tcp://127.0.0.1:9")


def test_a_run_that_fails_is_named_and_the_others_are_done(tmp_path: Path, source: Source) -> None:
    diverging = Experiment(**TINY | {"seed": 2, "epochs": 1, "learning_rate": 1e30})
    with pytest.raises(SweepError, match="so nothing was saved") as caught:
        run_all([diverging, PAIR[0]], tmp_path, source)
    ((point, _),) = caught.value.failures
    assert point.experiment is diverging and len(list(tmp_path.glob("*.nc"))) == 1


def test_reports_arrive_though_one_of_them_is_not_understood(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def receive(index: int, report: EpochReport) -> None:
        if index == 1:
            raise KeyError("shown nowhere")
        seen.append(index)

    with postbox(receive, elsewhere=True) as send:
        assert send is not None
        for index in range(4):
            send(index, EpochReport(0, 0.0, 0.0, 1.0, 1))
    assert seen == [0, 2, 3] and "shown nowhere" in capsys.readouterr().err


# Masses in the optimiser's list


def test_trained_masses_are_moved_by_the_optimiser_and_then_by_the_selector(source: Source) -> None:
    settings = TINY | {"epochs": 1, "train_samples": 256, "relative": False, "smoothing": 0.0}
    plain = {"momentum": 0.0, "decay": 0.0, "dynamics": ed.Replicator()}
    experiment = Experiment(**settings | plain, trained_masses=True)
    steps: list[tuple[np.ndarray, np.ndarray]] = []

    def listen(selector: Selector) -> None:
        selector.listen(lambda c, masses: steps.append((c.numpy(), masses.detach().numpy().copy())))

    model, result = train(experiment, source, on_selector=listen)
    assert len(steps) == 2 and not any(layer.masses.requires_grad for layer in population_layers(model))
    (first, before), (_, after) = steps
    # Of the step of SGD on masses of 1 only the size is in the signal, |∂L/∂p|.
    np.testing.assert_allclose(np.abs(before - 1), 0.05 * first, rtol=1e-4)
    selected = before * (1 + 0.1 * (first - (before * first).sum() / before.sum()))
    assert np.abs(after - selected).max() > 1e-5  # SGD moved them once more
    np.testing.assert_allclose(np.abs(after - selected), 0.05 * steps[1][0], rtol=1e-3, atol=1e-9)
    assert np.isfinite(result["mass"].values).all()


def test_trained_masses_go_on_from_a_checkpoint(tmp_path: Path, source: Source) -> None:
    whole = Experiment(**TINY | {"trained_masses": True})
    file = tmp_path / "run.pt"

    def stop(report: EpochReport) -> None:
        if report.epoch == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(whole, source, checkpoint=file, on_epoch=stop)
    resumed, straight = train(whole, source, checkpoint=file)[1], train(whole, source)[1]
    assert content_digest(resumed) == content_digest(straight)
    assert content_digest(straight) != content_digest(train(Experiment(**TINY), source)[1])


# The study


def test_the_study_prints_the_paper_beside_each_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = module("studies/mnist_bridge.py")
    tiny = {"epochs": 1, "train_samples": 128, "test_samples": 100, "widths": (784, 12, 8, 10)}
    monkeypatch.setattr(study, "SMOKE", tiny)
    monkeypatch.setattr(study, "exported", lambda *arguments: None)  # seconds, and tested elsewhere
    command = study._shared.command_line(study.main)

    def run_study(*options: str) -> tuple[str, list[dict[str, str]]]:
        done = CliRunner().invoke(command, ["--smoke", "--out", str(tmp_path), *options])
        assert done.exit_code == 0, done.output
        with (tmp_path / "table1.csv").open(newline="") as file:
            return done.stdout, list(csv.DictReader(file))

    printed, rows = run_study()
    assert "ε paper  literal  fitting" in printed and "of the clip" in printed
    assert max(len(line) for line in printed.splitlines()[:-1]) <= 80
    assert [row["reading"] for row in rows] == ["literal"] * 12 + ["paper"] * 12
    first = rows[0]
    assert float(first["ours_epsilon"]) - float(first["paper_epsilon"]) == float(first["difference_epsilon"])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [row["reading"] for row in summary["masses"]] == ["literal", "paper"]
    with xr.open_dataset(tmp_path / "trajectories.nc", engine="h5netcdf") as saved:
        (run,) = np.flatnonzero((saved["reading"] == "literal") & (saved["dynamics"] == "replicator"))
        masses = saved["mass"].values[run, -1]
    assert summary["masses"][0]["lowest"] == masses.min() < 1 < masses.max()
    used = np.abs(np.log(masses)).mean() / (5e-4 * 0.1)  # after one step
    assert summary["masses"][0]["of_clip"] == pytest.approx(used)

    printed, rows = run_study("--reading", "paper")
    assert [row["reading"] for row in rows] == ["paper"] * 12 and "diff." in printed
    assert "do not scale biases" in printed  # and so there is no smaller network
    _, rows = run_study("--reading", "memory 1, raw", "--reading", "literal")
    assert {row["reading"] for row in rows} == {"memory 1, raw", "literal"}


# The printed tables


def test_the_printed_tables_have_the_papers_oddities() -> None:
    first, second = printed_table(1), printed_table(2)
    assert len(first) == len(second) == 12
    replicator = [r for r in first if r["dynamics"] == "replicator"]
    normalized = [r | {"dynamics": "replicator"} for r in first if r["dynamics"] == "normalized"]
    assert replicator == normalized
    assert [r["epsilon"] for r in replicator] == [0.6313, 0.6375, 0.6465, 0.6676]
    # The drops are those of the stated baseline for the replicator, and of 0.9805 for mutation.
    for rows, baseline in (
        (replicator, BASELINE),
        ([r for r in first if r["dynamics"] == "mutation"], 0.9805),
    ):
        np.testing.assert_allclose([r["accuracy"] + r["drop"] for r in rows], baseline, atol=1e-9)
    with pytest.raises(ValueError, match="number is 3"):
        printed_table(3)


def test_comparisons_are_ours_less_the_papers() -> None:
    result = xr.Dataset(
        {
            "accuracy": ("epoch", [0.1, 0.98]),
            "epsilon_at_sparsity": ("sparsity", [0.6, 0.7]),
            "accuracy_at_sparsity": ("sparsity", [0.95, 0.90]),
            "removed_at_threshold": ("threshold", [0.5]),
            "accuracy_at_threshold": ("threshold", [0.8]),
        },
        coords={"sparsity": [0.35, 0.5], "threshold": [0.7]},
    )
    first = comparison(1, {"mutation": result})
    assert [row["sparsity_percent"] for row in first] == [35.0, 50.0]
    assert first[1]["paper_epsilon"] == 0.6689 and first[1]["ours_epsilon"] == 0.7
    assert first[1]["difference_epsilon"] == pytest.approx(0.0311)
    assert first[1]["ours_drop"] == pytest.approx(0.08)
    (second,) = comparison(2, {"replicator": result})
    assert (second["epsilon"], second["paper_sparsity_percent"]) == (0.7, 54.8)
    assert second["difference_sparsity_percent"] == pytest.approx(-4.8)
    assert second["difference_accuracy"] == pytest.approx(0.8 - 0.8573)
