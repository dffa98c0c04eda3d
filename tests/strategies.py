"""Hypothesis strategies for domain objects: populations on faces, tiny masses, dynamics, landscapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import FloatArray

SIZES = st.integers(1, 6)
SEEDS = st.integers(0, 2**32 - 1)


@dataclasses.dataclass(frozen=True)
class State:
    """Masses and the fitness of the same groups."""

    masses: FloatArray
    fitness: FloatArray

    @property
    def size(self) -> int:
        return len(self.masses)


def numbers(least: float, greatest: float) -> st.SearchStrategy[float]:
    """Return floats of a closed interval; small whole ones often, so that ties and exact zeros occur."""
    inside = [float(k) for k in range(-2, 4) if least <= k <= greatest]
    ordinary = st.floats(least, greatest, allow_subnormal=False)
    return st.sampled_from(inside) | ordinary if inside else ordinary


def vectors(n: int, least: float, greatest: float) -> st.SearchStrategy[FloatArray]:
    """Return arrays of `n` numbers."""
    return st.lists(numbers(least, greatest), min_size=n, max_size=n).map(np.array)


def one_mass(*, zero: bool = True) -> st.SearchStrategy[float]:
    """Return a mass: ordinary, anywhere on 1e-300 to 1e6 in logarithm, or (if `zero`) absent."""
    kinds = [st.floats(0.1, 10.0), st.floats(-300.0, 6.0).map(lambda e: float(10.0**e)), st.just(1.0)]
    return st.one_of(*kinds, st.just(0.0)) if zero else st.one_of(*kinds)


@st.composite
def masses(draw: st.DrawFn, n: int, *, faces: bool = True) -> FloatArray:
    """Draw `n` masses, at least one of them positive; on a face of the orthant often, if `faces`."""
    values = draw(st.lists(one_mass(zero=faces), min_size=n, max_size=n))
    values[draw(st.integers(0, n - 1))] = draw(one_mass(zero=False))
    return np.array(values)


def fitness(n: int, greatest: float = 50.0) -> st.SearchStrategy[FloatArray]:
    """Return the fitness of `n` groups, ties included."""
    return vectors(n, -greatest, greatest)


@st.composite
def states(draw: st.DrawFn, *, least: int = 1, faces: bool = True, greatest: float = 50.0) -> State:
    """Draw a population and its fitness."""
    n = draw(SIZES.filter(lambda size: size >= least))
    return State(draw(masses(n, faces=faces)), draw(fitness(n, greatest)))


CLIPS = st.none() | st.floats(1e-3, 100.0)


@st.composite
def mutations(draw: st.DrawFn, n: int, *, clip: bool = True) -> ed.SelectionMutation:
    """Draw a `SelectionMutation` for `n` groups, its rate a number or a function of time."""
    rate: Any = draw(st.sampled_from([0.0, 1e-12]) | st.floats(1e-6, 2.0))
    target = draw(
        st.just("uniform_share") | st.floats(0.0, 10.0, allow_subnormal=False) | vectors(n, 0.0, 10.0)
    )
    if draw(st.booleans()):
        level = rate
        rate = lambda t: level * (1 + t**2)  # noqa: E731
    return ed.SelectionMutation(rate, target, draw(CLIPS) if clip else None)


@st.composite
def single_dynamics(draw: st.DrawFn, n: int) -> ed.Dynamics:
    """Draw a dynamics of one block."""
    kind = draw(st.sampled_from(["replicator", "normalized growth", "mutation", "selection"]))
    if kind == "replicator":
        return ed.Replicator(draw(CLIPS))
    if kind == "normalized growth":
        return ed.NormalizedGrowth(draw(st.none() | st.floats(0.1, 100.0)), draw(CLIPS))
    if kind == "mutation":
        return draw(mutations(n))
    return ed.Selection(lambda p, phi: phi - p)


@st.composite
def partitions(draw: st.DrawFn, n: int) -> tuple[int, ...]:
    """Draw sizes of contiguous blocks that sum to `n`."""
    cuts = sorted(draw(st.sets(st.integers(1, n - 1)))) if n > 1 else []
    return tuple(int(size) for size in np.diff([0, *cuts, n]))


@st.composite
def populations(draw: st.DrawFn, n: int) -> ed.Populations:
    """Draw blocks with dynamics of their own."""
    sizes = draw(partitions(n))
    return ed.Populations(tuple(draw(single_dynamics(size)) for size in sizes), sizes)


def dynamics(n: int) -> st.SearchStrategy[ed.Dynamics]:
    """Return every dynamics there is, for `n` groups."""
    return single_dynamics(n) | populations(n)


@st.composite
def single_landscapes(draw: st.DrawFn, n: int) -> landscapes.Landscape:
    """Draw a landscape of the package for `n` groups, defined at least on 0 <= t <= 10."""
    c = draw(vectors(n, -3.0, 3.0))
    strength = draw(numbers(0.0, 3.0))
    kind = draw(st.sampled_from(LANDSCAPES))
    if kind == "Constant":
        return landscapes.Constant(c)
    if kind == "LinearDecay":
        return landscapes.LinearDecay(c, strength)
    if kind == "Entropic":
        return landscapes.Entropic(c, strength)
    if kind == "MatrixGame":
        return landscapes.MatrixGame(draw(vectors(n * n, -3.0, 3.0)).reshape(n, n))
    if kind == "Redundancy":
        half = draw(vectors(n * n, 0.0, 2.0)).reshape(n, n)
        return landscapes.Redundancy(c, half + half.T, strength)
    if kind == "Seasonal":
        return landscapes.Seasonal(
            c, draw(vectors(n, -2.0, 2.0)), draw(st.floats(0.5, 20.0)), draw(vectors(n, -3.0, 3.0))
        )
    if kind == "BlockGame":
        sizes = draw(partitions(n))
        pairs = [(a, b) for a in range(len(sizes)) for b in range(len(sizes))]
        payoffs = {
            (a, b): draw(vectors(sizes[a] * sizes[b], -3.0, 3.0)).reshape(sizes[a], sizes[b])
            for a, b in pairs
            if (a, b) == pairs[0] or draw(st.booleans())
        }
        return landscapes.BlockGame(payoffs, sizes)
    rows = draw(st.integers(1, 4))
    extra = draw(st.booleans())
    record = draw(vectors(n * (rows + extra), -3.0, 3.0)).reshape(rows + extra, n)
    return landscapes.Recorded(np.linspace(0.0, 10.0, rows + 1), record, strength)


LANDSCAPES = [
    *("Constant", "LinearDecay", "Entropic", "MatrixGame", "BlockGame", "Redundancy", "Seasonal", "Recorded")
]


@st.composite
def any_landscapes(draw: st.DrawFn, n: int) -> landscapes.Landscape:
    """Draw a landscape or a sum of some."""
    parts = draw(st.lists(single_landscapes(n), min_size=1, max_size=3))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
