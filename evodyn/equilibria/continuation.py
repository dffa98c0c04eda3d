"""The way along a curve of rest points: pseudo-arclength continuation in masses and one parameter."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.optimize import brentq

from evodyn.core.arrays import FloatArray, frozen, real
from evodyn.core.specifications import Specification
from evodyn.equilibria.conditions import RestPointProblem
from evodyn.equilibria.equilibrium import Equilibrium, judged
from evodyn.equilibria.newton import Solution
from evodyn.equilibria.probing import fixed_totals
from evodyn.equilibria.stability import ComplexArray
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction, fitness_at_log_masses

__all__ = ["Passage", "Path", "Problem"]

Problem = Callable[[float], tuple[Dynamics, LandscapeFunction]]

Kind = Literal["fold", "extinction", "invasion", "crossing", "hopf"]

_CORRECTIONS = 10
_CONVERGED = 1e-11  # residual, relative to the size of rates
_QUICK = 4  # corrections, up to which a step may grow
_TURN = 0.95  # cosine of the angle by which the direction may change in one step
_SMALLEST = 1e-7  # step, relative to the longest
_DIFFERENCE = 1e-6  # of the parameter, relative to the interval
_NOTHING = 1e-9  # rates, relative to their size, that have no sign


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Passage(Specification):
    """A place on a branch where its stability may change.

    Attributes
    ----------
    kind : str
        "fold": the branch turns back. "extinction": the mass of a group falls to 0, and the branch goes on
        without it. "invasion": the growth rate of an absent group changes sign; a branch with that group
        starts here. "crossing": a real eigenvalue changes sign elsewhere, and another branch crosses.
        "hopf": a pair of complex ones does, and cycles appear.
    parameter : float
        Where.
    masses : array, shape (N,)
        The rest point there.
    group : int or None
        Who dies out or can invade.

    Examples
    --------
    >>> Passage("extinction", 0.5, [1.0, 0.0], 1)
    Passage(kind='extinction', parameter=0.5, masses=[1., 0.], group=1)
    """

    kind: Kind
    parameter: float
    masses: FloatArray
    group: int | None = None

    def __post_init__(self) -> None:
        self._set(masses=frozen(self.masses))


@dataclasses.dataclass(frozen=True)
class Point:
    """A rest point on the way: parameter, log-masses of the present groups, who they are."""

    parameter: float
    logs: FloatArray
    present: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Path:
    """What is followed: the problem at every parameter, and the units of masses and of the parameter."""

    problem: Problem
    first: RestPointProblem
    interval: tuple[float, float]

    @property
    def span(self) -> float:
        return abs(self.interval[1] - self.interval[0])

    @functools.cached_property
    def unit(self) -> float:
        """Total mass at the start."""
        return float(np.asarray(self.first.start).sum())

    @functools.cached_property
    def usual(self) -> float:
        """Size of rates at the start: at a passage those of the few that are left may all be 0."""
        return self.first.rate_scale(np.log(np.asarray(self.first.start)[self.first.present]))

    def scale(self, here: RestPointProblem, point: Point) -> float:
        """Return the size of rates, to which errors are relative."""
        return max(self.usual, here.rate_scale(point.logs))

    def at(self, point: Point) -> RestPointProblem:
        """Return the conditions at a point, without the checks that the first had."""
        dynamics, landscape = self.problem(point.parameter)
        first = self.first
        blocks = dynamics.blocks(first.n)
        totals = first.totals
        if first.mutates:  # the target, and with it total mass, may be the parameter
            totals = fixed_totals(dynamics, landscape, first.n, None, first.start, True)[0]
        return dataclasses.replace(
            first,
            dynamics=dynamics,
            landscape=landscape,
            blocks=blocks,
            totals=totals,
            steady=dynamics.steady_inflow(first.n),
            separable=None,  # its verdict is exact, and has no place for points on the edge of stability
            affine=None,
            present=point.present,
            exact=True,
        )

    def equations(self, point: Point) -> tuple[FloatArray, FloatArray, float]:
        """Return errors, their Jacobian in (log-masses, parameter), and the size of rates."""
        here = self.at(point)
        low, high = sorted(self.interval)
        width = _DIFFERENCE * self.span
        before, after = max(point.parameter - width, low), min(point.parameter + width, high)
        sides = [dataclasses.replace(point, parameter=value) for value in (before, after)]
        errors = [self.at(side).error(point.logs) for side in sides]
        along = (errors[1] - errors[0]) / (after - before)
        inner = np.vstack((here.log_jacobian(point.logs), here.mass_rows(point.logs)))
        return here.error(point.logs), np.column_stack((inner, along)), self.scale(here, point)

    def corrected(self, point: Point, row: FloatArray, value: float) -> tuple[Point, int] | None:
        """Return the rest point on a plane, and how many corrections that took; None if there is none near.

        The plane is row · (masses/unit, parameter/span) = value.
        """
        low, high = sorted(self.interval)
        for count in range(_CORRECTIONS):
            if not low <= point.parameter <= high or not np.isfinite(point.logs).all():
                return None
            with np.errstate(all="ignore"):
                errors, jacobian, scale = self.equations(point)
            masses = np.exp(point.logs) / self.unit
            gap = row[:-1] @ masses + row[-1] * point.parameter / self.span - value
            residual = np.append(errors / scale, gap)
            if not np.isfinite(residual).all() or not np.isfinite(jacobian).all():
                return None
            if np.abs(residual).max() <= _CONVERGED:
                return point, count
            border = np.append(row[:-1] * masses, row[-1] / self.span)
            matrix = np.vstack((jacobian / scale, border))
            step = scipy.linalg.lstsq(matrix, -residual, lapack_driver="gelsy", cond=1e-14)[0]
            # A mass changes e-fold at most, and the parameter stays in the interval to its end.
            step *= min(1.0, 1.0 / max(float(np.abs(step[:-1]).max(initial=0.0)), 1e-300))
            moved = point.parameter + float(step[-1])
            if abs(moved - point.parameter) < 0.1 * self.span:
                moved = min(max(moved, low), high)
            point = dataclasses.replace(point, logs=point.logs + step[:-1], parameter=moved)
        return None

    def direction(self, point: Point, former: FloatArray) -> FloatArray:
        """Return the unit tangent in (masses/unit, parameter/span), not against the former one."""
        _, jacobian, scale = self.equations(point)
        # In logarithms, in which the least of masses has no column that is out of all proportion.
        units = np.append(np.exp(point.logs) / self.unit, 1 / self.span)
        columns = np.append(np.ones(len(point.logs)), self.span)
        matrix = np.vstack((jacobian / scale, former * units)) * columns
        wanted = np.append(np.zeros(len(jacobian)), 1.0)
        tangent = scipy.linalg.lstsq(matrix, wanted, lapack_driver="gelsy", cond=1e-14)[0] * columns * units
        return np.asarray(tangent / np.linalg.norm(tangent))

    def place(self, point: Point) -> FloatArray:
        """Return (masses/unit, parameter/span)."""
        return np.append(np.exp(point.logs) / self.unit, point.parameter / self.span)

    def ahead(self, point: Point, tangent: FloatArray, step: float) -> tuple[Point, int] | None:
        """Return the rest point one step along the branch."""
        here = self.place(point)
        there = here + step * tangent
        low, high = sorted(self.interval)
        parameter = float(min(max(there[-1] * self.span, low), high))
        # A mass that falls is guessed from its logarithm: it may do so for ever.
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = step * tangent[:-1] / here[:-1]
            logs = point.logs + np.where(relative > 0, np.log1p(np.maximum(relative, 0.0)), relative)
        guess = dataclasses.replace(point, logs=logs, parameter=parameter)
        found = self.corrected(guess, tangent, float(tangent @ there))
        if found is None or np.linalg.norm(self.place(found[0]) - here) > 2 * step:
            return None
        return found

    def judged(self, point: Point) -> Equilibrium:
        """Return the rest point with its certificates."""
        here = self.at(point)
        logs = here.everywhere(point.logs)
        found = Solution(np.exp(logs), point.present.copy(), "continuation in masses and parameter", logs)
        return judged(here, found, True)

    def absent_rates(self, point: Point) -> FloatArray:
        """Return the growth rates of the absent groups, relative to the size of rates; 0 for the present."""
        here = self.at(point)
        logs = here.everywhere(point.logs)
        fitness = real(fitness_at_log_masses(here.landscape, 0.0, logs))
        rates = here.growth(np.exp(logs), fitness)[1] / self.scale(here, point)
        rates[point.present] = 0.0
        return np.asarray(rates)

    def spectrum(self, point: Point) -> ComplexArray:
        """Return the eigenvalues among the present groups, relative to the size of rates."""
        here = self.at(point)
        return np.asarray(here.internal_eigenvalues(point.logs) / self.scale(here, point))

    def followed(
        self, masses: FloatArray, longest: float, most: int
    ) -> tuple[list[Point], tuple[Passage, ...], str]:
        """Return the branch from masses at rest at the beginning of the interval, and why it ends."""
        present = masses > 0
        point = Point(self.interval[0], np.log(masses[present]), present)
        forward = math.copysign(1.0, self.interval[1] - self.interval[0])

        def along(now: Point, sign: float) -> FloatArray:
            return self.direction(now, np.append(np.zeros(len(now.logs)), sign))

        tangent = along(point, forward)
        points, passages, ended = [point], list[Passage](), ""
        step = longest / 4
        while not ended:
            if len(points) >= most:
                ended = f"after {most} points"
            elif step < _SMALLEST * longest:
                ended = "no rest point was found near its end"
            elif (edge := self._edge(point, tangent, step)) is not None:
                points.append(edge)
                passages += self._passages(point, tangent, edge, self.direction(edge, tangent))
                ended = f"the parameter reached {edge.parameter:g}"
            elif (death := self._extinction(point, tangent, step)) is not None:
                passage, rest = death
                passages.append(passage)
                point, step = rest, longest / 4
                points.append(point)
                tangent = along(point, math.copysign(1.0, tangent[-1]))
            else:
                found = self.ahead(point, tangent, step)
                following = None if found is None else self.direction(found[0], tangent)
                if found is None or following is None or following @ tangent < _TURN:
                    step /= 2
                    continue
                passages += self._passages(point, tangent, found[0], following)
                point, tangent = found[0], following
                points.append(point)
                if found[1] <= _QUICK:
                    step = min(1.5 * step, longest)
        return points, tuple(passages), ended

    def _edge(self, point: Point, tangent: FloatArray, step: float) -> Point | None:
        """Return the rest point at the end of the interval, if the next step would pass it."""
        here = self.place(point)
        low, high = sorted(self.interval)
        end = high if tangent[-1] > 0 else low
        room = (end / self.span - here[-1]) / tangent[-1] if tangent[-1] else math.inf
        if room > step:
            return None
        there = here + room * tangent
        if (there[:-1] <= 0).any():
            return None
        row = np.append(np.zeros(len(point.logs)), 1.0)
        guess = dataclasses.replace(point, logs=np.log(there[:-1] * self.unit), parameter=end)
        found = self.corrected(guess, row, end / self.span)
        if found is None or np.linalg.norm(self.place(found[0]) - here) > 2 * step:
            return None
        return dataclasses.replace(found[0], parameter=end)

    def _extinction(self, point: Point, tangent: FloatArray, step: float) -> tuple[Passage, Point] | None:
        """Return where a group dies out within the next step, and the rest point without it."""
        here = self.place(point)
        with np.errstate(divide="ignore"):
            rooms = np.where(tangent[:-1] < 0, -here[:-1] / tangent[:-1], math.inf)
        if not len(rooms) or rooms.min() > step:
            return None
        place = int(rooms.argmin())
        group = int(np.flatnonzero(point.present)[place])
        there = here + rooms[place] * tangent
        low, high = sorted(self.interval)
        parameter = there[-1] * self.span
        others = point.present.copy()
        others[group] = False
        kept = np.delete(there[:-1], place)
        if not low <= parameter <= high or (kept <= 0).any() or not self._can_die(point, others):
            return None
        rest = Point(float(parameter), np.log(kept * self.unit), others)
        # At rest without the group, and its own rate is 0 too: the parameter is the unknown for it.
        for _ in range(_CORRECTIONS):
            errors, jacobian, scale = self.equations(rest)
            rate, slope = self._rate_and_slope(rest, group)
            residual = np.append(errors / scale, rate)
            if not np.isfinite(residual).all() or not np.isfinite(slope).all():
                return None
            if np.abs(residual).max() <= _CONVERGED:
                break
            matrix = np.vstack((jacobian / scale, slope))
            move = scipy.linalg.lstsq(matrix, -residual, lapack_driver="gelsy", cond=1e-14)[0]
            if np.abs(move[:-1]).max(initial=0.0) > 1 or not low <= rest.parameter + move[-1] <= high:
                return None
            rest = dataclasses.replace(
                rest, logs=rest.logs + move[:-1], parameter=rest.parameter + float(move[-1])
            )
        else:
            return None
        reached = np.insert(self.place(rest), place, 0.0)
        if np.linalg.norm(reached - here) > 2 * step:
            return None
        masses = np.zeros(self.first.n)
        masses[others] = np.exp(rest.logs)
        return Passage("extinction", rest.parameter, masses, group), rest

    def _can_die(self, point: Point, others: npt.NDArray[np.bool_]) -> bool:
        """Tell whether every block keeps a group, and no inflow feeds the one that is left out."""
        here = self.at(point)
        alone = any(not others[block].any() for block, _ in here.blocks)
        fed = here.steady is None or bool((here.steady[point.present & ~others] > 0).any())
        return not alone and not fed

    def _rate_and_slope(self, point: Point, group: int) -> tuple[float, FloatArray]:
        """Return the growth rate of an absent group, and its differences in log-masses and parameter."""
        width = _DIFFERENCE
        low, high = sorted(self.interval)
        rate = float(self.absent_rates(point)[group])
        slopes = [
            (
                self.absent_rates(dataclasses.replace(point, logs=point.logs + width * unit))[group]
                - self.absent_rates(dataclasses.replace(point, logs=point.logs - width * unit))[group]
            )
            / (2 * width)
            for unit in np.eye(len(point.logs))
        ]
        ends = [max(point.parameter - width * self.span, low), min(point.parameter + width * self.span, high)]
        sides = [self.absent_rates(dataclasses.replace(point, parameter=end))[group] for end in ends]
        return rate, np.append(slopes, (sides[1] - sides[0]) / (ends[1] - ends[0]))

    def _passages(
        self, point: Point, tangent: FloatArray, found: Point, following: FloatArray
    ) -> list[Passage]:
        """Return what was passed between two points of the branch, in order."""
        length = float(tangent @ (self.place(found) - self.place(point)))

        def between(step: float) -> Point:
            if not 0 < step < length:
                return point if step <= 0 else found
            reached = self.ahead(point, tangent, step)
            return found if reached is None else reached[0]

        def located(value: Callable[[Point], float]) -> Point:
            return between(float(brentq(lambda step: value(between(step)), 0.0, length, xtol=1e-13 * length)))

        def passage(kind: Kind, where: Point, group: int | None = None) -> Passage:
            masses = np.zeros(self.first.n)
            masses[where.present] = np.exp(where.logs)
            return Passage(kind, where.parameter, masses, group)

        passed: list[tuple[float, Passage]] = []

        def note(kind: Kind, where: Point, group: int | None = None) -> None:
            order = float(tangent @ (self.place(where) - self.place(point)))
            passed.append((order, passage(kind, where, group)))

        folds = following[-1] * tangent[-1] < 0
        if folds:
            note("fold", located(lambda now: float(self.direction(now, tangent)[-1])))
        before, after = self.absent_rates(point), self.absent_rates(found)
        certain = (np.abs(before) > _NOTHING) & (np.abs(after) > _NOTHING)
        for group in np.flatnonzero(certain & (before * after < 0)):
            if np.isfinite([before[group], after[group]]).all():
                invader = int(group)
                note("invasion", located(lambda now, i=invader: float(self.absent_rates(now)[i])), invader)  # type: ignore[misc]
        spectra = [self.spectrum(now) for now in (point, found)]
        growing = [int((values.real > _NOTHING).sum()) for values in spectra]
        if abs(growing[1] - growing[0]) == 2 and not folds:
            note("hopf", self._bisected(between, length, growing[0]))
        elif growing[1] != growing[0] and not folds:
            note("crossing", self._bisected(between, length, growing[0]))
        return [each for _, each in sorted(passed, key=lambda pair: pair[0])]

    def _bisected(self, between: Callable[[float], Point], length: float, growing: int) -> Point:
        """Return where the number of growing eigenvalues changes."""
        low, high = 0.0, length
        for _ in range(40):
            middle = 0.5 * (low + high)
            same = int((self.spectrum(between(middle)).real > 0).sum()) == growing
            low, high = (middle, high) if same else (low, middle)
        return between(high)
