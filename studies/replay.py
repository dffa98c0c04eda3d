"""Whether a training network's masses follow the flow: its signals recorded, and replayed without it.

The paper's network is trained with selection, and the contribution of every group kept at every step. The
record is then replayed through the map of `evodyn.iterate`, which has to repeat the network's masses bit for
bit, through maps with halved steps, and through the flow of `evodyn.solve`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

import _former as _shared
from evodyn.core.labels import about
from evodyn.sweeps.sweep import sweep
from nn_bridge.paper.experiment import Experiment
from nn_bridge.replay import Recording, Replay, recorded, replayed

SCHEMA = 1
READINGS: dict[str, dict[str, Any]] = {
    "literal": {},
    "smoothed": {"relative": "mean", "smoothing": 0.99},
}
NAMES = list(READINGS)
DYNAMICS = ["replicator", "mutation"]
SMOKE: dict[str, Any] = {"epochs": 2, "train_samples": 2560, "test_samples": 1000}
HALVINGS = 2

Row = dict[str, Any]


def main(
    reading: Annotated[
        list[str],
        typer.Option(help=f"Any of {', '.join(READINGS)} (repeatable): the scaling of the signal."),
    ] = NAMES,
    dynamics: Annotated[
        list[str], typer.Option(help="Any of replicator, normalized, mutation (repeatable).")
    ] = DYNAMICS,
    device: Annotated[str, typer.Option(help="cpu or cuda, for the training.")] = "cpu",
    seed: _shared.Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=1, max=_shared.MOST_SEEDS, help="How many seeds, counted up from --seed.")
    ] = 1,
    out: _shared.Out = None,
    fresh: _shared.Fresh = False,
    smoke: _shared.Smoke = False,
    workers: _shared.Workers = 1,
    scheduler: _shared.Scheduler = None,
) -> None:
    """Record the signals of training networks and replay them through the map and the flow.

    Writes results/replay/replay.nc (masses of network, maps and flow after every epoch) and replay.csv (the
    table); the records themselves, 30 MB each, are kept in results/replay/records, so that a study that was
    interrupted trains no network twice.
    """
    started = time.perf_counter()
    folder = _shared.folder("replay", out=out, smoke=smoke)
    with _shared.reporting():
        if device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device is {device!r}, but no CUDA device was found; expected 'cpu'.")
        for name in reading:
            if name not in READINGS:
                raise ValueError(f"reading is {name!r}; expected one of {', '.join(READINGS)}.")
        labels = [
            (name, kind, seed + k)
            for k in range(seeds)
            for name in dict.fromkeys(reading)
            for kind in dict.fromkeys(dynamics)
        ]
        experiments = []
        for name, kind, number in labels:
            options: Row = {"dynamics": kind, "seed": number} | READINGS[name] | (SMOKE if smoke else {})
            experiments.append(Experiment(**options))
        points = [Recording(experiment, device) for experiment in experiments]
        with _shared.progress("Training") as progress:
            records = sweep(
                recorded,
                points,
                folder / "records",
                workers=workers,
                scheduler=scheduler,
                fresh=fresh,
                progress=progress,
            )
        replays: list[Replay] = []
        with _shared.progress("Replaying") as progress:
            for experiment, record in zip(experiments, records, strict=True):
                progress(len(replays), len(records))
                replays.append(replayed(experiment, record, halvings=HALVINGS))
            progress(len(replays), len(records))
    rows = [row for label, replay in zip(labels, replays, strict=True) for row in table_rows(*label, replay)]
    specification = {
        "schema": SCHEMA,
        "study": "replay",
        "readings": {name: READINGS[name] for name in dict.fromkeys(reading)},
        "dynamics": list(dict.fromkeys(dynamics)),
        "seeds": list(range(seed, seed + seeds)),
        "smoke": smoke,
        "device": device,
    }
    _shared.write_netcdf(
        assembled(labels, records, replays),
        folder / "replay.nc",
        specification=specification,
        provenance=_shared.provenance(started),
    )
    _shared.write_csv(rows, folder / "replay.csv")
    console = Console(width=80, highlight=False)
    console.print(table(rows))
    for line in notes(rows):
        console.print(line)
    for what, name in {"Table: ": "replay.csv", "Data:  ": "replay.nc"}.items():
        console.print(f"{what} {_shared.shown(folder / name)}", soft_wrap=True)


def table_rows(reading: str, dynamics: str, seed: int, replay: Replay) -> list[Row]:
    """Return one row for each step size of the map."""
    rows = []
    distances = replay.distances.max(axis=1)
    for k, (size, distance) in enumerate(zip(replay.step_sizes, distances, strict=True)):
        rows.append(
            {
                "reading": reading,
                "dynamics": dynamics,
                "seed": seed,
                "step_size": float(size),
                "map_is_network": replay.identical if k == 0 else "",
                "map_from_network": float(np.abs(replay.maps[0] / replay.network - 1).max())
                if k == 0
                else "",
                "lowest_mass": float(replay.maps[k, -1].min()),
                "highest_mass": float(replay.maps[k, -1].max()),
                "map_from_flow": float(distance),
                "order": float(np.log2(distances[k - 1] / distance)) if k else float("nan"),
                "bound": float(replay.bounds[k]),
            }
        )
    return rows


def table(rows: Sequence[Row]) -> Table:
    """Return the table of distances between maps and flow."""
    made = Table(
        title="Recorded signals, replayed by maps and by the flow",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    several = len({row["seed"] for row in rows}) > 1
    made.add_column("signal, dynamics" + (" seed" if several else ""), no_wrap=True)
    for name in ("step", "same", "masses", "distance", "bound", "order"):
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        first = row["map_is_network"] != ""
        name = f"{row['reading']}, {row['dynamics']}" + (f" {row['seed']}" if several else "")
        made.add_row(
            name if first else "",
            f"{row['step_size']:.2e}",
            ("yes" if row["map_is_network"] else "NO") if first else "",
            f"{row['lowest_mass']:.3f}–{row['highest_mass']:.3f}" if first else "",
            f"{row['map_from_flow']:.1e}",
            f"{row['bound']:.1e}",
            "" if first else f"{row['order']:.3f}",
        )
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
) -> Any:
    """Return all replays as one dataset with dimension `run`."""
    first = replays[0]

    def variable(dims: tuple[str, ...], values: list[Any], name: str, units: str) -> Any:
        return dims, np.array(values), about(name, units)

    by_epoch = ("run", "epoch", "group")
    return xr.Dataset(
        {
            "network_mass": variable(by_epoch, [r.network for r in replays], "mass in the network", "1"),
            "map_mass": variable(
                ("run", "step_size", "epoch", "group"), [r.maps for r in replays], "mass by the map", "1"
            ),
            "flow_mass": variable(by_epoch, [r.flow for r in replays], "mass by the flow", "1"),
            "distance": variable(
                ("run", "step_size", "epoch"),
                [r.distances for r in replays],
                "largest difference of a log-mass between map and flow",
                "1",
            ),
            "bound": variable(
                ("run", "step_size"), [r.bounds for r in replays], "a priori bound of the distance", "1"
            ),
            "identical": variable(
                ("run",), [r.identical for r in replays], "map and network agree bit for bit", "1"
            ),
            "accuracy": variable(
                ("run", "epoch"), [r["accuracy"].values for r in records], "test accuracy", "1"
            ),
        },
        coords={
            "reading": variable(
                ("run",), [reading for reading, _, _ in labels], "scaling of the signal", "1"
            ),
            "dynamics": variable(("run",), [dynamics for _, dynamics, _ in labels], "dynamics", "1"),
            "seed": variable(("run",), [seed for _, _, seed in labels], "seed", "1"),
            "step_size": variable(("step_size",), list(first.step_sizes), "step size", "1/fitness"),
            "time": variable(("epoch",), list(first.times), "end of the epoch", "1/fitness"),
            "layer": ("group", records[0]["layer"].values, records[0]["layer"].attrs),
        },
    )


if __name__ == "__main__":
    _shared.command_line(main)()
