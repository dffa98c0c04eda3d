"""The Jacobian of a flow, as a diagonal plus low rank."""

from __future__ import annotations

import functools
import math

import numpy as np

from evodyn.core.arrays import FloatArray, real
from evodyn.model.fitness import linearization
from evodyn.model.structure import DiagonalPlusLowRank
from evodyn.simulate.flow import Flow
from evodyn.simulate.revival import finite

__all__ = ["Slopes"]

_TINY = float(np.finfo(np.float64).tiny)

_NUDGE = 1e-5
"""By what ln p is moved to either side to measure a slope of fitness."""

_FACTORS = math.exp(_NUDGE), math.exp(-_NUDGE)


class Slopes:
    """The Jacobian ∂(dy/dt)/∂y of a flow, where it is a diagonal plus low rank.

    Parameters
    ----------
    flow : Flow
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.evaluations = 0
        """Evaluations of fitness that were made to measure slopes."""

    def stated(self, t: float, y: FloatArray) -> DiagonalPlusLowRank | None:
        """Return the Jacobian that follows from what the landscape states, None if it states nothing."""
        if not self._known:
            return None
        logs = self.flow.log_masses(t, y)
        slopes = linearization(self.flow.landscape, min(t, self.flow.last_time), logs)
        return None if slopes is None else self._of_flow(t, y, logs, slopes)

    def stated_or_measured(self, t: float, y: FloatArray) -> DiagonalPlusLowRank | None:
        """Return the same; where the landscape states nothing, as if fitness depended on own mass alone."""
        if not self._known:
            return None
        flow, time = self.flow, min(t, self.flow.last_time)
        logs = flow.log_masses(t, y)
        slopes = linearization(flow.landscape, time, logs)
        if slopes is not None:
            return self._of_flow(t, y, logs, slopes)
        self.evaluations += 2
        if flow.from_logs is None:
            masses = np.exp(logs)
            above, below = (real(flow.landscape(time, masses * factor)) for factor in _FACTORS)
        else:
            above, below = (real(flow.from_logs(time, logs + move)) for move in (_NUDGE, -_NUDGE))
        slopes = DiagonalPlusLowRank.diagonal_only((above - below) / (2 * _NUDGE))
        return self._of_flow(t, y, logs, slopes, (above + below) / 2)

    def _of_one_block(
        self, t: float, logs: FloatArray, slopes: FloatArray, fitness: FloatArray
    ) -> DiagonalPlusLowRank:
        """Return what `_of_flow` does, for one block whose groups do not act on each other."""
        masses = np.maximum(np.exp(logs), _TINY)
        own = slopes - self.flow.inflow(t, masses, fitness) / masses if self.flow.flows_in else slopes
        left, right = np.empty((2, 2, len(logs)))
        np.negative(own, out=left[0])
        left[1] = -1.0
        shares = np.divide(masses, np.add.reduce(masses), out=right[0])
        np.multiply(shares, slopes + fitness - (fitness @ shares + slopes @ shares), out=right[1])
        return DiagonalPlusLowRank(own, left.T, right.T)

    def _of_flow(
        self,
        t: float,
        y: FloatArray,
        logs: FloatArray,
        slopes: DiagonalPlusLowRank,
        fitness: FloatArray | None = None,
    ) -> DiagonalPlusLowRank | None:
        """Return the Jacobian of a flow whose fitness has these slopes, None if its rank is not low.

        With L = ∂φ/∂ln p, shares X and membership B of blocks (columns), and E = L - diag(f/p), it is
        E - (EB)Xᵀ - BWᵀ, where W = X(φ - φ̄) + (I - XBᵀ)LᵀX holds the slopes of mean fitness. An inflow f
        that depends on the masses is taken as it stands.
        """
        flow = self.flow
        if 4 * (slopes.left.shape[1] + 2 * len(flow.blocks)) > len(logs):
            return None
        if fitness is None:
            fitness = flow.growth(t, y)[1]
            self.evaluations += 1
        if flow.plain and flow.full and not slopes.left.shape[1]:
            return self._of_one_block(t, logs, slopes.diagonal, fitness)
        fitness = finite(fitness)
        if not np.isfinite(slopes.diagonal).all():  # of groups that are absent
            slopes = DiagonalPlusLowRank(finite(slopes.diagonal), slopes.left, slopes.right)
        masses = np.maximum(np.exp(logs), _TINY)
        masses[np.isneginf(logs)] = 0.0
        renewal = np.zeros(len(logs))
        living = slice(None) if flow.full else flow.log_living
        if flow.flows_in:
            renewal[living] = flow.inflow(t, masses, fitness)[living] / masses[living]
        members = self._members
        shares = members * masses[:, None]
        shares /= np.maximum(shares.sum(axis=0), _TINY)
        diagonal, left, right = slopes.diagonal[:, None], slopes.left, slopes.right
        sums = (diagonal - renewal[:, None]) * members
        means = diagonal * shares
        if left.shape[1]:
            sums += left @ (right.T @ members)
            means += right @ (left.T @ shares)
        means += shares * (fitness[:, None] - fitness @ shares) - shares @ (members.T @ means)
        return DiagonalPlusLowRank(
            (slopes.diagonal - renewal)[living],
            np.hstack((left, -sums, -members))[living],
            np.hstack((right, shares, means))[living],
        )

    @functools.cached_property
    def _members(self) -> FloatArray:
        """Which groups are in which block, shape (N, K)."""
        flow = self.flow
        members = np.zeros((len(flow.start.log_masses), len(flow.blocks)))
        for k, block in enumerate(flow.blocks):
            members[block.groups, k] = 1.0
        return members

    @functools.cached_property
    def _known(self) -> bool:
        """Whether every group that lives is in logarithms, compared with a mean, its total known."""
        flow = self.flow
        blocks = flow.dynamics.blocks(len(flow.start.log_masses))
        return (
            not len(flow.reviving)
            and all(member.compares_with_mean for _, member in blocks)
            and all(block.relaxation is not None and not block.capped for block in flow.blocks)
        )
