"""Whether the theory of signed selection holds along a real run, and whether selection or drift kills.

The paper's network learns MNIST while each neuron grows by its marginal benefit -∂L/∂p less a price. Along
the run Fisher's theorem is measured on a batch; the signals are replayed by maps and by the flow; and
neutral controls, the noise of the signal alone, say how many would have died without selection.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
import xarray as xr
from scipy.stats import norm
from torch import nn

import _shared
import evodyn as ed
import nn_bridge as nb
from _shared import Row
from evodyn.core.arrays import Array, FloatArray
from evodyn.core.labels import coordinates, labelled

SCHEMA = 1
HALVINGS = 3
SMOKE: dict[str, Any] = {"widths": (784, 32, 16, 10), "samples": 1280, "step_size": 1.0, "price": 0.2}
DYNAMICS = ("replicator", "general")
FASTER = (1.0, 10.0, 30.0, 100.0)
"""Step sizes of the neutral controls, in units of the run's."""
CHECKED = 256
"""Samples of the batch on which Fisher's theorem is measured."""


def by_fitness(masses: Array, fitness: Array) -> Array:
    """Grow by fitness itself (Eq. 5)."""
    return fitness


def not_at_all(masses: Array, fitness: Array) -> Array:
    """Keep every mass as it is."""
    return 0 * fitness


GENERAL = ed.Selection(by_fitness)
FLOWS: dict[str, ed.Dynamics] = {"replicator": ed.Replicator(), "general": GENERAL}


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of the paper's network."""

    masses: Literal["selected", "frozen"] = "selected"
    order: int = 0
    """Seed of the order of the samples."""
    checked: bool = False
    """Whether Fisher's theorem is measured after every epoch."""
    seed: int = 0
    widths: tuple[int, ...] = (784, 512, 256, 10)
    samples: int = 10_000
    epochs: int = 8
    batch: int = 128
    learning_rate: float = 0.05
    weight_decay: float = 1e-3
    step_size: float = 3.0
    """η_p."""
    price: float = 1e-2
    """At its peak: it rises from the end of the first epoch on, and is 0 again before the last one."""
    threshold: float = 1e-2

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.samples // self.batch)

    @property
    def triangle(self) -> nb.Triangle:
        """The price over time."""
        epoch = self.steps * self.step_size
        return nb.Triangle(self.price, start=epoch, stop=(self.epochs - 1) * epoch)

    @property
    def extinction(self) -> ed.Extinction:
        """Below the threshold a group is dead for good."""
        return ed.Extinction(self.threshold, "absorb")

    def selector(self, model: nn.Module) -> nb.Selector:
        """Return the selector of the run, with the raw signal."""
        selected = self.masses == "selected"
        return nb.Selector(
            model,
            GENERAL if selected else ed.Selection(not_at_all),
            nb.Benefit(),
            self.step_size,
            landscape=nb.Priced(self.triangle),
            scheme="exponential",
            extinction=self.extinction if selected else None,
        )


def trained(point: Training) -> xr.Dataset:
    """Train, and return the signals of every step, the masses of every epoch, and Fisher's theorem there."""
    torch.set_num_threads(1)
    data = nb.load_mnist().first(point.samples, None)
    model = nb.population_mlp(point.widths, seed=point.seed)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=point.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=point.weight_decay,
    )
    selector = point.selector(model)
    recorder = nb.Recorder(selector)
    order = torch.Generator().manual_seed(point.order)
    batch = data.train_images[:CHECKED], data.train_labels[:CHECKED]
    masses, right = [selector.masses], [nb.accuracy(model, data.test_images, data.test_labels)]
    falls: list[FloatArray] = []
    if point.checked:
        falls.append(fisher(model, *batch, point.step_size))
    for _ in range(point.epochs):
        samples = nb.shuffled(data.train_images, data.train_labels, order)
        nb.train_epoch(model, *samples, optimizer, selector, batch_size=point.batch)
        masses.append(selector.masses)
        if point.checked:
            falls.append(fisher(model, *batch, point.step_size))
        right.append(nb.accuracy(model, data.test_images, data.test_labels))
    variables = labelled(("step", "group"), {"benefit": (recorder.record().contributions, "-∂L/∂p", "loss")})
    variables |= labelled(("epoch", "group"), {"mass": (torch.stack(masses).numpy(), "mass")})
    variables |= labelled("epoch", {"accuracy": (right, "test accuracy")})
    if point.checked:
        described = {"fall": (np.array(falls), "fall of the loss, by theory and measured", "loss")}
        variables |= labelled(("epoch", "dynamics", "halving", "of"), described)
    return xr.Dataset(variables)


def fisher(model: nn.Module, x: torch.Tensor, y: torch.Tensor, step_size: float) -> FloatArray:
    """Return by how much a step of the masses alone lowers the loss of its own batch.

    In double precision, for steps of η_p, η_p/2, ...: shape (dynamics, steps, 2), by theory and measured.
    """
    found = np.empty((len(FLOWS), HALVINGS + 1, 2))
    for i, dynamics in enumerate(FLOWS.values()):
        for k in range(HALVINGS + 1):
            size = step_size / 2**k
            twin = copy.deepcopy(model).double()
            selector = nb.Selector(twin, dynamics, nb.Benefit(), size, landscape=ed.landscapes.Constant)
            before: Any = nn.functional.cross_entropy(twin(x.double()), y)
            before.backward()
            masses = selector.masses.numpy()
            recorder = nb.Recorder(selector)
            selector.step()
            (benefit,) = recorder.record().contributions
            with torch.no_grad():
                after = nn.functional.cross_entropy(twin(x.double()), y)
                found[i, k] = size * nb.loss_fall(dynamics, masses, benefit), float(before - after)
    return found


# Replays and controls


def net_fitness(benefit: FloatArray, point: Training, *, price: bool = True) -> ed.landscapes.Recorded:
    """Return recorded benefits less the price of their step, if there is one, as a landscape."""
    times = np.arange(len(benefit) + 1) * point.step_size
    costs = np.array([point.triangle(t) for t in times[:-1]]) if price else np.zeros(len(benefit))
    return ed.landscapes.Recorded(times, benefit.astype(float) - costs[:, None], 0.0)


def neutral(benefit: FloatArray, per_epoch: int, rng: np.random.Generator) -> FloatArray:
    """Return the noise of a signal alone: less its mean over the epoch, each step with a random sign.

    The sign is that of all groups together, so that their correlations stay; what is left of any trend
    is gone.
    """
    epochs = benefit.reshape(-1, per_epoch, benefit.shape[1])
    noise = (epochs - epochs.mean(1, keepdims=True)).reshape(benefit.shape)
    signs: FloatArray = rng.choice([-1.0, 1.0], len(noise))
    centred: FloatArray = noise * signs[:, None]
    return centred


def replays(data: xr.Dataset, point: Training) -> tuple[xr.Dataset, list[Row]]:
    """Replay the recorded signals by the network's own map, by Euler's with finer steps, and by the flow."""
    landscape, start = net_fitness(data["benefit"].values, point), data["mass"].values[0]
    steps, per_epoch = data.sizes["step"], point.steps

    def by_map(scheme: Literal["euler", "exponential"], finer: int = 1) -> FloatArray:
        run = ed.iterate(
            GENERAL,
            landscape,
            start,
            steps * finer,
            point.step_size / finer,
            save_every=per_epoch * finer,
            extinction=point.extinction,
            scheme=scheme,
        )
        return run.masses

    same = by_map("exponential")
    times = np.arange(point.epochs + 1) * per_epoch * point.step_size
    flow = ed.solve(
        GENERAL,
        landscape,
        start,
        (0.0, float(times[-1])),
        save_at=times,
        extinction=point.extinction,
    ).masses
    maps = {"exponential": same} | {f"euler/{2**k}": by_map("euler", 2**k) for k in range(HALVINGS)}
    distances = {name: distance(masses, flow) for name, masses in maps.items()}
    worst = {name: float(values.max()) for name, values in distances.items()}
    identical = same.tobytes() == data["mass"].values.tobytes()
    found = xr.Dataset(
        labelled(
            ("map", "epoch"),
            {"distance": (list(distances.values()), "largest difference of ln p between map and flow")},
        ),
        coordinates(map=(list(maps), "map")),
        {"identical": int(identical)},
    )
    rows = [
        _shared.compared(1.0, float(identical), part="replay", quantity="map is the network, bit for bit"),
        _shared.compared(0.0, worst["exponential"], part="replay", quantity="exponential map – flow in ln p"),
    ]
    for k in range(1, HALVINGS):
        order = float(np.log2(worst[f"euler/{2 ** (k - 1)}"] / worst[f"euler/{2**k}"]))
        rows.append(_shared.compared(1.0, order, part="replay", quantity=f"order of Euler's map, η_p/{2**k}"))
    return found, rows


def distance(masses: FloatArray, flow: FloatArray) -> FloatArray:
    """Return the largest difference of ln p among the groups alive in both, shape (epochs + 1,)."""
    alive = (masses > 0) & (flow > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.abs(np.log(masses / flow))
    found: FloatArray = np.where(alive, apart, 0.0).max(1)
    return found


def controls(
    selected: xr.Dataset, other: xr.Dataset, frozen: xr.Dataset, point: Training, draws: int
) -> tuple[xr.Dataset, list[Row]]:
    """Compare who dies by selection with who dies by the noise of the signal alone.

    Whether they are the same is asked of as many groups, those with the least mass in the control. By theory
    ln p of a group is a random walk by η_p times the noise, which a group survives with probability
    2Φ(|ln ε|/η_p s) - 1, s² being the sum of the noise's squares (reflection principle).
    """
    start, benefit = selected["mass"].values[0], frozen["benefit"].values
    dead = selected["mass"].values[-1] == 0
    fractions, same = np.empty((len(FASTER), draws, point.epochs + 1)), np.empty(draws)
    theory = np.empty(len(FASTER))
    for i, factor in enumerate(FASTER):
        for draw in range(draws):
            noise = neutral(benefit, point.steps, np.random.default_rng([point.seed, draw]))
            run = ed.iterate(
                GENERAL,
                net_fitness(factor * noise, point, price=False),
                start,
                len(benefit),
                point.step_size,
                save_every=point.steps,
                extinction=point.extinction,
                scheme="exponential",
            )
            fractions[i, draw] = (run.masses == 0).mean(1)
            if factor == 1:
                least = np.argsort(run.masses[-1], kind="stable")[: dead.sum()]
                same[draw] = beyond_chance(dead, np.isin(np.arange(len(dead)), least))
        walk = factor * point.step_size * np.sqrt((noise.astype(float) ** 2).sum(0))
        theory[i] = 2 * norm.cdf(np.log(point.threshold) / walk).mean()
    again = beyond_chance(dead, other["mass"].values[-1] == 0)
    found = xr.Dataset(
        labelled(("faster", "draw", "epoch"), {"dead_by_drift": (fractions, "fraction dead by noise alone")})
        | labelled("faster", {"dead_by_theory": (theory, "fraction dead by noise alone, in theory")})
        | labelled("epoch", {"dead_by_selection": ((selected["mass"].values == 0).mean(1), "fraction dead")})
        | labelled("draw", {"overlap": (same, "overlap of the dead over that of chance")}),
        coordinates(faster=(list(FASTER), "step size of the control over η_p")),
        {"overlap_of_another_order": again},
    )
    rows = [labelled_row("fraction dead, selection", np.nan, float(dead.mean()))]
    rows += [
        labelled_row(f"dead by noise, {factor:g} η_p", theory[i], float(fractions[i, :, -1].mean()))
        for i, factor in enumerate(FASTER)
    ]
    rows.append(labelled_row("same dead/chance: noise", 1.0, float(same.mean())))
    rows.append(labelled_row("same dead/chance: other order", 1.0, again))
    return found, rows


def labelled_row(quantity: str, theory: float, simulation: float) -> Row:
    """Return a row of the controls."""
    return _shared.compared(theory, simulation, part="control", quantity=quantity)


def beyond_chance(first: np.ndarray, second: np.ndarray) -> float:
    """Return how many are dead in both, over how many would be if the two had nothing to do with each other.

    NaN if nobody died in one of them.
    """
    expected = first.mean() * second.mean()
    return float((first & second).mean() / expected) if expected else float("nan")


def fisher_rows(fall: FloatArray) -> list[Row]:
    """Return theory against measurement over the run, and the order of what is left."""
    rows = []
    for i, name in enumerate(DYNAMICS):
        theory, measured = fall[:, i, :, 0], fall[:, i, :, 1]
        off = np.abs(measured / theory - 1)
        rows.append(
            _shared.compared(
                1.0,
                float(np.median(measured[:, -1] / theory[:, -1])),
                part="Fisher",
                quantity=f"{name}: fall/theory, η_p/{2**HALVINGS}",
            )
        )
        order = float(np.median(np.log2(off[:, :-1] / off[:, 1:])))
        rows.append(_shared.compared(1.0, order, part="Fisher", quantity=f"{name}: order of the error"))
    return rows


def main(
    study: _shared.Study,
    epochs: Annotated[int, typer.Option(min=4, help="Of the paper's network.")] = 8,
    samples: Annotated[int, typer.Option(min=128, max=60_000, help="Training images.")] = 10_000,
    draws: Annotated[int, typer.Option(min=2, help="Neutral controls.")] = 10,
    seed: _shared.Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, max=_shared.MOST_SEEDS, help="Networks.")] = 1,
) -> None:
    """Check the theory of signed selection along a training run of the paper's network on MNIST.

    Writes results/signed_selection/signed_selection.nc, of the first network, and .csv, the table
    theory | simulation, means over the networks; signals of every step stay in
    results/signed_selection/points.
    """
    point = Training(seed=seed, epochs=epochs, samples=samples)
    if study.smoke:
        point, draws = dataclasses.replace(point, epochs=4, **SMOKE), 2
    points = [dataclasses.replace(point, seed=seed + k) for k in range(seeds)]
    ways: list[Any] = [{"checked": True}, {"order": 1}, {"masses": "frozen"}]
    found = study.sweep(
        "Training", trained, [dataclasses.replace(one, **way) for one in points for way in ways]
    )
    tables, shown = [], []
    for k, one in enumerate(points):
        selected, other, frozen = found[3 * k : 3 * k + 3]
        replayed, replay_rows = replays(selected, one)
        compared, control_rows = controls(selected, other, frozen, one, draws)
        tables.append([*fisher_rows(selected["fall"].values), *control_rows, *replay_rows])
        shown.append(assembled(selected, replayed, compared))
    rows = means(tables)
    specification = {
        "schema": SCHEMA,
        "training": dataclasses.asdict(point),
        "draws": draws,
        "seeds": seeds,
    }
    study.save(shown[0], rows, specification)
    study.show(_shared.comparison("Signed selection", rows, digits=4), *notes(found[0], point))


def means(tables: list[list[Row]]) -> list[Row]:
    """Return the means of the numbers of equal rows of several tables."""
    numbers = ("theory", "simulation", "difference")
    return [
        same[0] | {name: float(np.mean([row[name] for row in same])) for name in numbers}
        for same in zip(*tables, strict=True)
    ]


def assembled(selected: xr.Dataset, *others: xr.Dataset) -> xr.Dataset:
    """Return what the figure shows."""
    kept = selected.drop_vars("benefit").assign_coords(
        coordinates(dynamics=(list(DYNAMICS), "dynamics"), of=(["theory", "measured"], "which"))
    )
    for other in others:
        kept = kept.merge(other).assign_attrs(kept.attrs | other.attrs)
    return kept


def notes(selected: xr.Dataset, point: Training) -> list[str]:
    """Return the lines that say what was run."""
    living, sizes = selected["mass"].values[-1] > 0, point.widths[1:-1]
    layers = "-".join(str(int(part.sum())) for part in np.split(living, np.cumsum(sizes)[:-1]))
    return [
        f"{point.epochs} epochs of {point.samples} images; living {layers} of {'-'.join(map(str, sizes))}, "
        f"test accuracy {float(selected['accuracy'][-1]):.4f}.",
        "",
    ]


if __name__ == "__main__":
    _shared.command_line(main)()
