"""What the phases of one run share: the problem, how it is solved, and what is recorded."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from evodyn.core.progress import Report
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction, breakpoints
from evodyn.model.normal_form import NormalForm
from evodyn.simulate.changes import SampledTimes
from evodyn.simulate.compiled import Passage
from evodyn.simulate.dense import DenseOutput
from evodyn.simulate.extinction import Ledger
from evodyn.simulate.flow import State
from evodyn.simulate.method import Solver
from evodyn.simulate.occasions import Occasions
from evodyn.simulate.revival import receivers
from evodyn.simulate.trajectory import Trajectory
from evodyn.solvers.protocol import Method
from evodyn.solvers.scipy_methods import METHODS

__all__ = ["Course"]


class Course:
    """The course of one integration, from `begin` to `end`.

    Its method may change where the problem turns out to be stiff, and `resumes` as it ended a phase; its
    stops grow by the changes in time that are found, and it counts. The kernel of its landscape at the start
    is its `form`; what compiled methods make of its beginning may be known, as its `passage`.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        landscape: LandscapeFunction,
        begin: State,
        end: float,
        saved: Trajectory,
        ledger: Ledger,
        solver: Solver,
        method: Method,
        reason: str,
        occasions: Occasions,
        *,
        form: NormalForm | None = None,
        passage: Passage | None = None,
        settle: float | None = None,
        report: Report | None = None,
        dense: DenseOutput | None = None,
    ) -> None:
        self.dynamics = dynamics
        self.landscape = landscape
        self.start, self.end = begin.t, end
        self.saved = saved
        self.ledger = ledger
        self.solver = solver
        self.method = self.begun_with = method
        self.resumes: Method | None = None
        self.reason = reason
        self.form = form
        self.passage = passage
        self.steps = self.evaluations = self.phases = 0
        self.occasions = occasions
        self.settle = settle
        self.report = report
        self.dense = dense
        # What the compiled methods do not know of.
        known = dense is None and not occasions.functions and ledger.one_level is not None
        compiles = solver.compiles
        self.may_compile = compiles and known
        if compiles and not known:
            self.reason += "; the compiled methods have no dense output, own events or several thresholds"
        self.travelled: list[str] = []
        self.used: list[str] = []
        span = (begin.t, end)
        due = {t for t, _ in occasions.times if begin.t < t < end}
        due.update(breakpoints(landscape, span).tolist(), breakpoints(dynamics, span).tolist())
        self.stops: list[float] = [*sorted(due), end]
        self.receives = self._receivers(begin)

    @functools.cached_property
    def watched(self) -> SampledTimes | None:
        """The times at which to look for changes that nobody has declared; None where nothing can change."""
        steady = getattr(self.landscape, "autonomous", None) and self.dynamics.autonomous
        return None if steady else SampledTimes(self.start, self.end)

    def next_stop(self, t: float) -> float:
        """Return the first stop after `t`."""
        return next(stop for stop in self.stops if stop > t)

    def tell(self, t: float) -> None:
        """Say how far the run has got, if somebody listens."""
        if self.report is not None:
            self.report((t - self.start) / (self.end - self.start))

    @property
    def may_settle(self) -> bool:
        """Whether coming to rest would end the run: nothing is to happen later."""
        return self.settle is not None and not self.occasions.ahead

    def stop_at(self, t: float) -> None:
        """Let a phase end at `t`."""
        self.stops.append(t)
        self.stops.sort()

    @property
    def compiles(self) -> bool:
        """Whether the next phase may be integrated by compiled methods."""
        return self.may_compile and self.method is self.begun_with

    def travel(self, passage: Passage) -> None:
        """Count the steps of a compiled phase."""
        self.steps += passage.steps
        self.travelled += [name for name in passage.methods if name not in self.travelled]

    def stepped(self, name: str, t: float) -> None:
        """Count a step to `t` by a method of that name."""
        self.steps += 1
        if name not in self.used:
            self.used.append(name)
            if len(self.used) == 2 and self.method is self.begun_with:
                self.reason = f"{self.reason}; stiff from t = {t:.3g} on"

    @property
    def ran_on(self) -> tuple[str, str]:
        """The name of the methods that made the run, and why they were chosen."""
        if self.method is not self.begun_with:
            return self.method.name, self.reason
        if not self.travelled:
            return " and ".join(self.used) or self.method.name, self.reason
        return " and ".join(self.travelled), "compiled: fitness is in the normal form"

    def turn_stiff(self, t: float, *, structured: bool) -> None:
        """Go on with an implicit method."""
        self.method, self.resumes = METHODS["BDF" if structured else "LSODA"], None
        name = "Tsit5" if self.travelled else self.begun_with.name
        self.reason = f"the problem is stiff: {name} was held back by stability at t = {t:.3g}"

    def _receivers(self, state: State) -> npt.NDArray[np.bool_]:
        """Return which groups inflow may reach within the run."""
        if self.dynamics.autonomous:
            times = np.array([state.t])
        else:
            edges = np.array([state.t, *self.stops])
            middles = (edges[1:] + edges[:-1]) / 2
            samples = SampledTimes(self.start, self.end).within(state.t, self.end)
            times = np.concatenate((edges[:-1], middles, samples))
        return receivers(self.dynamics, self.landscape, state.t, state.log_masses, times)
