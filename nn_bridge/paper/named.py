"""Readings by name: the literal one, the one that gives the paper's masses, and any other of the family."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from nn_bridge.paper.experiment import Experiment, MutationTarget, paper_dynamics
from nn_bridge.paper.readings import FACTORS, name

__all__ = ["PAPER", "Reading", "reading"]

PAPER: Mapping[str, Any] = {"memory": 1.0, "standardise": False, "scaled_bias": False}
"""Where the reading whose masses are nearest to the printed ones departs from the literal one: gradients of
the masses that are never zeroed, pixels in [0, 1], and masses that scale weights but not biases."""
TARGET = "target"
NUMBERED = {"EMA": "smoothing", "memory": "memory", TARGET: TARGET}


@dataclasses.dataclass(frozen=True)
class Reading:
    """A reading of section 8 for all three columns of the tables.

    Parameters
    ----------
    name : str
        What it is called.
    changes : mapping
        Fields of `Experiment` in which it departs from the literal reading.
    target : "uniform_share" or float
        Of mutation: 1/N as printed, or a mass for each group.
    """

    name: str
    changes: Mapping[str, Any]
    target: MutationTarget = "uniform_share"

    @property
    def departures(self) -> str:
        """Where it departs from the literal reading, in short names that `reading` knows."""
        parts = [] if not self.changes else [name(Experiment(**self.changes))]
        parts += [] if self.target == "uniform_share" else [f"{TARGET} {self.target:g}"]
        return ", ".join(parts) or "literal"

    def experiments(self, **settings: Any) -> dict[str, Experiment]:
        """Return the experiments by the columns of the paper's tables.

        Parameters
        ----------
        **settings
            Fields of `Experiment`, such as the seed.
        """
        groups = sum(settings.get("widths", Experiment.widths)[1:-1])
        columns = paper_dynamics(groups, mutation_target=self.target)
        return {
            column: Experiment(**settings | dict(self.changes), dynamics=dynamics)
            for column, dynamics in columns.items()
        }


def reading(text: str) -> Reading:
    """Return a reading by its name.

    Parameters
    ----------
    text : str
        "literal": Eq. 9 as printed. "paper": the one whose masses are nearest to those of the paper's tables.
        Or where it departs from the literal reading, in the short names of `FACTORS`, separated by commas;
        "target 1" is that of mutation.

    Raises
    ------
    ValueError
        If a part of the name is unknown, or says something twice.

    Examples
    --------
    >>> reading("memory 1, raw").changes
    {'memory': 1.0, 'standardise': False}
    >>> reading("paper").departures
    'memory 1, raw, bias unscaled, target 1'
    """
    if text == "literal":
        return Reading(text, {})
    if text == "paper":
        return Reading(text, PAPER, 1.0)
    known = {label: (f.field, level) for f in FACTORS for level, label in f.levels.items() if label}
    changes: dict[str, Any] = {}
    for part in (part.strip() for part in text.split(",")):
        field, level = known.get(part) or _numbered(text, part, known)
        if field in changes:
            raise ValueError(f"reading is {text!r}, which gives {field} twice; expected it once.")
        changes[field] = level
    target = changes.pop(TARGET, "uniform_share")
    Experiment(**changes)  # says what is out of range
    found = Reading("", changes, target)
    return dataclasses.replace(found, name=found.departures)


def _numbered(text: str, part: str, known: Mapping[str, Any]) -> tuple[str, float]:
    """Return what a name with a number of one's own stands for."""
    match = re.fullmatch(r"(\w+) (\d+(?:\.\d+)?)", part)
    if match and match[1] in NUMBERED:
        return NUMBERED[match[1]], float(match[2])
    names = ", ".join((*known, f"{TARGET} 1"))
    raise ValueError(
        f"reading is {text!r}, of which {part!r} is unknown; expected 'literal', 'paper', or some of these, "
        f"separated by commas: {names}."
    )
