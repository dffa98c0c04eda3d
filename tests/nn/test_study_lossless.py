"""The study of accuracy against removed neurons: what a quick run saves, and what its rows mean."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import nn_bridge as nb
from nn_bridge.baselines import rankings
from nn_bridge.baselines.early import removed_early
from nn_bridge.baselines.gates import closed, gated
from nn_bridge.baselines.slimming import Slimming
from nn_bridge.baselines.trials import METHODS, Training, measured
from tests.scripts import fits, module, saved, study

pytestmark = pytest.mark.nn

STUDY = module("studies/lossless.py")
COURSE = nb.Course(epochs=2, hold=1.0, warm_up=4, batch_size=32)
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset, Rows, str]:
    folder: Path = tmp_path_factory.mktemp("lossless")
    methods = ("selection", "taylor", "slimming", "scratch", "paper")
    options = [option for method in methods for option in ("--method", method)]
    printed, _ = study("lossless", folder, "--smoke", *options)
    return folder, *saved(folder, "lossless"), printed


def test_a_quick_run_has_a_row_for_every_run(finished: tuple[Path, xr.Dataset, Rows, str]) -> None:
    folder, data, rows, printed = finished
    columns = ["method", "widths", "dataset", "seed", "living", "fraction_removed"]
    columns += ["accuracy_before", "accuracy_after"]
    assert set(columns) <= set(rows[0])
    assert data.sizes["run"] == len(rows) == 2 * (3 + 2 + 2 + 2 + 3)  # seeds; with and without what was found
    for row in rows:
        living = [int(width) for width in row["living"].split("-")]
        assert float(row["fraction_removed"]) == pytest.approx(1 - sum(living) / 96, abs=1e-6)
        asked = float(row["asked"])
        if not math.isnan(asked):
            assert sum(living) == 96 - round(asked * 96) or row["method"] in ("scratch", "selection")
    by = {(row["method"], row["asked"], row["seed"]): row for row in rows}
    for (method, level, seed), row in by.items():
        if method == "scratch":  # of the widths that selection ended with
            assert row["living"] == by["selection", level, seed]["living"]
        if method == "selection":  # removing who died changes no prediction
            assert row["accuracy_before"] == row["accuracy_after"]
    assert fits(printed, "lossless")
    with (folder / "quoted.csv").open(newline="") as file:
        quoted = list(csv.DictReader(line for line in file if not line.startswith("#")))
    paper = {row["fraction_removed"]: row for row in quoted if row["source"].startswith("Table 1")}
    assert paper["0.5"]["accuracy_after"] == "0.8825"


def test_the_summary_is_students_interval_and_paired_with_the_control(
    finished: tuple[Path, xr.Dataset, Rows, str],
) -> None:
    folder, _, rows, _ = finished
    with (folder / "lossless_summary.csv").open(newline="") as file:
        summary = list(csv.DictReader(line for line in file if not line.startswith("#")))

    def found(method: str) -> np.ndarray:
        return np.array(
            [float(r["accuracy_after"]) for r in rows if (r["method"], r["asked"]) == (method, "0.87")]
        )

    (row,) = [r for r in summary if (r["method"], r["asked"]) == ("selection", "0.87")]
    ours, gained = found("selection"), found("selection") - found("scratch")
    half = stats.t.ppf(0.975, 1) * ours.std(ddof=1) / math.sqrt(2)
    assert float(row["accuracy_after"]) == pytest.approx(ours.mean())
    assert float(row["low"]) == pytest.approx(max(ours.mean() - half, 0.0))
    assert float(row["high"]) == pytest.approx(min(ours.mean() + half, 1.0))  # no accuracy is above
    assert float(row["over_scratch"]) == pytest.approx(gained.mean())
    assert row["runs"] == "2"


@pytest.mark.parametrize("options", [["--widths", "784,10"], ["--remove", "1.0"], ["--method", "best"],
                                     ["--held-out", "100", "--method", "paper"]])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(options: list[str], tmp_path: Path) -> None:
    _, said = study("lossless", tmp_path, "--smoke", *options, code=2)
    assert f"{options[-2].strip('-')} is" in said


def test_what_is_held_out_is_not_trained_on() -> None:
    point = Training("dense", (784, 4, 10), 0, (0.5,), COURSE, held_out=5000)
    data, whole = point.data(), nb.load_mnist()
    assert torch.equal(data.train_images, whole.train_images[:55000])
    assert torch.equal(data.test_labels, whole.train_labels[55000:])


def test_one_dense_training_serves_three_rankings() -> None:
    point = Training("dense", (784, 8, 4, 10), 0, (0.25, 0.5), COURSE, train_samples=256, test_samples=100)
    found = measured(point)
    assert found.method.values.tolist() == ["dense", *np.repeat(["random", "magnitude", "taylor"], 2)]
    assert found.living.sum("layer").values.tolist() == [12, *3 * [9, 6]]
    assert len(set(found.accuracy_before.values)) == 1
    assert set(METHODS) >= set(found.method.values)


def test_early_removals_start_from_one_middle_and_keep_to_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 6, generator=draw), torch.randint(0, 3, (128,), generator=draw)
    steps, course = [], nb.Course(epochs=3, hold=1.0, warm_up=4, batch_size=32)
    step = torch.optim.SGD.step

    def counted(optimizer: torch.optim.SGD, *arguments: object) -> object:
        steps.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    removals = removed_early(
        nb.population_mlp((6, 8, 4, 3)),
        x,
        y,
        [0.5, 0.75],
        course=course,
        until=2,
        scores=rankings.by_magnitude,
    )
    (first, small), (second, smaller) = removals
    assert first is second
    sizes = [
        [m.out_features for m in n.modules() if isinstance(m, torch.nn.Linear)] for n in (small, smaller)
    ]
    assert [sum(widths) - 3 for widths in sizes] == [6, 3]
    rates = [course.rate(k, 12) for k in range(12)]
    assert steps == pytest.approx(rates + rates[8:])


def test_a_fraction_is_removed_as_soon_as_so_many_gates_are_closed() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(256, 6, generator=draw), torch.randint(0, 3, (256,), generator=draw)
    course = nb.Course(epochs=4, hold=3.0, warm_up=1, batch_size=16)
    seen: list[float] = []
    widths: list[Any] = []
    model = gated(nb.population_mlp((6, 24, 3)), Slimming)
    removals = removed_early(
        model, x, y, [0.25, 0.75], course=course, until=3, scores=rankings.by_gate, strength=0.1
    )
    for middle, small in removals:
        seen.append(closed(middle))
        widths.append(small.get_submodule("hidden1").out_features)
    assert widths == [18, 6]
    assert 0.25 <= seen[0] < 0.75 <= seen[1]
