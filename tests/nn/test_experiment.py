"""The paper's experiment: its settings, that it resumes after a kill, and its comparison with the paper."""

from __future__ import annotations

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
from scipy import stats

import evodyn as ed
from nn_bridge import load_mnist, population_layers
from nn_bridge.paper.experiment import DYNAMICS, EpochReport, Experiment, Source, run, trained_network
from nn_bridge.paper.parallel import run_all
from nn_bridge.paper.tables import BASELINE, comparison, interval, printed_table

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
    "mass_cap": 24.0,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = tmp_path_factory.mktemp("data")
    load_mnist(root)
    return Source(threads=torch.get_num_threads(), data_root=str(root))


def same(a: xr.Dataset, b: xr.Dataset) -> bool:
    return a.attrs["digest"] == b.attrs["digest"] and a.identical(b.assign_attrs(a.attrs))


def test_the_defaults_are_section_8() -> None:
    e = Experiment()
    assert (e.widths, e.epochs, e.batch_size, e.seed) == ((784, 512, 256, 10), 20, 128, 0)
    assert (e.learning_rate, e.momentum, e.step_size, e.decay) == (0.01, 0.9, 5e-4, 1e-3)
    assert e.sparsities == (0.35, 0.40, 0.45, 0.50) and e.thresholds == (0.6, 0.7, 0.8, 0.9)
    selections = [Experiment(dynamics=d).selection() for d in DYNAMICS]  # type: ignore[arg-type]
    expected = [
        ed.Replicator(signal_clip=0.10),
        ed.NormalizedGrowth(mass_cap=768.0, signal_clip=0.10),
        ed.SelectionMutation(2e-3, signal_clip=0.10),
    ]
    assert all(a.same_as(b) for a, b in zip(selections, expected, strict=True))
    signal = e.signal()
    assert (signal.per_sample, signal.smoothing, signal.relative, signal.summed) == (False, 0.0, False, False)


def test_layers_that_compete_apart_share_the_cap() -> None:
    dynamics = Experiment(dynamics="normalized", scope="layer").selection()
    parts = [member for _, member in dynamics.blocks(768)]
    assert [part.mass_cap for part in parts] == [512.0, 256.0]


@pytest.mark.parametrize(
    "bad",
    [
        {"dynamics": "moran"},
        {"epochs": 0},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"smoothing": 1.0},
        {"signal_clip": -1.0},
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


def test_a_run_reports_stores_and_is_not_done_twice(tmp_path: Path, source: Source) -> None:
    experiment = Experiment(**TINY)
    reports: list[EpochReport] = []
    result = run(experiment, tmp_path, source, on_epoch=reports.append)
    assert [r.epoch for r in reports] == [0, 1, 2, 3]
    assert [r.accuracy for r in reports] == result["accuracy"].values.tolist()
    assert result["accuracy"][-1] > 0.6 > result["accuracy"][0]
    assert result["mass"].shape == (4, 24) and (result["mass"][0] == 1).all()
    assert int(result["histogram"].sum()) == 24
    assert result["layer"].values.tolist() == [0] * 16 + [1] * 8
    assert all({"long_name", "units"} <= variable.attrs.keys() for variable in result.variables.values())
    assert json.loads(result.attrs["experiment"])["smoothing"] == 0.9
    reports.clear()
    again = run(experiment, tmp_path, source, on_epoch=reports.append)
    assert not reports and same(again, result)
    # Another configuration beside it takes nothing from it; a damaged result is made again.
    other = run(Experiment(**TINY | {"decay": 0.5}), tmp_path, source)
    assert not same(other, result) and len(list(tmp_path.glob("*.nc"))) == 2
    for file in tmp_path.glob("*.nc"):
        file.write_bytes(file.read_bytes()[:-100])
    assert same(run(experiment, tmp_path, source), result)
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
from nn_bridge.paper.experiment import Experiment, Source, run
arguments = json.loads(sys.argv[1])
run(Experiment(**arguments["experiment"]), sys.argv[2], Source(**arguments["source"]))
"""


def test_a_killed_run_goes_on_to_the_same_result_bit_for_bit(tmp_path: Path, source: Source) -> None:
    settings = TINY | {"epochs": 30}
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
    reports: list[EpochReport] = []
    resumed = run(experiment, tmp_path / "killed", source, on_epoch=reports.append)
    assert len(reports) == 31
    assert same(resumed, run(experiment, tmp_path / "whole", source))
    assert not list(tmp_path.glob("killed/*.previous.pt"))


def test_workers_change_nothing(tmp_path: Path, source: Source) -> None:
    experiments = [Experiment(**TINY | {"seed": seed}) for seed in (0, 1)]
    seen: list[tuple[int, int]] = []
    alone = dict(run_all(experiments, tmp_path / "alone", source))
    together = dict(
        run_all(
            experiments,
            tmp_path / "together",
            source,
            workers=2,
            on_epoch=lambda index, report: seen.append((index, report.epoch)),
        )
    )
    assert all(same(alone[k], together[k]) for k in (0, 1))
    assert not same(alone[0], alone[1])
    assert sorted(seen) == [(k, epoch) for k in (0, 1) for epoch in range(4)]


def test_a_cluster_changes_nothing(tmp_path: Path, source: Source) -> None:
    experiments = [Experiment(**TINY | {"seed": seed, "epochs": 1}) for seed in (0, 1)]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        scheduler = cluster.scheduler_address
        found = dict(run_all(experiments, tmp_path / "cluster", source, scheduler=scheduler))
    assert all(same(found[k], run(e, tmp_path / "here", source)) for k, e in enumerate(experiments))
    assert len(list((tmp_path / "cluster").glob("*.nc"))) == 2
    with pytest.raises(ValueError, match=r"workers is 2 and scheduler 'tcp://127\.0\.0\.1:9'"):
        next(run_all(experiments, tmp_path, source, workers=2, scheduler="tcp://127.0.0.1:9"))


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


def test_intervals_cover_what_they_promise() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 11))
    found = [interval(row[:10]) for row in draws]
    in_mean = np.mean([i.of_mean[0] <= 3.0 <= i.of_mean[1] for i in found])
    in_next = np.mean([i.of_next[0] <= x <= i.of_next[1] for i, x in zip(found, draws[:, 10], strict=True)])
    assert in_mean == pytest.approx(0.95, abs=0.015) and in_next == pytest.approx(0.95, abs=0.015)
    reference: Any = stats.ttest_1samp(draws[0, :10], 0).confidence_interval(0.9)
    assert interval(draws[0, :10], level=0.9).of_mean == pytest.approx(tuple(reference), rel=1e-12)
    with pytest.raises(ValueError, match="at least two"):
        interval([1.0])
