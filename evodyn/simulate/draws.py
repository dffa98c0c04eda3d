"""The landscapes of members: one for all, one for each, or drawn when they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evodyn.core import validation
from evodyn.core.generators import Seed, member_rng
from evodyn.model.fitness import Landscape, LandscapeFunction

__all__ = ["Draw", "Landscapes"]

Draw = Callable[[np.random.Generator], LandscapeFunction]


@dataclasses.dataclass(frozen=True)
class Landscapes:
    """The landscapes of members.

    Attributes
    ----------
    given : callable, or list of callables
        What the user gave.
    number : int or None
        How many there are; None if all members share one, or each draws its own.
    drawn : bool
        Whether they are drawn.
    seed : Seed or None
        What they are drawn from.
    """

    given: Any
    number: int | None
    drawn: bool
    seed: Seed | None = None

    @classmethod
    def meant(cls, landscape: Any, members: int | None) -> Landscapes:
        """Return the landscapes that a user means.

        Raises
        ------
        ValueError
            If there are none.
        """
        if isinstance(landscape, Sequence):
            if not len(landscape):
                raise ValueError("landscape is empty; expected one landscape for each member.")
            return cls(list(landscape), len(landscape), drawn=False)
        if not callable(landscape):
            raise ValueError(
                f"landscape is {landscape!r}; expected a landscape, a sequence of them, or a function."
            )
        if members is not None:
            validation.count("members", members)
        drawn = members is not None and not isinstance(landscape, Landscape)
        return cls(landscape, None, drawn and _takes_one_argument(landscape))

    def of(self, members: range) -> list[LandscapeFunction]:
        """Return the landscapes of some members."""
        if self.number is not None:
            return list(self.given[members.start : members.stop])
        if self.seed is None:
            return [self.given] * len(members)
        return [self.given(member_rng(self.seed, member)) for member in members]


def _takes_one_argument(function: Callable[..., Any]) -> bool:
    """Tell a function of a generator from a landscape, which takes a time and masses."""
    import inspect

    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    return True
