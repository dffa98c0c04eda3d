"""Whether a training network's masses follow the flow: its signals recorded, and replayed without it.

The paper's network is trained with selection, and the contribution of every group kept at every step. The
record is then replayed through the map of `evodyn.iterate`, which has to repeat the network's masses bit for
bit, through maps with halved steps, and through the flow of `evodyn.solve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.table import Table

import _shared
from _shared import Row
from evodyn.core import validation
from evodyn.core.labels import about
from nn_bridge.paper.experiment import Experiment, paper_dynamics
from nn_bridge.paper.runs import Source, Training, train
from nn_bridge.recording import Record, Recorder
from nn_bridge.replay import Replay, replayed
from nn_bridge.selector import Selector

SCHEMA = 1
READINGS: dict[str, dict[str, Any]] = {
    "literal": {},
    "smoothed": {"relative": "mean", "smoothing": 0.99},
}
NAMES = list(READINGS)
KINDS = paper_dynamics()
DYNAMICS = ["replicator", "mutation"]
SMOKE: dict[str, Any] = {"epochs": 2, "train_samples": 2560, "test_samples": 1000}
HALVINGS = 2


def recorded(point: Training) -> xr.Dataset:
    """Train and return the contributions of every step and the masses of every epoch.

    Raises
    ------
    ValueError
        If the experiment clips fitness itself, of which dynamics and Eq. 10 say nothing.
    """
    clipped = point.experiment.clipped
    if clipped != "difference":
        raise ValueError(f"experiment.clipped is {clipped!r}; expected 'difference' for a replay.")
    recorders: list[Recorder] = []

    def attach(selector: Selector) -> None:
        recorders.append(Recorder(selector))

    _, result = train(point.experiment, point.source, on_selector=attach)
    record = recorders[0].record()
    contribution = about("contribution after the signal's options", "fitness")
    return xr.Dataset(
        {
            "contribution": (("step", "group"), record.contributions, contribution),
            "mass": result["mass"],
            "accuracy": result["accuracy"],
        },
        coords={"layer": result["layer"]},
        attrs={"step_size": record.step_size},
    )


def replay_of(experiment: Experiment, data: xr.Dataset, halvings: int = HALVINGS) -> Replay:
    """Return the replay of what `recorded` returned for an experiment."""
    masses = data["mass"].values
    record = Record(data["contribution"].values, masses[0], float(data.attrs["step_size"]))
    return replayed(record, masses, experiment.selection(), experiment.decay, halvings=halvings)


def main(
    study: _shared.Study,
    reading: Annotated[
        list[str],
        typer.Option(help=f"Any of {', '.join(READINGS)} (repeatable): the scaling of the signal."),
    ] = NAMES,
    dynamics: Annotated[list[str], typer.Option(help=f"Any of {', '.join(KINDS)} (repeatable).")] = DYNAMICS,
    device: Annotated[str, typer.Option(help="cpu or cuda, for the training.")] = "cpu",
    seed: _shared.Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=1, max=_shared.MOST_SEEDS, help="How many seeds, counted up from --seed.")
    ] = 1,
) -> None:
    """Record the signals of training networks and replay them through the map and the flow.

    Writes results/replay/replay.nc (masses of network, maps and flow after every epoch) and replay.csv (the
    table); the records themselves, 30 MB each, are kept in results/replay/records, so that a study that was
    interrupted trains no network twice.
    """
    source = Source(device)
    labels = [
        (validation.choice("reading", name, NAMES), validation.choice("dynamics", kind, tuple(KINDS)), number)
        for number in range(seed, seed + seeds)
        for name in dict.fromkeys(reading)
        for kind in dict.fromkeys(dynamics)
    ]
    experiments = [
        Experiment(dynamics=KINDS[kind], seed=number, **READINGS[name], **(SMOKE if study.smoke else {}))
        for name, kind, number in labels
    ]
    points = [Training(experiment, source) for experiment in experiments]
    records = study.sweep("Training", recorded, points, "records")
    replays: list[Replay] = []
    with _shared.progress("Replaying") as progress:
        for done, (experiment, record) in enumerate(zip(experiments, records, strict=True), start=1):
            replays.append(replay_of(experiment, record))
            progress(done, len(records))
    rows = [row for label, replay in zip(labels, replays, strict=True) for row in table_rows(*label, replay)]
    specification = {
        "schema": SCHEMA,
        "readings": {name: READINGS[name] for name in dict.fromkeys(reading)},
        "dynamics": list(dict.fromkeys(dynamics)),
        "seeds": list(range(seed, seed + seeds)),
        "smoke": study.smoke,
        "device": device,
    }
    study.save(assembled(labels, records, replays), rows, specification)
    study.show(table(rows), *notes(rows))


def table_rows(reading: str, dynamics: str, seed: int, replay: Replay) -> list[Row]:
    """Return one row for each step size of the map."""
    rows = []
    distances = replay.distances.max(axis=1)
    apart = float(np.abs(replay.maps[0] / replay.network - 1).max())
    for k, (size, distance) in enumerate(zip(replay.step_sizes, distances, strict=True)):
        row: Row = {"reading": reading, "dynamics": dynamics, "seed": seed, "step_size": float(size)}
        row |= {"map_is_network": "" if k else replay.identical, "map_from_network": "" if k else apart}
        final, order = replay.maps[k, -1], float(np.log2(distances[k - 1] / distance)) if k else float("nan")
        row |= {"lowest_mass": float(final.min()), "highest_mass": float(final.max())}
        rows.append(
            row | {"map_from_flow": float(distance), "order": order, "bound": float(replay.bounds[k])}
        )
    return rows


def table(rows: Sequence[Row]) -> Table:
    """Return the table of distances between maps and flow."""
    several = len({row["seed"] for row in rows}) > 1
    lines = []
    for row in rows:
        first = row["map_is_network"] != ""
        name = f"{row['reading']}, {row['dynamics']}" + (f" {row['seed']}" if several else "")
        lines.append(
            (
                name if first else "",
                f"{row['step_size']:.2e}",
                ("yes" if row["map_is_network"] else "NO") if first else "",
                f"{row['lowest_mass']:.3f}–{row['highest_mass']:.3f}" if first else "",
                f"{row['map_from_flow']:.1e}",
                f"{row['bound']:.1e}",
                "" if first else f"{row['order']:.3f}",
            )
        )
    columns = ("signal, dynamics" + (" seed" if several else ""), "step", "same", "masses", "distance")
    title = "Recorded signals, replayed by maps and by the flow"
    made = _shared.table(title, (*columns, "bound", "order"), lines)
    made.padding = (0, 1, 0, 0)
    return made


def notes(rows: Sequence[Row]) -> list[str]:
    """Return the lines that explain the table."""
    first = [row for row in rows if row["map_is_network"] != ""]
    same = all(row["map_is_network"] for row in first)
    apart = max(row["map_from_network"] for row in first)
    within = all(row["map_from_flow"] <= row["bound"] for row in rows)
    return [
        "step: of the map, the first being the network's η_p; same: whether the map's",
        "masses are the network's, bit for bit; distance: largest difference of a ln p",
        "between map and flow after an epoch; bound: a priori; order: Euler's is 1.",
        f"The replayed map is the network's{'' if same else f' to {apart:.0e}, NOT bit for bit'}; "
        f"the flow is {'within' if within else 'BEYOND'} the bound.",
        "",
    ]


def assembled(
    labels: Sequence[tuple[str, str, int]], records: Sequence[xr.Dataset], replays: Sequence[Replay]
) -> xr.Dataset:
    """Return all replays as one dataset with dimension `run`."""
    first, layer = replays[0], records[0]["layer"]
    readings, kinds, seeds = zip(*labels, strict=True)
    masses, maps = ("run", "epoch", "group"), ("run", "step_size", "epoch", "group")
    apart, accuracies = [r.distances for r in replays], [r["accuracy"].values for r in records]
    variables: dict[str, tuple[tuple[str, ...], Any, str]] = {
        "network_mass": (masses, [r.network for r in replays], "mass in the network"),
        "map_mass": (maps, [r.maps for r in replays], "mass by the map"),
        "flow_mass": (masses, [r.flow for r in replays], "mass by the flow"),
        "distance": (maps[:3], apart, "largest difference of a log-mass between map and flow"),
        "bound": (maps[:2], [r.bounds for r in replays], "a priori bound of the distance"),
        "identical": (("run",), [r.identical for r in replays], "map and network agree bit for bit"),
        "accuracy": (("run", "epoch"), accuracies, "test accuracy"),
    }
    coordinates = {
        "reading": (("run",), readings, "scaling of the signal", "1"),
        "dynamics": (("run",), kinds, "dynamics", "1"),
        "seed": (("run",), seeds, "seed", "1"),
        "step_size": (("step_size",), first.step_sizes, "step size", "1/fitness"),
        "time": (("epoch",), first.times, "end of the epoch", "1/fitness"),
    }
    return xr.Dataset(
        {name: (dims, np.array(values), about(text)) for name, (dims, values, text) in variables.items()},
        {name: (dims, np.array(values), about(*text)) for name, (dims, values, *text) in coordinates.items()}
        | {"layer": ("group", layer.values, layer.attrs)},
    )


if __name__ == "__main__":
    _shared.command_line(main)()
