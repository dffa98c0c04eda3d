"""Readings of section 8: what the paper leaves open, run on real data, and scored against its tables.

A reading is an `Experiment`: the printed hyperparameters, and one level of every factor in `FACTORS`. The
match rule is fixed here, before any search: a threshold ε is reproduced within 0.005, a sparsity within one
percentage point, an accuracy inside the 95 % prediction interval of one further run, from ten seeds.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import nn

from evodyn.core.labels import about
from evodyn.core.specifications import Specification
from nn_bridge.datasets import Dataset, load_dataset
from nn_bridge.layers import population_layers
from nn_bridge.paper.experiment import Experiment, Source, run, trained_network
from nn_bridge.paper.tables import comparison, interval
from nn_bridge.removal.prune import prune_to_sparsity
from nn_bridge.training import accuracy

__all__ = [
    "BASES",
    "EPSILON_TOLERANCE",
    "FACTORS",
    "SPARSITY_TOLERANCE",
    "Cell",
    "Factor",
    "Point",
    "Trial",
    "canonical",
    "cells",
    "half_widths",
    "mass_score",
    "measured",
    "name",
    "neighbours",
    "search",
]

EPSILON_TOLERANCE = 0.005
"""A printed threshold ε is reproduced by one within this."""
SPARSITY_TOLERANCE = 1.0
"""A printed sparsity is reproduced by one within this, in percentage points."""

RANDOM_DRAWS = 5


@dataclasses.dataclass(frozen=True)
class Factor:
    """Something that the paper leaves open, a field of `Experiment`.

    Parameters
    ----------
    field : str
        Name of the field.
    question : str
        What is open.
    levels : mapping
        Answer -> its short name; the first is the literal one.
    finer : tuple
        Answers in between, tried in the refinement alone.
    """

    field: str
    question: str
    levels: Mapping[Any, str]
    finer: tuple[Any, ...] = ()

    def label(self, level: Any) -> str:
        """Return the short name of an answer, "" for the literal one."""
        if level in self.levels:
            return self.levels[level]
        return f"{list(self.levels.values())[-1].split()[0]} {level:g}"


FACTORS = (
    Factor(
        "relative",
        "unit of the contributions",
        {False: "", "mean": "/mean", "zscore": "z-score", "max": "/max"},
    ),
    Factor(
        "smoothing",
        "moving average of |∂L/∂p| over steps",
        {0.0: "", 0.9: "EMA 0.9", 0.99: "EMA 0.99", 0.999: "EMA 0.999"},
        (0.95, 0.98, 0.995, 0.998),
    ),
    Factor(
        "memory",
        "gradients kept from step to step before the absolute value (1: never zeroed)",
        {0.0: "", 1.0: "memory 1", 0.9: "memory 0.9", 0.99: "memory 0.99"},
        (0.999,),
    ),
    Factor(
        "per_sample",
        "absolute value of the batch's gradient, or of every sample's",
        {False: "", True: "per sample"},
    ),
    Factor("summed", "mean or sum of the losses of a batch", {False: "", True: "sum loss"}),
    Factor("standardise", "standardised inputs, or pixels in [0, 1]", {True: "", False: "raw"}),
    Factor("scope", "competition among all groups or within each layer", {"global": "", "layer": "by layer"}),
    Factor("clipped", "clip of φ - φ̄ or of φ", {"difference": "", "fitness": "clip φ"}),
    Factor(
        "fresh_gradients",
        "fitness from the same gradients as the weights' update, or after it",
        {False: "", True: "fresh"},
    ),
    Factor(
        "scaled_bias", "masses scale weights and biases, or weights alone", {True: "", False: "bias unscaled"}
    ),
    Factor(
        "shuffling",
        "order of the samples: own seed, or a DataLoader after the network",
        {"own": "", "loader": "loader order"},
    ),
)
"""What is open and changes the masses of the replicator. Beside these: the target of mutation
(`mutation_target`, 1/N as printed or 1), and which groups are removed at a given sparsity (the smallest of
all, the smallest of each layer, and as a control random ones), all measured on the same trained network."""

TARGETS: tuple[Literal["uniform_share"] | float, ...] = (1.0, "uniform_share")
BASES: tuple[Mapping[str, Any], ...] = ({}, {"smoothing": 0.99, "relative": "mean"}, {"memory": 1.0})
"""Where the search starts, one factor at a time: the literal reading; a smoothed relative one, the closest
known before; and gradients that are never zeroed, a common slip with parameters outside the optimiser."""


def name(experiment: Experiment) -> str:
    """Return a short name of a reading: where it departs from the literal one.

    Examples
    --------
    >>> name(Experiment()), name(Experiment(smoothing=0.98, relative="mean", standardise=False))
    ('literal', '/mean, EMA 0.98, raw')
    """
    labels = (factor.label(getattr(experiment, factor.field)) for factor in FACTORS)
    return ", ".join(label for label in labels if label) or "literal"


def canonical(experiment: Experiment) -> Experiment:
    """Return the representative of readings that are the same but for the unit of the contributions.

    The unit drops out of a relative signal, the sum of the losses with it (up to the weight of the last,
    smaller batch of an epoch); and the remembered sum of absolute values is their moving average.
    """
    changes: dict[str, Any] = {}
    if experiment.relative:
        changes["summed"] = False
        if experiment.per_sample and 0 < experiment.memory < 1 and not experiment.smoothing:
            changes |= {"smoothing": experiment.memory, "memory": 0.0}
    return dataclasses.replace(experiment, **changes)


def neighbours(experiment: Experiment, *, finer: bool = False) -> list[Experiment]:
    """Return the readings that differ in one factor, in canonical form, `finer` levels included if asked."""
    found = {name(experiment): experiment}
    for factor in FACTORS:
        for level in (*factor.levels, *(factor.finer if finer else ())):
            other = canonical(dataclasses.replace(experiment, **{factor.field: level}))
            found.setdefault(name(other), other)
    return list(found.values())[1:]


# One run


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Point(Specification):
    """One run of the study.

    Parameters
    ----------
    experiment : Experiment
        The reading, with its dynamics and seed.
    device : str
        "cpu" or "cuda": it touches the last bits.
    """

    experiment: Experiment
    device: str = "cpu"


def measured(point: Point) -> xr.Dataset:
    """Carry out one run and return what scoring needs: final masses, curves and removals (task of a sweep).

    Beside the removals of `run` there are those within each layer and, as a control, of random groups
    (mean of five draws).
    """
    experiment, source = point.experiment, Source(point.device)
    with tempfile.TemporaryDirectory() as directory:
        result = run(experiment, directory, source)
        model = trained_network(experiment, directory, source).to(point.device)
    data = _test_data(experiment.dataset, experiment.standardise, experiment.test_samples, point.device)
    rng = np.random.default_rng(experiment.seed)
    removals = {
        "accuracy_by_layer": [_without_smallest(model, q, data) for q in experiment.sparsities],
        "accuracy_at_random": [
            float(np.mean([_without_random(model, q, data, rng) for _ in range(RANDOM_DRAWS)]))
            for q in experiment.sparsities
        ],
    }
    described = {
        "accuracy_by_layer": "test accuracy after removal of the smallest groups of each layer",
        "accuracy_at_random": "test accuracy after removal of random groups, mean of five draws",
    }
    kept = result.drop_vars(["histogram", "bin_edge", "loss", "layer"]).assign(
        {key: ("sparsity", values, about(described[key])) for key, values in removals.items()}
    )
    total = kept["mass"].sum("group").assign_attrs(long_name="total mass after the epoch", units="1")
    final = kept["mass"].isel(epoch=-1, drop=True).assign_attrs(long_name="final mass", units="1")
    kept = kept.drop_vars("mass").assign(total_mass=total, mass=final)
    kept.attrs = {}
    return kept


@functools.lru_cache(maxsize=2)
def _test_data(dataset: str, standardise: bool, samples: int | None, device: str) -> Dataset:
    return load_dataset(dataset, standardise=standardise).first(0, samples).to(device)


def _without(model: nn.Module, data: Dataset, remove: Callable[[], object]) -> float:
    """Return the accuracy after a removal, which is then undone."""
    layers = population_layers(model)
    kept = [layer.masses.clone() for layer in layers]
    remove()
    accurate = accuracy(model, data.test_images, data.test_labels)
    for layer, masses in zip(layers, kept, strict=True):
        layer.masses.copy_(masses)
    return accurate


def _without_smallest(model: nn.Module, fraction: float, data: Dataset) -> float:
    return _without(model, data, lambda: prune_to_sparsity(model, fraction, scope="layer", allow_empty=True))


def _without_random(model: nn.Module, fraction: float, data: Dataset, rng: np.random.Generator) -> float:
    layers = population_layers(model)
    sizes = [layer.groups for layer in layers]
    gone = np.zeros(sum(sizes), dtype=bool)
    gone[rng.permutation(len(gone))[: round(fraction * len(gone))]] = True

    def remove() -> None:
        for layer, mask in zip(layers, np.split(gone, np.cumsum(sizes)[:-1]), strict=True):
            layer.masses[torch.from_numpy(mask).to(layer.masses.device)] = 0.0

    return _without(model, data, remove)


# Search


@dataclasses.dataclass(frozen=True)
class Trial:
    """A reading that was run: replicator, first seed.

    Parameters
    ----------
    experiment : Experiment
        The reading.
    result : xarray.Dataset or None
        What `measured` returned, None if the run failed.
    stage : str
        Of the search.
    score : float
        See `mass_score`.
    """

    experiment: Experiment
    result: xr.Dataset | None
    stage: str
    score: float


def mass_score(result: xr.Dataset | None, dynamics: str = "replicator") -> float:
    """Return how far a run's masses are from the printed ones, in units of the tolerances.

    The largest of |ε - printed| / 0.005 over the rows of Table 1 and |sparsity - printed| / (1 point) over
    those of Table 2, for one column of the tables: at most 1 if all of them are reproduced. Accuracies do
    not enter. Infinite where there is nothing to compare.
    """
    if result is None:
        return math.inf
    distances = [
        abs(row[f"difference_{quantity}"]) / tolerance
        for number, quantity, tolerance in (
            (1, "epsilon", EPSILON_TOLERANCE),
            (2, "sparsity_percent", SPARSITY_TOLERANCE),
        )
        for row in comparison(number, {dynamics: result})
    ]
    worst = max(distances, default=math.inf)
    return worst if math.isfinite(worst) else math.inf


def search(
    carried_out: Callable[[str, Sequence[Experiment]], Sequence[xr.Dataset | None]],
    bases: Sequence[Experiment],
    limit: int,
    *,
    others: Sequence[Experiment] = (),
    width: int = 2,
) -> list[Trial]:
    """Search the family of readings by their masses alone, with at most `limit` runs.

    First `bases` and `others`; then each base with one factor changed, the last base first; then, round
    by round, all neighbours (finer levels included) of the `width` best readings whose neighbours have not
    been run, until the limit cuts a round short or no such reading is left.

    Parameters
    ----------
    carried_out : callable
        ``carried_out(stage, experiments)`` returns a result for each (None where a run failed).
    bases, others : sequence of Experiment
        Where the search starts, and further readings to run with them.
    limit : int
        Number of runs.
    width : int, optional
        Readings refined in each round.

    Returns
    -------
    list of Trial
        In the order of the runs.
    """
    trials: dict[str, Trial] = {}
    refined: set[str] = set()

    def tried(stage: str, experiments: Sequence[Experiment]) -> None:
        new = {name(e): e for e in map(canonical, experiments) if name(e) not in trials}
        batch = list(new.values())[: limit - len(trials)]
        for experiment, result in zip(batch, carried_out(stage, batch), strict=True):
            trials[name(experiment)] = Trial(experiment, result, stage, mass_score(result))

    def best_unrefined() -> Iterator[Trial]:
        ranked = sorted(trials.values(), key=lambda trial: trial.score)
        return (trial for trial in ranked if name(trial.experiment) not in refined)

    tried("start", [*bases, *others])
    # The first base last: nobody knows of a reading near the literal one under which masses move as printed.
    tried("one factor", [other for base in reversed(bases) for other in neighbours(base)])
    rounds = 0
    while len(trials) < limit:
        centres = [trial for trial, _ in zip(best_unrefined(), range(width), strict=False)]
        if not centres:
            break
        rounds += 1
        refined.update(name(trial.experiment) for trial in centres)
        tried(
            f"refined {rounds}",
            [other for trial in centres for other in neighbours(trial.experiment, finer=True)],
        )
    return list(trials.values())


# Cells


@dataclasses.dataclass(frozen=True)
class Cell:
    """A printed number and what a reading gives in its place.

    Parameters
    ----------
    table : int
        1 or 2.
    level : float
        Percentage of groups removed, or ε.
    dynamics : str
        Column of the table.
    quantity : {"epsilon", "sparsity_percent", "accuracy"}
        What is printed.
    printed, ours : float
        The two numbers, ours from the first seed.
    low, high : float
        The reading reproduces every printed number from `low` to `high`.
    """

    table: int
    level: float
    dynamics: str
    quantity: str
    printed: float
    ours: float
    low: float
    high: float

    @property
    def key(self) -> tuple[int, float, str, str]:
        """Where the number is printed."""
        return self.table, self.level, self.dynamics, self.quantity

    @property
    def difference(self) -> float:
        """Ours less printed."""
        return self.ours - self.printed

    @property
    def margin(self) -> float:
        """How far the printed number is outside what the reading reproduces; negative inside."""
        return max(self.low - self.printed, self.printed - self.high)

    @property
    def reproduced(self) -> bool:
        """Whether the printed number is reproduced."""
        return self.margin <= 1e-9  # rounding of decimal fractions


def cells(
    results: Mapping[str, Sequence[xr.Dataset]],
    half_widths: Mapping[tuple[int, float], float] | None = None,
) -> list[Cell]:
    """Return every printed cell beside the numbers of a reading.

    Parameters
    ----------
    results : mapping of str to sequence of Dataset
        Name of the dynamics -> its runs, one for each seed, the paper's seed first.
    half_widths : mapping, optional
        See `half_widths`: for the accuracies of dynamics with a single run, left out without it.
    """
    found = []
    for dynamics, runs in results.items():
        for number, first in ((1, "epsilon"), (2, "sparsity_percent")):
            tolerance = EPSILON_TOLERANCE if number == 1 else SPARSITY_TOLERANCE
            seeds = [comparison(number, {dynamics: result}) for result in runs]
            for rows in zip(*seeds, strict=True):
                level = float(next(iter(rows[0].values())))
                ours = rows[0][f"ours_{first}"]
                found.append(
                    Cell(
                        number,
                        level,
                        dynamics,
                        first,
                        rows[0][f"paper_{first}"],
                        ours,
                        ours - tolerance,
                        ours + tolerance,
                    )
                )
                values = [row["ours_accuracy"] for row in rows]
                if len(values) > 1:
                    low, high = interval(values).of_next
                elif half_widths is not None:
                    half = half_widths[number, level]
                    low, high = values[0] - half, values[0] + half
                else:
                    continue
                found.append(
                    Cell(number, level, dynamics, "accuracy", rows[0]["paper_accuracy"], values[0], low, high)
                )
    return found


def half_widths(replicated: Sequence[Sequence[xr.Dataset]]) -> dict[tuple[int, float], float]:
    """Return how far two single runs of one reading may be apart in accuracy, with probability 95 %.

    For readings that were run with one seed only: by table and level, the widest among readings that were
    run with several.

    Parameters
    ----------
    replicated : sequence of sequence of Dataset
        For each such reading, its runs of the replicator, one for each seed.
    """
    widest: dict[tuple[int, float], float] = {}
    for runs in replicated:
        for cell in cells({"replicator": runs}):
            if cell.quantity == "accuracy":
                # A prediction interval is wide for one run and for the uncertainty of the mean of n.
                half = (cell.high - cell.low) / 2 * math.sqrt(2 / (1 + 1 / len(runs)))
                key = cell.table, cell.level
                widest[key] = max(widest.get(key, 0.0), half)
    return widest
