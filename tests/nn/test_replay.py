"""Recorded signals of a real training run, replayed by the map and the flow."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import evodyn as ed
from evodyn.inference import fit_fitness
from nn_bridge.paper.experiment import Experiment
from nn_bridge.paper.runs import Source, Training
from nn_bridge.recording import Record
from nn_bridge.replay import Replay, distance_bound
from tests.scripts import module

STUDY = module("studies/replay.py")
SMALL: dict[str, Any] = {"epochs": 2, "train_samples": 640, "test_samples": 200, "widths": (784, 24, 12, 10)}
EXPERIMENT = Experiment(**SMALL, relative="mean", smoothing=0.5, step_size=5e-3)


def recorded(experiment: Experiment) -> xr.Dataset:
    found: xr.Dataset = STUDY.recorded(Training(experiment, Source()))
    return found


def replayed(experiment: Experiment, data: xr.Dataset, *, halvings: int) -> Replay:
    found: Replay = STUDY.replay_of(experiment, data, halvings)
    return found


@pytest.fixture(scope="module")
def record() -> xr.Dataset:
    return recorded(EXPERIMENT)


@pytest.fixture(scope="module")
def replay(record: xr.Dataset) -> Replay:
    return replayed(EXPERIMENT, record, halvings=3)


def test_every_step_is_recorded_in_the_precision_used(record: xr.Dataset) -> None:
    kept = record["contribution"].values
    assert kept.shape == (10, 36) and kept.dtype == np.float32
    assert (kept > 0).any() and (record["mass"].values[0] == 1).all()


def test_the_map_repeats_the_network_bit_for_bit_and_not_by_standing_still(replay: Replay) -> None:
    assert replay.identical and replay.maps[0].tobytes() == replay.network.tobytes()
    assert np.abs(replay.network[-1] - 1).max() > 1e-3


def test_a_changed_record_is_noticed(record: xr.Dataset) -> None:
    other = record.assign(contribution=record["contribution"].copy(deep=True))
    other["contribution"][3, 5] *= 1.5
    assert not replayed(EXPERIMENT, other, halvings=0).identical


def test_the_flow_is_within_the_bound_and_the_map_tends_to_it_with_first_order(replay: Replay) -> None:
    distances = replay.distances.max(axis=1)
    assert (distances <= replay.bounds).all() and (distances > 0).all()
    assert (replay.bounds < 100 * distances).all()  # and the bound says something
    np.testing.assert_allclose(np.log2(distances[:-1] / distances[1:]), 1.0, atol=0.02)


def test_with_mutation_too() -> None:
    experiment = Experiment(
        **SMALL,
        relative="mean",
        dynamics=ed.SelectionMutation(0.5, signal_clip=0.1),
        step_size=5e-3,
    )
    replay = replayed(experiment, recorded(experiment), halvings=1)
    assert replay.identical and (replay.distances.max(axis=1) <= replay.bounds).all()


@pytest.mark.parametrize(
    "dynamics", [ed.Replicator(), ed.NormalizedGrowth(36.0), ed.SelectionMutation(0.5)], ids=repr
)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_all_dynamics_are_replayed_with_layers_together_or_apart(dynamics: ed.Dynamics, scope: Any) -> None:
    experiment = Experiment(**SMALL, relative="mean", step_size=5e-3, dynamics=dynamics, scope=scope)
    replay = replayed(experiment, recorded(experiment), halvings=1)
    assert replay.identical and np.abs(replay.network[-1] - 1).max() > 1e-3
    distances = replay.distances.max(axis=1)
    assert (distances <= replay.bounds).all() and (replay.bounds < 100 * distances).all()
    if not dynamics.mutation_rate_at(0.0):  # the mass of those that compete is kept, and of no other
        for masses in (replay.network[-1], replay.flow[-1]):
            assert (abs(masses[:24].sum() - 24) < 1e-9) == (scope == "layer")
            assert masses.sum() == pytest.approx(36, abs=1e-9)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_bound_holds_where_a_cap_acts(scope: Any) -> None:
    # A few groups far below the others: the clip spares them, and total mass would grow.
    capped = ed.NormalizedGrowth(36.0, 0.5)
    experiment = Experiment(**SMALL, step_size=0.02, decay=0.1, dynamics=capped, scope=scope)
    draw = np.random.default_rng(0)
    fitness = draw.normal(1.0, 0.3, size=(40, 36)) - 3.0 * (np.arange(36) % 6 == 0)
    record = xr.Dataset(
        {
            "contribution": (("step", "group"), fitness.astype(np.float32)),
            "mass": (("epoch", "group"), np.ones((11, 36))),
        },
        attrs={"step_size": 0.02},
    )
    replay = replayed(experiment, record, halvings=2)
    for masses in (replay.maps[0], replay.flow):
        assert masses[1:].sum(axis=1) == pytest.approx(np.full(10, 36.0), rel=1e-9)
    distances = replay.distances.max(axis=1)
    assert (distances <= replay.bounds).all() and (replay.bounds < 100 * distances).all()
    free = replayed(dataclasses.replace(experiment, dynamics=ed.Replicator(0.5)), record, halvings=0)
    assert free.maps[0, -1].sum() > 36.5


@pytest.mark.parametrize(
    ("dynamics", "growth", "reflected"),
    [
        (ed.NormalizedGrowth(3.0, 0.5), 0.5, 2),  # the clip lets total mass grow, and the cap acts
        (ed.NormalizedGrowth(None, 0.5), 0.5, 1),
        (ed.NormalizedGrowth(3.0), 2 / 3, 1),  # total mass is conserved
        (ed.Replicator(0.5), 0.5, 1),
    ],
)
def test_the_bound_doubles_rates_and_distance_where_a_cap_acts(
    dynamics: ed.Dynamics, growth: float, reflected: int
) -> None:
    # One group of three is 1 above the others: deviations of 2/3, 1/3 and 1/3 from the mean fitness.
    record = Record(np.array([[1.0, 0.0, 0.0]] * 4), np.ones(3), step_size=0.1)
    lipschitz = reflected * (2 * 0.25 * 1.0 + 4 / 9)
    change = lipschitz * growth + growth**2 / (1 - 0.1 * growth)
    expected = reflected * change / 2 * (np.exp(lipschitz * 0.4) - 1) / lipschitz
    found = distance_bound(record, np.ones((5, 3)), dynamics, decay=0.25)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "dynamics",
    [
        ed.Selection(lambda masses, fitness: fitness),
        ed.SelectionMutation(lambda t: 0.1 * t),
        ed.Populations((ed.Replicator(), ed.SelectionMutation(lambda t: 0.1 * t)), (2, 1)),
    ],
)
def test_what_the_bound_does_not_hold_for_is_refused(dynamics: ed.Dynamics) -> None:
    record = Record(np.ones((4, 3)), np.ones(3), step_size=0.1)
    with pytest.raises(ValueError, match="compares fitness with its mean"):
        distance_bound(record, np.ones((5, 3)), dynamics, decay=0.25)


def test_relative_signals_are_of_the_groups_that_compete_whatever_the_dynamics() -> None:
    options: dict[str, Any] = {"relative": "mean", "step_size": 5e-3, "scope": "layer"}
    kinds = (ed.Replicator(), ed.NormalizedGrowth(36.0))
    runs = [recorded(Experiment(**SMALL, **options, dynamics=kind)) for kind in kinds]
    assert runs[0].identical(runs[1])  # the cap does not act
    means = runs[0]["contribution"].values[0, :24].mean(), runs[0]["contribution"].values[0, 24:].mean()
    assert means == pytest.approx((1, 1), rel=1e-5)


def test_fitness_that_was_clipped_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"experiment\.clipped is 'fitness'"):
        recorded(Experiment(clipped="fitness"))


def test_the_study_prints_and_saves_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDY.SMOKE, "train_samples", 640)
    options = "--smoke --seeds 2 --reading smoothed --dynamics replicator"
    command = STUDY._shared.command_line(STUDY.main)
    done = CliRunner().invoke(command, [*options.split(), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    out = done.stdout
    assert "is the network's; the flow is within the bound" in " ".join(out.split())
    assert all(len(line) <= 80 for line in out.splitlines() if tmp_path.name not in line)
    rows = list(csv.DictReader((tmp_path / "replay.csv").read_text().splitlines()))
    assert "…" not in out
    assert [row["seed"] for row in rows] == ["0"] * 3 + ["1"] * 3
    assert [row["map_is_network"] for row in rows] == 2 * ["True", "", ""]
    data = xr.load_dataset(tmp_path / "replay.nc", engine="h5netcdf")
    np.testing.assert_array_equal(data["map_mass"][0, 0], data["network_mass"][0])


def test_fitness_is_fitted_to_the_masses_of_a_network(record: xr.Dataset) -> None:
    masses = record["mass"].values  # at the start, and after each of two epochs of five steps
    times = 5 * EXPERIMENT.step_size * np.arange(3)
    fit = fit_fitness(times, masses, reference=0)
    slopes = np.polyfit(times, np.log(masses / masses[:, :1]), 1)[0]
    np.testing.assert_allclose(fit.fitness, slopes, atol=1e-9)
    assert fit.heterogeneity.value**2 < slopes.var(ddof=1)  # what the residuals explain is taken out
    # The signal clip of 0.1 bounds every growth rate, and so the differences.
    assert 0.1 < np.ptp(fit.fitness) < 0.2 * 1.01
    assert fit.errors == "log_ratio" and fit.degrees_of_freedom == 35
    assert (fit.standard_errors[1:] > 0).all()
