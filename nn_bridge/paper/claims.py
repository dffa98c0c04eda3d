"""What the paper's equations and printed numbers imply, each claim checked by the maps of `evodyn`.

No training is needed: the printed tables, the printed hyperparameters and the equations decide.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from typing import Any, Literal

import numpy as np

import evodyn as ed
from evodyn.model.descriptions import encode
from nn_bridge.paper.experiment import MUTATION_RATE, Experiment
from nn_bridge.paper.tables import BASELINE, printed_table

__all__ = ["Claim", "claims", "clip_floor", "duplicated", "mass_bounds", "mutation_floor", "steps"]

TRAINING_SAMPLES = 60_000


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement, what was found, and whether that confirms it.

    Parameters
    ----------
    number : str
        Which.
    statement : str
        The claim.
    found : str
        The figures.
    holds : bool
        Confirmed or to be corrected.
    """

    number: str
    statement: str
    found: str
    holds: bool


def steps(experiment: Experiment) -> int:
    """Return the number of minibatches of a run.

    Examples
    --------
    >>> steps(Experiment())
    9380
    """
    return experiment.epochs * math.ceil(
        (experiment.train_samples or TRAINING_SAMPLES) / experiment.batch_size
    )


def clip_floor(experiment: Experiment, dynamics: ed.Dynamics | None = None) -> float:
    """Return the final mass of a group whose selection signal is at its lower bound in every step.

    All other groups are above the mean; under a cap that binds they are at the upper bound, and all masses
    are scaled back after every step: that is the least there can be.

    Parameters
    ----------
    experiment : Experiment
        Gives the hyperparameters; the clip is that of φ - φ̄.
    dynamics : evodyn.Dynamics, optional
        In place of the experiment's own.

    Examples
    --------
    >>> round(clip_floor(Experiment()), 4)
    0.6256
    """
    arrays: dict[str, np.ndarray] = {}
    described = json.dumps(encode(dynamics or experiment.dynamics, arrays, "dynamics"))
    groups, count, size = sum(experiment.widths[1:-1]), steps(experiment), experiment.step_size
    key = (described, *(array.tobytes() for array in arrays.values()), groups, count, size)
    if key not in _computed:
        fitness = np.zeros(groups)
        fitness[0] = -1e6  # so far below the mean that the clip binds, and that all others are above it
        landscape, masses = ed.landscapes.Constant(fitness), np.ones(groups)
        run = ed.iterate(dynamics or experiment.dynamics, landscape, masses, count, size, save_every=count)
        _computed[key] = float(run.masses[-1, 0])
    return _computed[key]


_computed: dict[tuple[Any, ...], float] = {}
"""Floors by dynamics and hyperparameters: each takes a second."""


def mutation_floor(experiment: Experiment, target: Literal["uniform_share"] | float) -> float:
    """Return the same under mutation at the paper's rate to a target."""
    clip = experiment.dynamics.signal_clip
    return clip_floor(experiment, ed.SelectionMutation(MUTATION_RATE, target, clip))


def _step_bound(experiment: Experiment) -> float:
    """Return by how much of itself a mass can change in a step."""
    clip = experiment.dynamics.signal_clip
    return math.inf if clip is None else experiment.step_size * clip


def duplicated() -> set[tuple[int, float, str, str]]:
    """Return the printed cells of normalised growth that repeat those of the replicator digit for digit.

    Each as (table, level, dynamics, quantity); drops are left out: they follow from the accuracies.

    Examples
    --------
    >>> len(duplicated())
    16
    """
    found = set()
    for number in (1, 2):
        rows = {(next(iter(row.values())), row["dynamics"]): row for row in printed_table(number)}
        for (level, dynamics), row in rows.items():
            for quantity in _quantities(number):
                if dynamics == "normalized" and row[quantity] == rows[level, "replicator"][quantity]:
                    found.add((number, float(level), dynamics, quantity))
    return found


def _quantities(number: int) -> tuple[str, str]:
    return ("epsilon", "accuracy") if number == 1 else ("sparsity_percent", "accuracy")


def _column(number: int, dynamics: str, quantity: str) -> list[float]:
    return [row[quantity] for row in printed_table(number) if row["dynamics"] == dynamics]


def mass_bounds(experiment: Experiment, column: str = "replicator") -> tuple[float, float]:
    """Return the least and the largest mean final mass that a printed column allows.

    Both tables give quantiles of the masses; below the first of them is the clip's floor, above the last
    the clip's ceiling.
    """
    known = sorted(
        [
            (row["sparsity_percent"] / 100, row["epsilon"])
            for number in (1, 2)
            for row in printed_table(number)
            if row["dynamics"] == column and row["sparsity_percent"] > 0
        ]
    )
    ceiling = math.exp(steps(experiment) * math.log1p(_step_bound(experiment)))
    levels = [0.0, *(level for level, _ in known), 1.0]
    masses = [clip_floor(experiment), *(mass for _, mass in known), ceiling]
    weights = np.diff(levels)
    return float(weights @ masses[:-1]), float(weights @ masses[1:])


def claims(experiment: Experiment | None = None) -> list[Claim]:
    """Check every claim that needs no training, for the printed hyperparameters.

    Parameters
    ----------
    experiment : Experiment, optional
        The hyperparameters, by default those of section 8.
    """
    experiment = experiment or Experiment()
    floor, share = clip_floor(experiment), mutation_floor(experiment, "uniform_share")
    return [
        *_same_field(),
        *_conservation(experiment),
        *_mutation(experiment, floor, share),
        *_floors(experiment, floor, share),
        *_baseline(),
        *_tables(experiment),
    ]


def _draws() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.lognormal(size=(100, 768)), rng.normal(size=(100, 768))


def _same_field() -> list[Claim]:
    masses, fitness = _draws()
    apart = float(
        np.abs(
            ed.Replicator().velocity(masses, fitness) - ed.NormalizedGrowth().velocity(masses, fitness)
        ).max()
    )
    same = len(duplicated())
    return [
        Claim(
            "1",
            "Eqs. 6 and 7 are the same vector field",
            f"velocities differ by at most {apart:.1g} over 100 random states of 768 groups",
            apart == 0,
        ),
        Claim(
            "1",
            "the columns of replicator and normalised growth agree digit for digit",
            f"{same} of 16 cells equal",
            same == 16,
        ),
    ]


def _conservation(experiment: Experiment) -> list[Claim]:
    masses, fitness = _draws()
    eta, clip, rate = experiment.step_size, experiment.dynamics.signal_clip, MUTATION_RATE
    total = masses.sum(1)

    def drift(dynamics: ed.Dynamics) -> float:
        return float(np.abs(dynamics.step(masses, fitness, eta).sum(1) / total - 1).max())

    plain, clipped = drift(ed.Replicator()), drift(ed.Replicator(clip))
    ones = np.ones(768)
    change = float(ed.SelectionMutation(rate, "uniform_share").velocity(ones, np.zeros(768)).sum())
    neutral = float(ed.SelectionMutation(rate, 1.0).velocity(ones, np.zeros(768)).sum())
    return [
        Claim(
            "2",
            "Eq. 6 and its Euler map conserve total mass; a clip of φ - φ̄ breaks that",
            f"relative change of P in a step: at most {plain:.0e} without, up to {clipped:.0e} with the clip",
            plain < 1e-14 < 1e-8 < clipped,
        ),
        Claim(
            "3",
            "Eq. 8 as printed has dP/dt = μ(1 - P), a sink for masses of 1",
            f"dP/dt at P = 768: {change:.4f}; μ(1 - 768) = {rate * (1 - 768):.4f}; target 1: {neutral:.4f}",
            math.isclose(change, rate * (1 - 768), rel_tol=1e-12) and neutral == 0,
        ),
    ]


def _mutation(experiment: Experiment, floor: float, share: float) -> list[Claim]:
    one = mutation_floor(experiment, 1.0)
    printed = [
        mutated - plain
        for mutated, plain in zip(
            _column(1, "mutation", "epsilon"), _column(1, "replicator", "epsilon"), strict=True
        )
    ]
    listed = " ".join(f"{value:+.4f}" for value in printed)
    return [
        Claim(
            "4",
            "a group at the clip floor ends at 0.6256, with mutation to 1.0 at 0.6272, to 1/768 at 0.620",
            f"{floor:.4f}, {one:.4f} ({one - floor:+.4f}), {share:.4f} ({share - floor:+.4f})",
            (round(floor, 4), round(one, 4), round(share, 3)) == (0.6256, 0.6272, 0.620),
        ),
        Claim(
            "4",
            "the printed ε of mutation lie above by 0.0016, 0.0014, 0.0018, 0.0013: target 1.0, not 1/N",
            f"{listed}; all within 0.0005 of {one - floor:+.4f}, none of {share - floor:+.4f}",
            all(abs(value - (one - floor)) < 5e-4 for value in printed)
            and not any(abs(value - (share - floor)) < 5e-4 for value in printed),
        ),
    ]


def _floors(experiment: Experiment, floor: float, share: float) -> list[Claim]:
    cap, bound = float(sum(experiment.widths[1:-1])), _step_bound(experiment)
    capped = clip_floor(experiment, ed.NormalizedGrowth(cap, experiment.dynamics.signal_clip))
    limit = ((1 - bound) / (1 + bound)) ** steps(experiment)
    first = [row for row in printed_table(2) if row["sparsity_percent"] == 0]
    held = [row for row in first if row["epsilon"] <= min(floor, share)]
    return [
        Claim(
            "5",
            "the clip floor explains Table 2's first row: nothing is below 0.6, whatever the data",
            f"floors {floor:.4f} and at least {share:.4f} with mutation; "
            f"{len(held)} printed sparsities ({len(held) - 1} distinct) hold by them alone",
            len(held) == 3 and len(first) == 3,
        ),
        Claim(
            "5",
            "a binding cap lowers the floor to 0.391",
            f"{capped:.4f} with 767 groups at the other bound, {limit:.4f} in the limit of many",
            round(capped, 3) == 0.391,
        ),
    ]


def _baseline() -> list[Claim]:
    rows = {
        (number, row["sparsity_percent" if number == 1 else "epsilon"]): row
        for number in (1, 2)
        for row in printed_table(number)
        if row["dynamics"] == "mutation"
    }
    implied = {key: round(row["accuracy"] + row["drop"], 4) for key, row in rows.items()}
    others = [
        f"Table {n} at {level:g}: {value:.4f}" for (n, level), value in implied.items() if value != 0.9805
    ]
    first = rows[1, 35.0]
    replicator = {
        round(row["accuracy"] + row["drop"], 4)
        for number in (1, 2)
        for row in printed_table(number)
        if row["dynamics"] == "replicator"
    }
    below = [value for value in _column(1, "replicator", "epsilon") if value < 0.7]
    mutation = [row["accuracy"] for row in printed_table(2) if row["dynamics"] == "mutation"]
    monotone = {
        number: all(
            later < earlier
            for dynamics in ("replicator", "mutation")
            for earlier, later in itertools.pairwise(_column(number, dynamics, "accuracy"))
        )
        for number in (1, 2)
    }
    return [
        Claim(
            "6",
            "accuracy + drop is 0.9805 in the mutation column, but for the row ε = 0.6",
            f"{len(rows) - len(others)} of {len(rows)} rows; {'; '.join(others)}; replicator: "
            + ", ".join(f"{value:.4f}" for value in sorted(replicator)),
            set(implied.items()) ^ {(key, 0.9805) for key in rows} == {((2, 0.6), 0.9808), ((2, 0.6), 0.9805)}
            and replicator == {BASELINE},
        ),
        Claim(
            "6",
            "mutation's drop at 35 % (0.0257) does not follow from 0.9808",
            f"{BASELINE} - {first['accuracy']} = {BASELINE - first['accuracy']:.4f}; "
            f"0.9805 - {first['accuracy']} = {0.9805 - first['accuracy']:.4f}",
            round(BASELINE - first["accuracy"], 4) != first["drop"] == round(0.9805 - first["accuracy"], 4),
        ),
        Claim(
            "6",
            '"below 0.7 no neurons are pruned" contradicts Table 1',
            f"{len(below)} of 4 thresholds of Table 1 are below 0.7, with 35 to 50 % below them",
            len(below) == 4,
        ),
        Claim(
            "6",
            "mutation's accuracy rises from ε = 0.8 to 0.9: monotone holds for Table 1 only",
            f"{mutation[2]:.4f} to {mutation[3]:.4f}; monotone: Table 1 {_word(monotone[1])}, "
            f"Table 2 {_word(monotone[2])}",
            mutation[3] > mutation[2] and monotone[1] and not monotone[2],
        ),
    ]


def _tables(experiment: Experiment) -> list[Claim]:
    low, high = mass_bounds(experiment)
    clip = experiment.dynamics.signal_clip or math.inf
    epsilon = printed_table(1)[0]["epsilon"]
    mean = math.expm1(math.log(epsilon) / steps(experiment)) / experiment.step_size
    return [
        Claim(
            "new",
            "the printed masses had lost total mass: the clip acted, and the cap cannot bind at the end",
            f"the quantiles of both tables allow a mean final mass of {low:.3f} to {high:.3f}, not 1",
            high < 1,
        ),
        Claim(
            "new",
            "35 % of the groups were at the lower clip in nearly every step",
            f"ε = {epsilon} takes a steady signal of {mean:.4f}; the clip is {-clip:.2f}",
            mean < -0.98 * clip,
        ),
    ]


def _word(value: Any) -> str:
    return "yes" if value else "no"
