"""Games between populations, each with strategies of its own: bimatrix games and more."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from evodyn.core import validation
from evodyn.core.arrays import Array, FloatArray, array_namespace, array_of, host, like
from evodyn.model.fitness import Landscape
from evodyn.model.games import matrix_times
from evodyn.model.populations import block_sizes
from evodyn.model.structure import DiagonalPlusLowRank

__all__ = ["BlockGame"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BlockGame(Landscape):
    """A game between the blocks of `Populations`, φ_a = Σ_b A_ab x_b with shares x within each block.

    A bimatrix game (A, B) whose matrices both have the first player's strategies in rows, as Nashpy writes
    it, is ``{(0, 1): A, (1, 0): B.T}``.

    Parameters
    ----------
    payoffs : mapping from (int, int) to array_like
        ``payoffs[a, b]`` is the matrix A_ab of what the strategies of block a (rows) earn against those of
        block b (columns); (a, a) is allowed, and pairs that are left out earn nothing.
    sizes : sequence of int
        Number of strategies of each block, in order, as for `Populations`.

    Raises
    ------
    ValueError
        If a size, a pair or the shape of a matrix is not of that kind.

    Examples
    --------
    Matching pennies: shares turn round the mixed equilibrium, which is neutral.

    >>> import numpy as np
    >>> import evodyn as ed
    >>> pennies = np.array([[1.0, -1.0], [-1.0, 1.0]])
    >>> game = BlockGame({(0, 1): pennies, (1, 0): -pennies.T}, sizes=(2, 2))
    >>> game(0.0, np.array([3.0, 1.0, 1.0, 1.0]))
    array([ 0. ,  0. , -0.5,  0.5])
    >>> players = ed.Populations(ed.Replicator(), game.sizes)
    >>> point = ed.equilibrium(players, game)
    >>> point.masses, point.stability.name
    (array([0.5, 0.5, 0.5, 0.5]), 'NEUTRAL')
    """

    autonomous = True
    payoffs: Any  # a mapping on construction, then sorted pairs of (a, b) and matrix
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = block_sizes(self.sizes)
        given = self.payoffs
        pairs = list(given.items()) if isinstance(given, Mapping) else given
        if not isinstance(pairs, Iterable) or isinstance(pairs, np.ndarray | str) or not list(pairs):
            raise ValueError(f"payoffs is {given!r}; expected a mapping such as {{(0, 1): A, (1, 0): B.T}}.")
        found: dict[tuple[int, int], Array] = {}
        for key, value in pairs:
            a, b = _pair(key, len(sizes))
            matrix = validation.specification_array(f"payoffs[{a}, {b}]", value, ndim=2)
            if tuple(matrix.shape) != (sizes[a], sizes[b]):
                raise ValueError(
                    f"payoffs[{a}, {b}] has shape {tuple(matrix.shape)}; expected {(sizes[a], sizes[b])}: "
                    f"the strategies of block {a} in rows (transpose a matrix that has them in columns)."
                )
            found[a, b] = matrix
        self._set(payoffs=tuple(sorted(found.items(), key=lambda item: item[0])), sizes=sizes)

    @property
    def groups(self) -> int:
        """Number of strategies of all blocks together."""
        return sum(self.sizes)

    @functools.cached_property
    def _slices(self) -> tuple[slice, ...]:
        ends = np.cumsum(self.sizes).tolist()
        return tuple(slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True))

    @functools.cached_property
    def _payoff(self) -> FloatArray:
        """The matrix of all strategies against all, shape (N, N)."""
        whole = np.zeros((self.groups, self.groups))
        for (a, b), matrix in self.payoffs:
            whole[self._slices[a], self._slices[b]] = host(matrix)
        return whole

    def __call__(self, t: float, masses: Array) -> Array:
        masses = array_of(masses)
        xp = array_namespace(masses)
        shares = []
        for block in self._slices:
            total = xp.sum(masses[..., block], axis=-1, keepdims=True)
            shares.append(masses[..., block] / xp.where(total > 0, total, xp.ones_like(total)))
        return matrix_times(like(self._payoff, masses), xp.concat(shares, axis=-1))

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank:
        shares, against = np.empty(self.groups), np.empty((self.groups, self.groups))
        for block in self._slices:
            logs = log_masses[block]
            shares[block] = np.exp(logs - np.logaddexp.reduce(logs))
            against[:, block] = (self._payoff[:, block] @ shares[block])[:, None]
        return DiagonalPlusLowRank(np.zeros(self.groups), self._payoff - against, np.diag(shares))


def _pair(key: Any, blocks: int) -> tuple[int, int]:
    """Return two numbers of blocks."""
    try:
        a, b = key
        pair = validation.count("a", a, least=0), validation.count("b", b, least=0)
    except (TypeError, ValueError):
        pair = (blocks, blocks)
    if max(pair) >= blocks:
        raise ValueError(
            f"payoffs has the key {key!r}; expected a pair of blocks, numbers from 0 to {blocks - 1}."
        )
    return pair
