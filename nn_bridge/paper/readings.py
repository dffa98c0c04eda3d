"""Readings of section 8: what the paper leaves open, run on real data, and scored against its tables.

A reading is an `Experiment`: the printed hyperparameters, and one level of every factor in `FACTORS`. The
match rule, `nn_bridge.paper.cells`, was fixed before any search.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from evodyn.analysis.intervals import interval
from evodyn.core.labels import about
from nn_bridge.layers import population_layers
from nn_bridge.paper.cells import Cell, cells, mass_score
from nn_bridge.paper.experiment import Experiment, MutationTarget, paper_dynamics
from nn_bridge.paper.runs import Training, accuracy_without, data_of, train
from nn_bridge.removal.prune import prune_to_sparsity

__all__ = [
    "BASES",
    "FACTORS",
    "TARGETS",
    "CarriedOut",
    "Factor",
    "Finalist",
    "Trial",
    "canonical",
    "judged",
    "measured",
    "mutated",
    "name",
    "neighbours",
    "replicated",
    "search",
]

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
        "trained_masses",
        "masses outside the optimiser's list, or in it, so that SGD moves them too",
        {False: "", True: "masses trained"},
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

TARGETS: tuple[MutationTarget, ...] = (1.0, "uniform_share")
BASES: tuple[Mapping[str, Any], ...] = (
    {},
    {"smoothing": 0.99, "relative": "mean"},
    {"trained_masses": True, "standardise": False},
    {"memory": 1.0},
)
"""Where the search starts, one factor at a time: the literal reading; a smoothed relative one, the closest
known before; masses in the optimiser's list, whose accuracies fall as printed; and gradients that are never
zeroed, a common slip with parameters outside the optimiser."""


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


def mutated(experiment: Experiment, target: MutationTarget = 1.0) -> Experiment:
    """Return a reading with mutation (Eq. 8) at the paper's rate to a target."""
    return dataclasses.replace(experiment, dynamics=paper_dynamics(mutation_target=target)["mutation"])


# One run


def measured(point: Training) -> xr.Dataset:
    """Carry out one run and return what scoring needs: final masses, curves and removals (task of a sweep).

    Beside the removals of `train` there are those within each layer and, as a control, of random groups
    (mean of five draws).
    """
    experiment = point.experiment
    model, result = train(experiment, point.source)
    data = data_of(experiment, point.source)
    rng = np.random.default_rng(experiment.seed)

    def by_layer(fraction: float) -> float:
        smallest = functools.partial(prune_to_sparsity, model, fraction, scope="layer", allow_empty=True)
        return accuracy_without(model, data, smallest)[1]

    def at_random(fraction: float) -> float:
        some = functools.partial(_remove_random, model, fraction, rng)
        return float(np.mean([accuracy_without(model, data, some)[1] for _ in range(RANDOM_DRAWS)]))

    kept = result.drop_vars(["histogram", "bin_edge", "loss", "layer"])
    final = kept["mass"].isel(epoch=-1, drop=True).assign_attrs(long_name="final mass", units="1")
    total = kept["mass"].sum("group").assign_attrs(long_name="total mass after the epoch", units="1")
    kept = kept.drop_vars("mass")
    for variable, accuracy_after, what in (
        ("accuracy_by_layer", by_layer, "the smallest groups of each layer"),
        ("accuracy_at_random", at_random, "random groups, mean of five draws"),
    ):
        values = [accuracy_after(fraction) for fraction in experiment.sparsities]
        kept[variable] = "sparsity", values, about(f"test accuracy after removal of {what}")
    kept = kept.assign(total_mass=total, mass=final)
    kept.attrs = {}
    return kept


def _remove_random(model: nn.Module, fraction: float, rng: np.random.Generator) -> None:
    layers = population_layers(model)
    sizes = [layer.groups for layer in layers]
    gone = np.zeros(sum(sizes), dtype=bool)
    gone[rng.permutation(len(gone))[: round(fraction * len(gone))]] = True
    for layer, mask in zip(layers, np.split(gone, np.cumsum(sizes)[:-1]), strict=True):
        layer.masses[torch.from_numpy(mask).to(layer.masses.device)] = 0.0


# Search

CarriedOut = Callable[[str, Sequence[Experiment]], Sequence[xr.Dataset | None]]
"""``carried_out(stage, experiments)`` returns a result for each, None where a run failed."""


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


def search(
    carried_out: CarriedOut,
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
        See `CarriedOut`.
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


# With all dynamics and seeds


@dataclasses.dataclass(frozen=True)
class Finalist:
    """A reading with all three dynamics.

    Parameters
    ----------
    experiment : Experiment
        The reading.
    runs : dict
        "replicator", "normalized", "mutation" -> results by seed; the target of mutation is `target`.
    target : "uniform_share" or float
        Of mutation: the one whose masses are closer to the printed ones.
    other_target : xarray.Dataset
        Mutation to the other target, first seed.
    cap_effect : float
        Largest difference between the final masses of normalised growth and the replicator.
    """

    experiment: Experiment
    runs: dict[str, list[xr.Dataset]]
    target: Any
    other_target: xr.Dataset
    cap_effect: float

    @property
    def dense_interval(self) -> tuple[float, float]:
        """The prediction interval of the replicator's accuracy without removal."""
        return interval([float(result["accuracy"][-1]) for result in self.runs["replicator"]]).of_next

    @property
    def same(self) -> bool:
        """Whether normalised growth and the replicator agree to the printed digits."""
        return self.cap_effect < 5e-5


def replicated(trial: Trial, carried_out: CarriedOut, seeds: int) -> Finalist | None:
    """Return a reading with all its dynamics and seeds; None if one of its runs failed.

    Parameters
    ----------
    trial : Trial
        The reading, with its first run.
    carried_out : callable
        See `CarriedOut`.
    seeds : int
        Number of seeds.
    """
    experiment = trial.experiment
    mutations = [mutated(experiment, target) for target in TARGETS]
    stage = f"all dynamics: {name(experiment)}"

    def other_seeds(reading: Experiment) -> list[Experiment]:
        numbers = range(reading.seed + 1, reading.seed + seeds)
        return [dataclasses.replace(reading, seed=number) for number in numbers]

    groups = sum(experiment.widths[1:-1])
    normalized = dataclasses.replace(experiment, dynamics=paper_dynamics(groups)["normalized"])
    *more, capped, one, other = carried_out(stage, [*other_seeds(experiment), normalized, *mutations])
    replicator = [result for result in (trial.result, *more) if result is not None]
    if capped is None or one is None or other is None or len(replicator) < seeds:
        return None
    both = (one, other)
    chosen = int(np.argmin([mass_score(result, "mutation") for result in both]))
    others = carried_out(stage, other_seeds(mutations[chosen]))
    return Finalist(
        experiment,
        {
            "replicator": replicator,
            "normalized": [capped],
            "mutation": [both[chosen], *(result for result in others if result is not None)],
        },
        TARGETS[chosen],
        both[1 - chosen],
        float(np.abs(replicator[0]["mass"].values - capped["mass"].values).max()),
    )


def judged(finalist: Finalist, widths: dict[tuple[int, float], float]) -> list[Cell]:
    """Return all 48 cells of a finalist.

    Where the cap did not act, normalised growth is the replicator, and has its intervals.
    """
    found = cells(finalist.runs, widths)
    if not finalist.same:
        return found
    replicator = {cell.key: cell for cell in found}
    return [
        dataclasses.replace(cell, low=twin.low, high=twin.high) if cell.dynamics == "normalized" else cell
        for cell in found
        for twin in [replicator[cell.table, cell.level, "replicator", cell.quantity]]
    ]
