"""Populations of several blocks, each of which competes within itself."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import Array, FloatArray, array_namespace
from evodyn.model.comparison import Comparison
from evodyn.model.dynamics import Dynamics, cap_of

__all__ = ["Populations", "Segments"]

_FEW_BLOCKS = 8  # so few are evaluated one after another: each has the same bits as if it were alone


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Populations(Dynamics):
    """Contiguous blocks of groups, each competing only within itself (the layers of a network).

    Every block has its own mean fitness, number of groups, total mass, cap and mutation target.

    Parameters
    ----------
    dynamics : Dynamics or sequence of Dynamics
        One for all blocks, or one for each. An array target of a single `SelectionMutation` has one entry
        for each group of all blocks together.
    sizes : sequence of int
        Number of groups of each block, in order; they fill the last axis.

    Raises
    ------
    ValueError
        If a size is not a positive whole number, a dynamics is not one or is itself `Populations`, or the
        two sequences differ in length.

    Examples
    --------
    >>> from evodyn import Replicator, SelectionMutation
    >>> import numpy as np
    >>> layers = Populations(Replicator(), sizes=(2, 1))
    >>> layers.velocity(np.ones(3), np.array([1.0, 0.0, 5.0]))
    array([ 0.5, -0.5,  0. ])

    Layers that evolve together: each competes within itself, but fitness looks at all masses. Here a group
    of the second layer is worth what feeds it in the first, and starves when that dies.

    >>> import evodyn as ed
    >>> def fed(t, masses):
    ...     first = masses[..., :2] / masses[..., :2].sum(axis=-1, keepdims=True)
    ...     return np.concatenate((0 * first, 2 * first), axis=-1)
    >>> fitness = ed.landscapes.Constant([0.5, 0.0, 0.0, 0.3]) + fed
    >>> run = ed.solve(Populations(Replicator(), sizes=(2, 2)), fitness, [0.2, 0.8, 0.5, 0.5], (0.0, 40.0),
    ...                save_at=[0.0, 4.0, 40.0])
    >>> run.masses.round(2) + 0.0
    array([[0.2 , 0.8 , 0.5 , 0.5 ],
           [0.65, 0.35, 0.07, 0.93],
           [1.  , 0.  , 1.  , 0.  ]])
    """

    dynamics: Dynamics | tuple[Dynamics, ...]
    sizes: tuple[int, ...]  # any sequence of whole numbers on construction

    def __post_init__(self) -> None:
        sizes = block_sizes(self.sizes)
        given: Any = self.dynamics
        if isinstance(given, Iterable) and not isinstance(given, Dynamics):
            given = tuple(given)
            if len(given) != len(sizes):
                raise ValueError(
                    f"dynamics has {len(given)} entries and sizes {len(sizes)}; expected one per block."
                )
        for member in given if isinstance(given, tuple) else (given,):
            if not isinstance(member, Dynamics) or isinstance(member, Populations):
                raise ValueError(
                    f"dynamics is {member!r}; expected Replicator() or another dynamics, or several, one "
                    "per block (blocks are not nested: list all of them in sizes)."
                )
        self._set(sizes=sizes, dynamics=given)
        for member, size in zip(self._members, sizes, strict=True):
            member.check(size)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The part of the last axis that each block fills."""
        ends = np.cumsum(self.sizes)
        return tuple(slice(int(end) - size, int(end)) for end, size in zip(ends, self.sizes, strict=True))

    @property
    def autonomous(self) -> bool | None:  # type: ignore[override]
        """Whether no block depends on time; None where one does not say."""
        answers = [member.autonomous for _, member in self.blocks(0)]
        return False if False in answers else None if None in answers else True

    @property
    def compares_with_mean(self) -> bool:  # type: ignore[override]
        """Whether growth rates are φ_i - φ̄ in every block."""
        return all(member.compares_with_mean for _, member in self.blocks(0))

    def mass_law(self, n: int) -> tuple[tuple[float, float] | None, ...]:  # type: ignore[override]
        """Return the law of each block's total mass."""
        return tuple(member.mass_law(block.stop - block.start) for block, member in self.blocks(n))

    def steady_inflow(self, n: int) -> FloatArray | None:
        parts = [member.steady_inflow(block.stop - block.start) for block, member in self.blocks(n)]
        return None if any(part is None for part in parts) else np.concatenate(parts)  # type: ignore[arg-type]

    def breakpoints(self, t_span: tuple[float, float]) -> npt.ArrayLike:
        return np.concatenate([np.asarray(m.breakpoints(t_span), dtype=float) for _, m in self.blocks(0)])

    @property
    def groups(self) -> int:
        """Number of groups of all blocks together."""
        return sum(self.sizes)

    def shaped(self, values: FloatArray) -> FloatArray:
        return values

    def blocks(self, n: int) -> tuple[tuple[slice, Dynamics], ...]:
        return self._blocks

    @functools.cached_property
    def _blocks(self) -> tuple[tuple[slice, Dynamics], ...]:
        return tuple(zip(self.slices, self._members, strict=True))

    def check(self, n: int) -> None:
        if n != sum(self.sizes):
            raise ValueError(
                f"sizes {self.sizes} sum to {sum(self.sizes)}; expected {n}, the number of groups."
            )

    @functools.cached_property
    def _members(self) -> tuple[Dynamics, ...]:
        """The dynamics of each block."""
        if isinstance(self.dynamics, tuple):
            return self.dynamics
        return tuple(self.dynamics.restricted(s, sum(self.sizes)) for s in self.slices)

    def comparisons(self, n: int, time: float) -> tuple[tuple[slice, Comparison], ...] | None:
        if len(self.sizes) > _FEW_BLOCKS and self._shared is not None:
            return None  # sums of many blocks at once are rounded in another order
        forms = []
        for block, member in self.blocks(n):
            if (form := member.comparison(block.stop - block.start, time)) is None:
                return None
            forms.append((block, form))
        return tuple(forms)

    @functools.cached_property
    def _has_cap(self) -> bool:
        return any(math.isfinite(cap_of(member)) for member in self._members)

    @functools.cached_property
    def _shared(self) -> Any:
        """What all blocks follow, if that is one comparison with the mean; its target may differ."""
        given = self.dynamics if isinstance(self.dynamics, tuple) else (self.dynamics,)
        first = given[0]
        return first if first.compares_with_mean and all(m.same_as(first) for m in given[1:]) else None

    @functools.cached_property
    def _segments(self) -> Segments:
        return Segments(self.slices)

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        xp = array_namespace(masses)
        shared = self._shared
        if shared is not None and xp is np and len(self.sizes) > _FEW_BLOCKS:
            # All at once: one after another takes tens of times as long. Sums are rounded in another order.
            fitness = np.where(masses > 0, fitness, 0.0)
            segments = self._segments
            total = segments.reduced(np.add, masses)
            mean = segments.reduced(np.add, masses * fitness) / np.where(total > 0, total, 1.0)
            return shared.rates_against(fitness, segments.spread(mean), time=time)
        return xp.concat(
            [m.growth_rates(masses[..., s], fitness[..., s], time=time) for s, m in self.blocks(0)], axis=-1
        )

    @functools.cached_property
    def _steady_inflow(self) -> FloatArray | None:
        """The inflow if it depends on nothing, read-only."""
        inflow = self.steady_inflow(sum(self.sizes))
        if inflow is not None:
            inflow.flags.writeable = False
        return inflow

    def inflow(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array | float:
        xp = array_namespace(masses)
        steady = self._steady_inflow
        if steady is not None and not steady.any():
            return 0.0
        if steady is not None and xp is np:
            return steady
        parts = [
            m.inflow(masses[..., s], fitness[..., s], time=time) + xp.zeros_like(masses[..., s])
            for s, m in self.blocks(0)
        ]
        return xp.concat(parts, axis=-1)

    def _exponential_step(
        self, masses: Array, fitness: Array, growth: Array, step_size: float, *, time: float
    ) -> Array:
        xp = array_namespace(masses)
        parts = [
            m._exponential_step(masses[..., s], fitness[..., s], growth[..., s], step_size, time=time)
            for s, m in self.blocks(0)
        ]
        return xp.concat(parts, axis=-1)

    def _ratio_step(self, masses: Array, fitness: Array) -> Array:
        parts = [m._ratio_step(masses[..., s], fitness[..., s]) for s, m in self.blocks(0)]
        return array_namespace(masses).concat(parts, axis=-1)

    def mutation_losses(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array | float:
        xp = array_namespace(masses)
        parts = [
            m.mutation_losses(masses[..., s], fitness[..., s], time=time) + xp.zeros_like(masses[..., s])
            for s, m in self.blocks(0)
        ]
        return xp.concat(parts, axis=-1)

    def _capped(self, masses: Array) -> Array:
        if not self._has_cap:
            return masses
        xp = array_namespace(masses)
        return xp.concat([m._capped(masses[..., s]) for s, m in self.blocks(0)], axis=-1)


def block_sizes(value: Any) -> tuple[int, ...]:
    """Return `value` as the numbers of groups of one block or more.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise ValueError(f"sizes is {value!r}; expected a sequence of whole numbers, one per block.")
    sizes = tuple(validation.count(f"sizes[{k}]", size) for k, size in enumerate(value))
    if not sizes:
        raise ValueError("sizes is empty; expected at least one block.")
    return sizes


class Segments:
    """Contiguous blocks that fill the last axis of NumPy arrays, reduced all at once.

    Examples
    --------
    >>> segments = Segments([slice(0, 2), slice(2, 3)])
    >>> segments.reduced(np.add, np.array([1.0, 2.0, 4.0]))
    array([3., 4.])
    >>> segments.spread(np.array([3.0, 4.0]))
    array([3., 3., 4.])
    """

    def __init__(self, blocks: Sequence[slice]) -> None:
        self._starts = np.array([block.start for block in blocks])
        self._sizes = np.array([block.stop - block.start for block in blocks])

    def reduced(self, ufunc: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Return one number for each block, shape (..., K)."""
        if len(self._starts) == 1:
            alone: np.ndarray = ufunc.reduce(values, axis=-1, keepdims=True)
            return alone
        numbers: np.ndarray = ufunc.reduceat(values, self._starts, axis=-1)
        return numbers

    def spread(self, numbers: np.ndarray) -> np.ndarray:
        """Return each block's number for each of its groups, shape (..., N), or (..., 1) for one block."""
        return numbers if len(self._starts) == 1 else np.repeat(numbers, self._sizes, axis=-1)
