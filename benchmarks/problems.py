"""The flows that are timed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

import evodyn as ed
from evodyn.core.arrays import FloatArray
from evodyn.landscapes import Landscape, LinearDecay, MatrixGame, NormalForm, Seasonal

__all__ = ["Flow", "Swing", "constant", "density", "games", "lognormal", "paper_size", "seasonal", "size"]

END = 50.0
GROUPS = 768


@dataclasses.dataclass(frozen=True)
class Swing:
    """Seasons s_i sin ωt + c_i cos ωt of fitness."""

    frequency: float
    sines: FloatArray
    cosines: FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """A flow, as evodyn states it and in the coefficients that all peers share.

    Fitness is φ_i = c_i - λp_i and seasons, or (Ax)_i with shares x; mutation brings μ m_i.

    Attributes
    ----------
    name : str
    dynamics, landscape
        The flow for evodyn.
    p0 : numpy.ndarray, shape (N,)
    times : numpy.ndarray, shape (T,)
        Saved times; the first is 0.
    contribution : numpy.ndarray, shape (N,)
        c_i; zeros for a game.
    decay, rate : float
        λ and μ; every m_i is 1.
    swing : Swing or None
    payoff : numpy.ndarray, shape (N, N), or None
        A.
    exact : callable or None
        Where there is a closed form, ln p at the saved times.
    """

    name: str
    dynamics: ed.Dynamics
    landscape: Landscape
    p0: FloatArray
    times: FloatArray
    contribution: FloatArray
    decay: float = 0.0
    rate: float = 0.0
    swing: Swing | None = None
    payoff: FloatArray | None = None
    exact: Callable[[], FloatArray] | None = None

    @property
    def n(self) -> int:
        """Number of groups."""
        return len(self.p0)

    @property
    def end(self) -> float:
        """The last time."""
        return float(self.times[-1])

    @property
    def is_game(self) -> bool:
        """Whether groups meet each other."""
        return self.payoff is not None

    @property
    def stiff_diagonal(self) -> bool:
        """Whether the diagonal of the Jacobian makes the flow stiff, where anything does."""
        return self.decay > 0 or self.rate > 0


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Integrated(Landscape):
    """Constant fitness that does not say so, and so is integrated."""

    contribution: FloatArray

    def __call__(self, t: float, masses: FloatArray) -> FloatArray:
        """Return the contributions."""
        return self.contribution

    def kernel(self, t: float, n: int) -> NormalForm:
        """Return the form that is compiled."""
        return NormalForm(self.contribution)


def lognormal(n: int, seed: int = 0) -> FloatArray:
    """Return log-normal contributions, of median 1."""
    return np.random.default_rng(seed).lognormal(0.0, 1.0, n)


def size(n: int) -> str:
    """Return a number of groups as text, large ones as powers of ten.

    >>> size(768), size(10**4)
    ('768', '1e4')
    """
    return str(n) if n < 10**4 else f"{n:.0e}".replace("e+0", "e")


def _of_shares(logs: FloatArray, total: float) -> FloatArray:
    """Return ln p of a total from ln x up to a constant."""
    logs = logs - logs.max(axis=-1, keepdims=True)
    found: FloatArray = logs - np.log(np.exp(logs).sum(axis=-1, keepdims=True)) + math.log(total)
    return found


def constant(n: int = GROUPS) -> Flow:
    """Return the replicator flow of constant fitness."""
    c, times = lognormal(n), np.linspace(0.0, END, 101)
    landscape, dynamics = Integrated(c), ed.Replicator()
    return Flow(
        "constant", dynamics, landscape, np.ones(n), times, c, exact=lambda: _of_shares(np.outer(times, c), n)
    )


def density(n: int, decay: float, rate: float = 0.0, saved: int = 101) -> Flow:
    """Return the flow of Eq. 10 with a decay, and of Eq. 8 with a mutation rate; either may be 0."""
    c, times = lognormal(n), np.linspace(0.0, END, saved)
    dynamics = ed.SelectionMutation(rate, target=1.0) if rate else ed.Replicator()
    landscape = LinearDecay(c, decay) if decay else ed.landscapes.Constant(c)
    equations = " + ".join(["Eq. 8"] * bool(rate) + [f"Eq. 10 λ = {decay:g}"] * bool(decay))
    name = equations if n == GROUPS else f"{equations}, N = {size(n)}"
    return Flow(name, dynamics, landscape, np.ones(n), times, c, decay, rate)


def seasonal(n: int = GROUPS, period: float = 10.0, amplitude: float = 0.5) -> Flow:
    """Return the replicator flow of fitness that swings with a phase of each group's own."""
    c, times = lognormal(n), np.linspace(0.0, END, 101)
    phase = np.random.default_rng(1).uniform(0.0, 2 * math.pi, n)
    frequency = 2 * math.pi / period

    def exact() -> FloatArray:
        swings = np.cos(phase) - np.cos(frequency * times[:, None] + phase)
        return _of_shares(np.outer(times, c) + amplitude / frequency * swings, n)

    return Flow(
        "seasonal",
        ed.Replicator(),
        Seasonal(c, amplitude=np.full(n, amplitude), period=period, phase=phase),
        np.ones(n),
        times,
        c,
        swing=Swing(frequency, amplitude * np.cos(phase), amplitude * np.sin(phase)),
        exact=exact,
    )


def games(end: float, shift: float = 0.0) -> Flow:
    """Return rock-paper-scissors; a shift of all payoffs changes nothing."""
    payoff = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) + shift
    name = f"game of three, t = {end:g}" + (f", payoffs {shift:+g}" if shift else "")
    p0, times = np.array([0.5, 0.3, 0.2]), np.linspace(0.0, end, int(end) + 1)
    return Flow(name, ed.Replicator(), MatrixGame(payoff), p0, times, np.zeros(3), payoff=payoff)


def paper_size() -> list[Flow]:
    """Return the flows of 768 groups."""
    decays = [density(GROUPS, decay) for decay in (1e-3, 0.3, 1.0, 100.0)]
    return [constant(), *decays, density(GROUPS, 0.0, 0.01), density(GROUPS, 1.0, 0.01), seasonal()]
