"""Readings of section 8: what each option does, the match rule, the search, and the claims."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from rich.cells import cell_len
from torch import nn
from typer.testing import CliRunner

import evodyn as ed
from evodyn.analysis.intervals import interval
from nn_bridge import Contribution, Selector, compact, population_layers, population_mlp
from nn_bridge.layers import PopulationWeights
from nn_bridge.paper.cells import Cell, cells, ending, half_widths, mass_score
from nn_bridge.paper.claims import claims, clip_floor, duplicated, mass_bounds, mutation_floor, steps
from nn_bridge.paper.experiment import Experiment
from nn_bridge.paper.named import reading
from nn_bridge.paper.readings import FACTORS, canonical, measured, mutated, name, neighbours, search
from nn_bridge.paper.runs import Source, Training, train
from nn_bridge.paper.tables import printed_table
from nn_bridge.training import loader_generator
from tests.scripts import module

pytestmark = pytest.mark.nn

WIDTHS = (6, 5, 4, 3)
TINY: dict[str, Any] = {
    "epochs": 2,
    "train_samples": 256,
    "test_samples": 200,
    "widths": (784, 16, 8, 10),
    "step_size": 0.05,
}


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, WIDTHS[0], generator=draw), torch.randint(0, 3, (8,), generator=draw))
        for _ in range(count)
    ]


def backward(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    loss: Any = nn.functional.cross_entropy(model(x), y)
    loss.backward()


def mass_gradients(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Return ∂L/∂p by autograd through masses that are leaves."""
    leaves = [layer.masses.clone().requires_grad_() for layer in population_layers(model)]
    h = x.double()
    for layer, p in zip(population_layers(model), leaves, strict=True):
        weight, bias = layer.get_parameter("weight").double(), layer.get_parameter("bias").double()
        plain = h @ weight.T
        h = torch.relu(p * plain + bias if isinstance(layer, PopulationWeights) else p * (plain + bias))
    output: Any = model.get_submodule("output")
    loss = nn.functional.cross_entropy(h @ output.weight.double().T + output.bias.double(), y)
    return torch.cat(torch.autograd.grad(loss, leaves)).numpy()


# What the options of a reading do


@pytest.mark.parametrize("memory", [0.5, 1.0])
@pytest.mark.parametrize("scaled_bias", [True, False])
def test_memory_sums_gradients_before_the_absolute_value(memory: float, scaled_bias: bool) -> None:
    model = population_mlp(WIDTHS, scaled_bias=scaled_bias)
    selector = Selector(model, ed.Replicator(), Contribution(memory=memory), 0.5)
    total = np.zeros(9)
    signs = []
    for x, y in batches(5):
        gradient = mass_gradients(model, x, y)
        total = memory * total + gradient
        signs.append(np.sign(gradient))
        backward(model, x, y)
        selector.step()
        assert selector.contribution is not None
        np.testing.assert_allclose(selector.contribution.numpy(), np.abs(total), rtol=1e-4, atol=1e-7)
    assert (np.abs(np.sum(signs, axis=0)) < 5).any()  # some gradient changed its sign: the order matters


def test_memory_is_part_of_the_selectors_state() -> None:
    signal = Contribution(memory=1.0)
    (x, y), (x2, y2) = batches(2)
    model, other = population_mlp(WIDTHS), population_mlp(WIDTHS)
    first, second = (Selector(m, ed.Replicator(), signal, 0.1) for m in (model, other))
    backward(model, x, y)
    first.step()
    other.load_state_dict(model.state_dict())
    second.load_state_dict(first.state_dict())
    for m, selector in ((model, first), (other, second)):
        backward(m, x2, y2)
        selector.step()
    assert torch.equal(first.masses, second.masses)


def test_the_largest_contribution_is_the_unit() -> None:
    model = population_mlp(WIDTHS)
    ((x, y),) = batches(1)
    selector = Selector(model, ed.Replicator(), Contribution(relative="max"), 0.1)
    gradient = np.abs(mass_gradients(model, x, y))
    backward(model, x, y)
    selector.step()
    assert selector.contribution is not None
    np.testing.assert_allclose(selector.contribution.numpy(), gradient / gradient.max(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("memory", [-0.1, 1.1, math.nan])
def test_memory_outside_its_range_is_refused(memory: float) -> None:
    with pytest.raises(ValueError, match="memory"):
        Contribution(memory=memory)


def test_unscaled_biases_stay_when_the_mass_is_gone() -> None:
    model = population_mlp(WIDTHS, scaled_bias=False)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.parameters(), population_mlp(WIDTHS).parameters(), strict=True)
    )
    layer: Any = population_layers(model)[0]
    layer.masses[:] = torch.tensor([0.0, 0.5, 1.0, 2.0, 0.0])
    x = torch.randn(7, WIDTHS[0], generator=torch.Generator().manual_seed(0))
    expected = (x @ layer.weight.T) * layer.masses.float() + layer.bias
    torch.testing.assert_close(layer(x), expected)
    with pytest.raises(ValueError, match="PopulationWeights"):
        compact(model)


def test_loader_order_is_that_of_a_data_loader_after_the_network() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        samples = torch.utils.data.TensorDataset(torch.arange(100))
        loader = torch.utils.data.DataLoader(samples, batch_size=32, shuffle=True)
        epochs = [torch.cat([batch for (batch,) in loader]) for _ in range(3)]
    model = population_mlp(WIDTHS, seed=3)
    ours, theirs = list(model.parameters()), list(network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    order = torch.Generator().manual_seed(3)
    torch.rand(sum(parameter.numel() for parameter in ours), generator=order)
    for epoch in epochs:
        assert torch.equal(torch.randperm(100, generator=loader_generator(order)), epoch)


def test_a_clip_of_the_fitness_conserves_total_mass() -> None:
    options = TINY | {"relative": "mean", "dynamics": ed.Replicator(0.5)}
    totals = {}
    for clipped in ("difference", "fitness"):
        _, result = train(Experiment(clipped=clipped, **options))
        totals[clipped] = result["mass"].sum("group").values
        assert result["mass"].values[-1].std() > 1e-3
    np.testing.assert_allclose(totals["fitness"], 24.0, rtol=1e-12)
    assert abs(totals["difference"][-1] - 24.0) > 1e-3


# The family


def test_every_factor_has_its_literal_level_first() -> None:
    literal = Experiment()
    for factor in FACTORS:
        assert next(iter(factor.levels)) == getattr(literal, factor.field)
        assert factor.label(getattr(literal, factor.field)) == ""


def test_neighbours_differ_in_one_factor_and_are_told_apart() -> None:
    for experiment in (Experiment(), Experiment(smoothing=0.99, relative="mean"), Experiment(memory=1.0)):
        coarse, fine = neighbours(experiment), neighbours(experiment, finer=True)
        names = [name(other) for other in fine]
        assert len(set(names)) == len(names)
        assert name(experiment) not in names
        assert {name(other) for other in coarse} < set(names)
        for other in fine:
            changed = [f.field for f in FACTORS if getattr(other, f.field) != getattr(experiment, f.field)]
            assert len(changed) == 1


def test_every_reading_is_found_by_its_name() -> None:
    for base in (Experiment(), Experiment(memory=0.97, trained_masses=True), Experiment(smoothing=0.98)):
        for experiment in neighbours(base, finer=True):
            found = reading(name(experiment))
            assert found.experiments()["replicator"].same_as(experiment)
            assert found.departures == found.name == name(experiment)
    assert all(
        e.dynamics.same_as(mutated(e, "uniform_share").dynamics) or column != "mutation"
        for column, e in reading("literal").experiments().items()
    )
    fitting = reading("paper").experiments(seed=3)
    assert {e.seed for e in fitting.values()} == {3}
    assert name(fitting["normalized"]) == "memory 1, raw, bias unscaled"
    assert fitting["mutation"].same_as(mutated(fitting["replicator"], 1.0))
    assert (
        reading(reading("paper").departures)
        .experiments()["mutation"]
        .same_as(reading("paper").experiments()["mutation"])
    )


@pytest.mark.parametrize("text", ["memory", "momentum 1", "raw, raw", "EMA 1.5", "", "memory 1, target -1"])
def test_a_name_of_no_reading_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"reading is|smoothing is|target"):
        reading(text).experiments()


@pytest.mark.parametrize(
    "options",
    [
        {"relative": "mean", "summed": True},
        {"relative": "zscore", "summed": True, "smoothing": 0.9},
        {"relative": "mean", "per_sample": True, "memory": 0.9},
    ],
)
def test_canonical_readings_have_the_same_masses(options: dict[str, Any]) -> None:
    def final_masses(experiment: Experiment) -> np.ndarray:
        return np.asarray(train(experiment)[1]["mass"].values[-1])

    experiment = Experiment(**TINY, **options)
    other = canonical(experiment)
    assert not other.same_as(experiment)
    masses = [final_masses(e) for e in (experiment, other)]
    np.testing.assert_allclose(masses[0], masses[1], rtol=1e-4)
    control = final_masses(dataclasses.replace(experiment, relative=False))
    assert np.abs(control - masses[0]).max() > 1e-3


# The match rule


def as_printed(dynamics: str = "replicator", shift: float = 0.0, rows: int = 4) -> xr.Dataset:
    """Return what a run would give that hits every printed number of one column, or of its first rows."""
    one, two = ([row for row in printed_table(n) if row["dynamics"] == dynamics][:rows] for n in (1, 2))
    return xr.Dataset(
        {
            "epsilon_at_sparsity": ("sparsity", [row["epsilon"] for row in one]),
            "accuracy_at_sparsity": ("sparsity", [row["accuracy"] + shift for row in one]),
            "removed_at_threshold": ("threshold", [row["sparsity_percent"] / 100 for row in two]),
            "accuracy_at_threshold": ("threshold", [row["accuracy"] + shift for row in two]),
            "accuracy": ("epoch", [0.1, 0.9808 + shift]),
        },
        coords={
            "sparsity": [row["sparsity_percent"] / 100 for row in one],
            "threshold": [row["epsilon"] for row in two],
        },
    )


def test_score_counts_tolerances_of_masses_alone() -> None:
    exact = as_printed()
    assert mass_score(exact) == pytest.approx(0, abs=1e-9)
    assert mass_score(as_printed(shift=-0.2)) == pytest.approx(0, abs=1e-9)
    off = exact.copy(deep=True)
    off["epsilon_at_sparsity"][2] += 0.01
    assert mass_score(off) == pytest.approx(2)
    off["removed_at_threshold"][1] -= 0.03
    assert mass_score(off) == pytest.approx(3)
    assert mass_score(exact, "mutation") == pytest.approx(0.0018 / 0.005)
    assert mass_score(None) == math.inf


def test_cells_judge_by_the_rule() -> None:
    runs = {
        d: [as_printed(d, shift) for shift in (0.0, 0.01, -0.01)]
        for d in ("replicator", "normalized", "mutation")
    }
    found = cells(runs)
    assert len(found) == 48
    assert len({cell.key for cell in found}) == 48
    assert all(cell.reproduced and cell.margin < 0 for cell in found)
    accurate = next(cell for cell in found if cell.quantity == "accuracy")
    expected = interval([accurate.printed, accurate.printed + 0.01, accurate.printed - 0.01]).of_next
    assert (accurate.low, accurate.high) == pytest.approx(expected)

    away = as_printed()
    away["epsilon_at_sparsity"][0] += 0.0051
    away["epsilon_at_sparsity"][1] += 0.005
    away["removed_at_threshold"][1] += 0.0101
    away["removed_at_threshold"][2] += 0.01
    away["accuracy_at_sparsity"][3] -= 0.2
    widths = dict.fromkeys([(cell.table, cell.level) for cell in found], 0.1)
    missed = [cell.key for cell in cells({"replicator": [away]}, widths) if not cell.reproduced]
    assert missed == [
        (1, 35.0, "replicator", "epsilon"),
        (1, 50.0, "replicator", "accuracy"),
        (2, 0.7, "replicator", "sparsity_percent"),
    ]
    assert all(cell.quantity != "accuracy" for cell in cells({"replicator": [away]}))


def test_half_widths_cover_the_difference_of_two_single_runs() -> None:
    rng = np.random.default_rng(0)
    level, trials, covered = 0.02, 150, 0
    for _ in range(trials):
        runs = [as_printed(shift=float(s), rows=1) for s in rng.normal(0, level, 10)]
        covered += bool(abs(rng.normal(0, level) - rng.normal(0, level)) <= half_widths([runs])[1, 35.0])
    assert covered / trials == pytest.approx(0.95, abs=0.05)


def test_printed_cells_that_say_nothing_new() -> None:
    assert len(duplicated()) == 16
    assert {key[2] for key in duplicated()} == {"normalized"}


def test_every_number_ends_with_a_reading_and_its_margin() -> None:
    def cell(ours: float) -> Cell:
        return Cell(1, 35.0, "replicator", "epsilon", 0.63, ours, ours - 0.005, ours + 0.005)

    found = {"best": cell(0.634), "near": cell(0.631), "far": cell(0.7)}
    name, margin = ending(found, "best")
    assert name == "best" and margin == pytest.approx(-0.001)
    name, margin = ending(found, "far")
    assert name == "near" and margin == pytest.approx(-0.004)
    wide = dataclasses.replace(cell(0.66), low=0.64, high=0.68)
    # Of those that miss it the one that misses by least, which need not be the nearest.
    name, margin = ending({"wide": wide, "near": cell(0.65)}, "near")
    assert name == "wide" and margin == pytest.approx(0.01)
    with pytest.raises(ValueError, match="found is empty"):
        ending({}, "best")


# The search


class Landscape:
    """A made-up family: how far each reading's masses are off is known, and so is the best of them."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def distance(self, experiment: Experiment) -> float:
        wanted: dict[str, Any] = {
            "relative": "mean",
            "smoothing": 0.98,
            "standardise": False,
            "scope": "layer",
        }
        return 0.02 * sum(bool(getattr(experiment, key) != value) for key, value in wanted.items())

    def __call__(self, stage: str, experiments: Sequence[Experiment]) -> list[xr.Dataset | None]:
        self.seen += [name(e) for e in experiments]
        results = []
        for experiment in experiments:
            result = as_printed()
            result["epsilon_at_sparsity"] = result["epsilon_at_sparsity"] + self.distance(experiment)
            results.append(None if experiment.per_sample else result)
        return results


def test_search_finds_the_best_within_its_budget_and_repeats_nothing() -> None:
    family = Landscape()
    bases = [Experiment(), Experiment(memory=1.0)]
    trials = search(family, bases, 130)
    assert len(family.seen) == len(set(family.seen)) == len(trials) <= 130
    best = min(trials, key=lambda trial: trial.score)
    # What is remembered makes no difference in this family.
    assert name(best.experiment).replace("memory 1, ", "") == "/mean, EMA 0.98, raw, by layer"
    assert best.score == pytest.approx(0, abs=1e-9)
    assert all(trial.score == math.inf for trial in trials if trial.experiment.per_sample)
    again = search(Landscape(), bases, 130)
    assert [(t.stage, name(t.experiment)) for t in again] == [(t.stage, name(t.experiment)) for t in trials]


@pytest.mark.parametrize("limit", [1, 7, 30])
def test_search_stops_at_its_limit(limit: int) -> None:
    family = Landscape()
    assert len(search(family, [Experiment()], limit)) == len(family.seen) == limit


def test_a_point_is_measured_in_full() -> None:
    result = measured(Training(Experiment(**TINY, relative="mean"), Source()))
    assert cells({"replicator": [result, result]})
    assert result["mass"].shape == (24,)
    assert float(result["mass"].sum()) == pytest.approx(float(result["total_mass"][-1]))
    smallest, layers = result["accuracy_at_sparsity"].values, result["accuracy_by_layer"].values
    assert ((layers >= 0) & (layers <= 1)).all() and smallest.shape == layers.shape
    random = result["accuracy_at_random"].values
    assert np.allclose(random * 1000, np.round(random * 1000))  # means of five over 200 samples


# The claims


def test_clip_floors_are_those_in_closed_form() -> None:
    experiment = Experiment()
    n, eta, clip, mu = steps(experiment), 5e-4, 0.1, 2e-3
    assert clip_floor(experiment) == pytest.approx((1 - eta * clip) ** n, rel=1e-10)
    ratio = 1 - eta * (clip + mu)
    for target, value in ((1.0, 1.0), ("uniform_share", 1 / 768)):
        rest = mu * value / (clip + mu)
        expected = rest + (1 - rest) * ratio**n
        assert mutation_floor(experiment, target) == pytest.approx(expected, rel=1e-9)  # type: ignore[arg-type]
    up, down, low = 1 + eta * clip, 1 - eta * clip, 1.0
    for _ in range(n):  # one group falls, 767 rise; then all are scaled back to 768
        high = (768 - low) / 767
        low = low * down * 768 / (low * down + 767 * high * up)
    assert clip_floor(experiment, ed.NormalizedGrowth(768.0, clip)) == pytest.approx(low, rel=1e-9)


def test_mass_bounds_enclose_masses_that_agree_with_the_tables() -> None:
    low, high = mass_bounds(Experiment())
    rng = np.random.default_rng(0)
    levels = [0, 0.35, 0.40, 0.45, 0.50, 0.548, 0.635, 0.672, 1]
    edges = [clip_floor(Experiment()), 0.6313, 0.6375, 0.6465, 0.6676, 0.7, 0.8, 0.9, (1 + 5e-5) ** 9380]
    for _ in range(20):
        parts = [
            rng.uniform(a, b, round(100_000 * (q - p)))
            for (a, b), (p, q) in zip(itertools.pairwise(edges), itertools.pairwise(levels), strict=True)
        ]
        assert low < np.concatenate(parts).mean() < high
    assert 0.7 < low < high < 0.99


def test_claims_and_what_is_to_be_corrected() -> None:
    checked = claims()
    assert {claim.number for claim in checked} == {"1", "2", "3", "4", "5", "6", "new"}
    assert [claim.statement for claim in checked if not claim.holds] == [
        "a binding cap lowers the floor to 0.391"  # in the limit of many groups; 0.3917 with 768
    ]
    # A checker that can fail: with twice the clip the floors are others.
    assert sum(not claim.holds for claim in claims(Experiment(dynamics=ed.Replicator(0.2)))) >= 4


# The study


def test_the_study_runs_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = module("studies/paper_readings.py")
    monkeypatch.setattr(study, "SMOKE_BUDGET", 15)  # two finalists take 10, mutation for the best at most 2
    monkeypatch.setitem(study.SMOKE, "train_samples", 128)
    command = study._shared.command_line(study.main)

    def printed() -> str:
        done = CliRunner().invoke(command, ["--smoke", "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
        return done.stdout

    first = printed()
    assert max(map(cell_len, first.splitlines()[:-1])) <= 80  # the last line is a path
    done = re.search(r"(\d+) runs \(3 readings in the search, 0 failed\)", first)
    assert done is not None and 13 <= (count := int(done[1])) <= 15
    assert "How the numbers end" in first
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.nc")}
    assert len(files) == count
    assert max(path.stat().st_size for path in files) < 50_000
    tables = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
    assert set(tables) == {"readings.csv", "cells.csv", "claims.csv"}
    assert len(tables["cells.csv"].splitlines()) == 49

    victim = next(iter(files))
    victim.unlink()
    printed()
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.nc")}
    assert [path for path in files if now[path] != files[path]] == [victim]
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")} == tables
    with xr.open_dataset(tmp_path / "readings.nc", engine="h5netcdf") as saved:
        assert saved.sizes["run"] == count
        assert set(saved["dynamics"].values.tolist()) == {"replicator", "normalized", "mutation"}
