"""An explicit pair that turns implicit where stability would hold it back, in NumPy.

Tsit5 and Rodas5P are those that are compiled for fitness in the normal form. Here the right-hand side is
any function. An implicit step needs its Jacobian as a diagonal plus low rank, stated or
measured. What is stated or measured is compared with the right-hand side along its own direction at every
step, and given up for good where it is wrong: a Rosenbrock method is as good as its Jacobian.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.model.structure import DiagonalPlusLowRank
from evodyn.solvers.pairs import Pair
from evodyn.solvers.protocol import System
from evodyn.solvers.tableaus import RODAS5P

__all__ = ["Switching", "SwitchingStepper"]

_SAFETY, _LEAST, _MOST = 0.9, 0.2, 10.0
"""Of the length that the error of a step suggests for the next, and by what it may differ from the last."""

_NUDGE = 1e-6
"""By what a state is moved, and a time in units of the step, to measure a slope."""

_WRONG = 1e-3
"""Error of a directional derivative, relative to the largest, from which on a Jacobian is not trusted."""

_LOOKED = tuple(RODAS5P.c[1:3].tolist())
"""Where the implicit method looks within a step."""


def _rounded(norm: float) -> float:
    """Return `norm` to eight binary digits, so that rounding errors do not move the ends of steps."""
    mantissa, exponent = math.frexp(norm)
    return math.ldexp(round(256 * mantissa) / 256, exponent) if math.isfinite(norm) else norm


@dataclasses.dataclass(frozen=True)
class Switching:
    """An explicit pair, with Rodas5P where the problem is stiff and its Jacobian a diagonal plus low rank.

    Parameters
    ----------
    pair : Pair
    stiff : bool, optional
        Whether to begin with Rodas5P.
    explicit, one_step, tells_stiffness : bool
        See `evodyn.solvers.protocol.Method`.
    """

    pair: Pair
    stiff: bool = False
    explicit: bool = True
    one_step: bool = True
    tells_stiffness: bool = True

    @property
    def name(self) -> str:
        """That of the pair."""
        return self.pair.name

    def tolerance(self, bound: float, n: int, *, drift_free: bool) -> float:
        """Return the tolerance with which the error of each of `n` components stays below `bound`."""
        return bound

    def start(
        self,
        system: System,
        t: float,
        y: FloatArray,
        stop: float,
        *,
        longest: float = math.inf,
        first: float | None = None,
    ) -> SwitchingStepper:
        """Begin at `t` and `y`, to go to `stop` in steps of at most `longest`, `first` the first."""
        return SwitchingStepper(self, system, t, y, stop, longest=longest, first=first)


class SwitchingStepper:
    """The pair and the Rosenbrock method at work."""

    def __init__(
        self,
        method: Switching,
        system: System,
        t: float,
        y: FloatArray,
        stop: float,
        *,
        longest: float,
        first: float | None,
    ) -> None:
        self.method = method
        self.pair = pair = method.pair
        self.system = system
        self.t, self.y, self.stop = t, y, stop
        self.status = "running"
        self.longest = min(system.max_step, longest)
        self.stiff = method.stiff
        self._f = system.rhs(t, y)
        self._stages = np.empty((max(8, len(pair.c)), len(y)))
        self._argument = np.empty(len(y))
        self._trusted = system.structure is not None
        self._structure: DiagonalPlusLowRank | None = None
        self._drift: FloatArray | None = None
        self._drifts = False
        self._signs, self._error = 0, 1.0
        self._rate = self._length = 0.0
        self._before = t, y
        self._h = self._first_step() if first is None else first

    @property
    def again(self) -> Switching:
        """What takes the last step once more."""
        return dataclasses.replace(self.method, stiff=self.stiff)

    def _first_step(self) -> float:
        """Return the length of a step to begin with."""
        fastest = self._size(self._f)
        if not fastest > 0.0 or not math.isfinite(fastest):
            return self.stop - self.t
        return float(0.5 * self.system.atol.max() ** (1.0 / (self.pair.order + 1)) / fastest)

    def _size(self, error: FloatArray) -> float:
        highest, lowest = float(np.maximum.reduce(error)), float(np.minimum.reduce(error))
        return highest - lowest if self.system.drift_free else max(highest, -lowest)

    @property
    def looked(self) -> Sequence[float]:
        """Where within the last step the right-hand side was looked at."""
        return _LOOKED if self.stiff else self.pair.looked

    @property
    def name(self) -> str:
        """The method that made the last step."""
        return "Rodas5P" if self.stiff else self.pair.name

    def step(self) -> str:
        """Take one step; return what the method has to say, empty if nothing."""
        t, pair = self.t, self.pair
        self.stiff = self._turns_implicit() if not self.stiff else self._stays_implicit()
        rejected = False
        while True:
            h = min(self._h, self.longest)
            last = h * (1.0 + 1e-10) >= self.stop - t
            h, t_new = (self.stop - t, self.stop) if last else (h, t + h)
            if self.stiff and not self._prepare(h):
                self.stiff = False
            error, y = self._implicit(h) if self.stiff else self._explicit(h, t_new)
            if error <= 1.0:
                f = self.system.rhs(t_new, y) if self.stiff else np.array(self._stages[len(pair.c) - 1])
                if not self.stiff or math.isfinite(f @ f):
                    break
                error = math.nan
            rejected = True
            order = 5 if self.stiff else pair.order
            self._h = h * (max(_LEAST, _SAFETY * error ** (-1.0 / order)) if math.isfinite(error) else 0.1)
            if not self._h > 10.0 * np.spacing(abs(t)):
                self.status = "failed"
                return f"No step from t = {t:g} was accepted."
        if not self.stiff:
            apart = self._size(y - self._argument)
            self._rate = self._size(f - self._stages[len(pair.c) - 2]) / apart if apart > 0.0 else 0.0
        longer = min(1.0 if rejected else _MOST, self._growth(error))
        # The last step may have been cut short.
        self._h = max(self._h, h * longer) if last else h * longer
        self._before, self._length = (t, self.y), h
        self.t, self.y, self._f = t_new, y, f
        self._drift = None
        if not self.stiff:
            self._structure = None
        if last:
            self.status = "finished"
        return ""

    def _growth(self, error: float) -> float:
        """Return by what factor the next step may be longer than one with this error."""
        if error == 0.0:
            return _MOST
        if self.stiff:
            return max(_LEAST, _SAFETY * float(error**-0.2))
        # An error that has grown goes on growing (Hairer and Wanner 1996, section IV.2).
        before, self._error = self._error, max(error, 1e-4)
        order = self.pair.order
        return max(_LEAST, _SAFETY * float(error ** (-0.7 / order) * before ** (0.4 / order)))

    def _explicit(self, h: float, t_new: float) -> tuple[float, FloatArray]:
        """Return the error of a step of the explicit pair in units of the tolerance, and where it leads."""
        rhs, k, y, t, c = self.system.rhs, self._stages, self.y, self.t, self.pair.c
        weights, last = h * self.pair.a, len(c) - 1
        k[0] = self._f
        for stage in range(1, last):
            argument = np.dot(weights[stage, :stage], k[:stage])
            argument += y
            k[stage] = rhs(t + c[stage] * h, argument)
        self._argument = argument
        new: FloatArray = np.dot(weights[last, :last], k[:last])
        new += y
        k[last] = rhs(t_new, new)
        errors = np.dot(h * self.pair.errors, k[: last + 1])
        errors /= self._scale(y)
        return _rounded(self.pair.error([self._size(error) for error in errors])), new

    def _scale(self, y: FloatArray) -> FloatArray:
        """Return the tolerance of every component."""
        scale = np.abs(y)
        scale *= self.system.rtol
        scale += self.system.atol
        return scale

    # The implicit method.

    def _turns_implicit(self) -> bool:
        """Tell whether to go on with the implicit method: stability holds steps back, two of them or by far.

        What lies within a step that is as long as stability allows is not known as well as its end.
        """
        if not self._trusted or not self._length * self._rate > 1.0:
            self._signs = 0
            return False
        self._structure = self._measured()
        size = 0.0 if self._structure is None else self._length * self._stiffest()
        self._signs = self._signs + 1 if size > 2.0 else 0
        return self._signs == 2 or size > 3.0

    def _stays_implicit(self) -> bool:
        """Tell whether the last step was longer than stability allows to the explicit pair."""
        self._signs = 0
        begins = not self._length
        stays = begins or (self._structure is not None and self._length * self._stiffest() >= 1.0)
        self._structure = None
        return stays

    def _stiffest(self) -> float:
        assert self._structure is not None  # noqa: S101
        return float(np.abs(self._structure.diagonal).max(initial=0.0))

    def _measured(self) -> DiagonalPlusLowRank | None:
        """Return the Jacobian where the stepper stands; None, for good, if it is not what is said."""
        rhs, t, y, f = self.system.rhs, self.t, self.y, self._f
        assert self.system.structure is not None  # noqa: S101
        try:
            structure = self.system.structure(t, y)
        except Exception:  # a landscape that cannot be asked there
            structure = None
        if structure is not None and (largest := float(np.abs(f).max(initial=0.0))) > 0.0:
            direction = f / largest
            expected = structure @ direction
            error = (rhs(t, y + _NUDGE * direction) - f) / _NUDGE - expected
            bound = np.abs(expected).max() + 1e-2 * np.abs(structure.diagonal).max()
            if not np.abs(error).max() <= _WRONG * bound:
                structure = None
        self._trusted = structure is not None
        return structure

    def _prepare(self, h: float) -> bool:
        """Solve for what steps of length `h` need; tell whether the Jacobian may be trusted."""
        if self._structure is None and self._trusted:
            self._structure = self._measured()
        if self._structure is None:
            return False
        if self.system.steady:
            self._drift, self._drifts = self._f, False
        if self._drift is None:
            ahead = min(_NUDGE * h, self.stop - self.t)
            self._drift = (self.system.rhs(self.t + ahead, self.y) - self._f) / ahead
            self._drifts = bool(self._drift.any())
        structure = self._structure
        self._inverse = 1.0 / (1.0 / (RODAS5P.gamma * h) - structure.diagonal)
        scaled = self._inverse[:, None] * structure.left
        inner = np.eye(scaled.shape[1]) - np.dot(structure.right.T, scaled)
        self._spread = np.dot(scaled, _inverse(inner))
        return True

    def _implicit(self, h: float) -> tuple[float, FloatArray]:
        """Return the error of a step of the Rosenbrock method, and where it leads."""
        rhs, k, y, t = self.system.rhs, self._stages, self.y, self.t
        assert self._structure is not None  # noqa: S101
        assert self._drift is not None  # noqa: S101
        weights, right = RODAS5P.g / h, self._structure.right.T
        argument = y
        for stage in range(8):
            if stage:
                argument = np.dot(RODAS5P.a[stage, :stage], k[:stage])
                argument += y
                value = np.dot(weights[stage, :stage], k[:stage])
                value += rhs(t + RODAS5P.c[stage] * h, argument)
            else:
                value = np.array(self._f)
            if self._drifts and RODAS5P.d[stage]:
                value += (RODAS5P.d[stage] * h) * self._drift
            value *= self._inverse
            value += np.dot(self._spread, np.dot(right, value))
            k[stage] = value
        return _rounded(self._size(k[7] / self._scale(y))), argument + k[7]

    def interpolant(self) -> Callable[[FloatArray], FloatArray]:
        """Return the states, shape (m, n), at times, shape (m,), within the last step."""
        (t, y), h = self._before, self._length
        if self.stiff:
            return functools.partial(
                _implicit_states, t, h, y, self.y, np.dot(RODAS5P.dense, self._stages[:8])
            )
        stages = self._stages[: len(self.pair.c)]
        return self.pair.inside(self.system.rhs, t, h, y, self.y, stages)

    def held_back(self) -> bool:
        """Tell whether the last step was as long as stability allows, and nothing is done about it."""
        return not (self.stiff or self._trusted) and self._length * self._rate > self.pair.stability


def _inverse(matrix: FloatArray) -> FloatArray:
    """Return the inverse of a small matrix; not numbers, which reject a step, if it has none."""
    if len(matrix) == 2:  # for which NumPy takes as long as for a dozen
        (a, b), (c, d) = matrix.tolist()
        inverse: FloatArray = np.array([[d, -b], [-c, a]]) / float((a * d - b * c) or math.nan)
        return inverse
    try:
        return np.asarray(np.linalg.inv(matrix), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.full_like(matrix, np.nan)


def _implicit_states(
    t: float, h: float, y: FloatArray, new: FloatArray, inner: FloatArray, times: FloatArray
) -> FloatArray:
    """Return the interpolant of Rodas5P."""
    place = ((times - t) / h)[:, None]
    rest = 1.0 - place
    weights = np.hstack((rest, place, place * rest, place**2 * rest, place**3 * rest))
    states: FloatArray = weights @ np.vstack((y, new, inner))
    return states
