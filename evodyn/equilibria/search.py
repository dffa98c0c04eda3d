"""The search for rest points: which method applies, and what it finds."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evodyn.core.arrays import FloatArray, real
from evodyn.equilibria import closed_forms as rest_points
from evodyn.equilibria.affine_fitness import AffineFitness
from evodyn.equilibria.conditions import RestPointProblem
from evodyn.equilibria.newton import CONVERGED, NoRestPointError, Solution, UndecidedError, newton
from evodyn.equilibria.probing import BoolArray, size_of
from evodyn.model.fitness import Separable, fitness_at_log_masses
from evodyn.simulate.extend import extend
from evodyn.simulate.method import Solver
from evodyn.simulate.run import Run
from evodyn.simulate.solve import solve
from evodyn.simulate.status import Termination

__all__ = ["several_solutions", "solution"]

_FEW_STEPS = 50  # from a random start, or near the end of a flow

_UNIQUE = "linear system (active set); unique attractor, for differences in fitness always pull back"

_STAGES = 13  # of integration, each four times as long as the one before, if steps last

_STEPS = 2000  # in one stage; a flow that takes more is cycling

_SETTLED = 1e-7  # how near, relative to total mass, the flow must have come to the rest point

_STARTS = 12  # of Newton's iteration, beside the first at equal masses

_MANY_STARTS = 32  # where several rest points are expected

_SAME = 1e-6  # relative to total mass, within which two rest points are one

_SMALL = 3  # groups, in whose simplex so many starts leave no large gaps

PROBES = 64  # random masses at which a sign is asked for

_FEW = 200  # groups; eigenvalues of more cost more than an integration

_WATCHED = 8  # times saved in a stage

_WATCHES = 2  # stages that may stop before their end

_SMALL_AMPLITUDE = 0.1  # relative to total mass, within which a flow may decay as a linear one

_LAST = 4  # stages of integration, each of which must have come nearer

_AT_REST = 2.0**-44  # relative rates below this are rounding

_RARE = 1e-2  # share below which a group that shrinks may be fading

_COMMON = 1e-3  # share beyond which a group is not on its way out, however fast it shrinks


def solution(problem: RestPointProblem) -> Solution:
    """Return the rest point that `problem` asks for.

    Raises
    ------
    NoRestPointError
        If there is none on the support asked for, or none is singled out.
    """
    drifting = problem.start is not None and bool(problem.clips.any())
    free = bool(np.isnan(problem.totals).any())
    if problem.separable is not None and not (problem.general or problem.clipped or drifting or free):
        return _closed_form(problem, problem.separable)
    affine = None if drifting else problem.affine
    found = None
    if affine is not None and problem.start is None:
        found = _linear(problem, affine)
    elif affine is not None and (masses := affine.attractor(problem.present)) is not None:
        found = Solution(masses, masses > 0, _UNIQUE)
    if found is not None and affine is not None and (not affine.probed or _rests(problem, found)):
        return found
    if problem.start is not None:
        return _end_of_flow(problem, problem.start)
    return _from_several_starts(problem)


def several_solutions(problem: RestPointProblem) -> list[Solution]:
    """Return the rest points that Newton's iteration finds from many starts, or else that of `solution`."""
    rng = np.random.default_rng(0)
    first = problem.equal_start() * problem.present
    starts = [first, *(first * (np.eye(problem.n)[k] + 1e-2) for k in np.flatnonzero(problem.present))]
    starts += [first * (rng.gamma(0.5, size=problem.n) + 1e-6) for _ in range(_MANY_STARTS)]
    found: list[Solution] = []
    for start in starts:
        for inside, total in problem.conserved():
            block = np.flatnonzero(problem.present)[inside]
            start[block] *= total / start[block].sum()
        try:
            one = newton(problem, start, steps=_FEW_STEPS)
        except NoRestPointError:
            continue
        if all(np.abs(one.masses - other.masses).max() > _SAME * one.masses.sum() for other in found):
            found.append(one)
    return found or [solution(problem)]


def _rests(problem: RestPointProblem, found: Solution) -> bool:
    """Tell whether the flow itself is at rest, where it was only affine at random masses."""
    here = dataclasses.replace(problem, present=found.survivors)
    logs = np.log(found.masses[found.survivors])
    return bool(np.abs(here.rates(logs)).max() <= _SETTLED * here.rate_scale(logs))


def _closed_form(problem: RestPointProblem, fitness: Separable) -> Solution:
    masses, log_masses, methods = [], [], []
    for (block, _), total in zip(problem.blocks, problem.totals, strict=True):
        present = problem.present[block]
        # Masks cost as much as the solution with a million groups; mostly they are not needed.
        chosen: Any = slice(None) if present.all() else present
        contribution = fitness.contribution[block][chosen]
        inflow = (
            np.zeros(problem.n)[block][chosen] if problem.steady is None else problem.steady[block][chosen]
        )
        fed = problem.mutates and bool(inflow.any())
        start = None if problem.start is None else problem.start[block][chosen]
        logs = None
        if fitness.temperature and (fitness.decay or fed):
            logs = rest_points.regulated_balance(
                contribution, fitness.decay, fitness.temperature, inflow, total
            )
            part, method = np.exp(logs), "one scalar equation for the level, one for each group"
        elif fitness.temperature:
            logs = rest_points.softmax(contribution, fitness.temperature, total)
            part, method = np.exp(logs), "softmax"
        elif fed and fitness.decay:
            part, _ = rest_points.soft_water_filling(contribution, fitness.decay, inflow, total)
            method = "soft water filling (Newton's iteration for the level)"
        elif fed:
            part, _ = rest_points.mutation_balance(contribution, inflow, total)
            method = "secular equation (Newton's iteration for the root)"
        elif fitness.decay:
            part, excess = rest_points.water_filling(contribution, fitness.decay, total)
            level = int(np.count_nonzero(excess == 0))
            method = "water filling"
            if level:
                method += f"; {level} absent exactly at the water level, approached only algebraically"
        else:
            best = contribution == contribution.max()
            weights = best.astype(float) if start is None else best * start
            part, method = total * weights / weights.sum(), "greatest contribution"
            if best.sum() > 1:
                method += f"; {best.sum()} groups tie for it, a continuum of rest points"
        masses.append(_values_of_all(part, chosen, len(present), 0.0))
        methods.append(method)
        if logs is not None:
            log_masses.append(_values_of_all(logs, chosen, len(present), -math.inf))
    all_masses = masses[0] if len(masses) == 1 else np.concatenate(masses)
    all_logs = np.concatenate(log_masses) if log_masses else None
    survivors = all_masses > 0 if all_logs is None else np.isfinite(all_logs)
    if problem.exact and not survivors[problem.present].all():
        missing = int(np.flatnonzero(problem.present & ~survivors)[0])
        raise NoRestPointError(
            f"support has no rest point with all its groups: group {missing} cannot persist among them; "
            "expected a set that can coexist: leave it out, or leave support out for the attractor."
        )
    return Solution(all_masses, survivors, _one_line(methods), all_logs)


def _linear(problem: RestPointProblem, fitness: AffineFitness) -> Solution:
    if problem.exact:
        masses, nullity = fitness.rest_point(problem.present)
        if masses is None:
            raise NoRestPointError(
                f"support {np.flatnonzero(problem.present).tolist()} has no rest point with all its groups; "
                "expected a set that can coexist: see all_equilibria."
            )
        return Solution(masses, masses > 0, _linear_method(nullity))
    masses = fitness.attractor(problem.present)
    if masses is not None:
        return Solution(masses, masses > 0, _UNIQUE)
    alive = fitness.undominated(problem.present)
    if not alive.all():
        masses = fitness.attractor(alive)
        if masses is not None:
            return Solution(masses, masses > 0, "linear system; the groups left out are strictly dominated")
    else:
        masses, nullity = fitness.rest_point(alive)
        if masses is not None:
            return Solution(masses, masses > 0, _linear_method(nullity))
    raise NoRestPointError(
        "no attractor is certain to be unique and there is no interior rest point; expected support or "
        "start to select one: all_equilibria lists them for few groups."
    )


def _from_several_starts(problem: RestPointProblem) -> Solution:
    """Return what Newton's iteration finds from equal masses, or the flow, or the iteration from elsewhere.

    Raises
    ------
    NoRestPointError
        If every iteration leads to where a group has vanished, or total mass cannot be conserved.
    UndecidedError
        If an iteration stalls elsewhere.
    """
    first = problem.equal_start()
    try:
        return newton(problem, first)
    except UndecidedError as error:
        outcome: NoRestPointError = error
    except NoRestPointError as error:
        outcome = error
    if problem.n > _FEW:
        raise outcome
    if _leaks(problem):
        raise NoRestPointError(
            f"support {np.flatnonzero(problem.present).tolist()} has no rest point with all its groups, for "
            "their total mass cannot stay what it is; expected a set that can coexist."
        )
    small = problem.present.sum() <= _SMALL
    if not small and (found := _where_the_flow_leads(problem, first)) is not None:
        # In many dimensions random starts are all far away, and the flow knows its way.
        return found
    rng = np.random.default_rng(0)
    for _ in range(_STARTS):
        guess = first * (rng.gamma(0.7, size=problem.n) + 1e-3)
        for (block, _), total in zip(problem.blocks, problem.totals, strict=True):
            if not math.isnan(total):
                guess[block] *= total / guess[block][problem.present[block]].sum()
        try:
            return newton(problem, guess, steps=_FEW_STEPS)
        except UndecidedError as error:
            outcome = error
        except NoRestPointError:
            continue
    if small and isinstance(outcome, UndecidedError):
        found = _where_the_flow_leads(problem, first)
        if found is not None:
            return found
    raise outcome


def _where_the_flow_leads(problem: RestPointProblem, masses: FloatArray) -> Solution | None:
    """Return the rest point that the flow reaches from `masses`, if all present groups have mass there."""
    try:
        found = _end_of_flow(dataclasses.replace(problem, exact=True), masses * problem.present)
    except NoRestPointError:
        return None
    return found if np.array_equal(found.survivors, problem.present) else None


def _leaks(problem: RestPointProblem) -> bool:
    """Tell whether a total mass to be conserved changes with one sign at all of many random masses."""
    rng = np.random.default_rng(1)
    sums = []
    for _ in range(PROBES):
        masses = np.where(problem.present, rng.gamma(0.5, size=problem.n) + 1e-6, 0.0)
        for (block, _), total in zip(problem.blocks, problem.totals, strict=True):
            masses[block] *= (1.0 if math.isnan(total) else total) / masses[block].sum()
        present = masses[problem.present]
        with np.errstate(all="ignore"):
            flows = problem.rates(np.log(present)) * present
        sums.append([flows[inside].sum() / (size_of(flows) or 1.0) for inside, _ in problem.conserved()])
    signs = np.array(sums)
    return bool(((signs > CONVERGED).all(axis=0) | (signs < -CONVERGED).all(axis=0)).any())


def _end_of_flow(problem: RestPointProblem, start: FloatArray) -> Solution:
    """Integrate from `start` until the flow has settled near a rest point, and polish that one.

    A flow that passes by a rest point that it will leave again has not settled: near one that is unstable
    the integration goes on, unless it starts there.
    """
    scale = problem.rate_scale(np.log(problem.equal_start()[problem.present]))
    resting = dataclasses.replace(problem, present=start > 0)
    if np.array_equal(resting.present, problem.present):
        rates = resting.rates(np.log(start[resting.present]))
        if np.abs(rates).max() <= _AT_REST * scale:
            found = newton(dataclasses.replace(resting, exact=True), start)
            return dataclasses.replace(found, method=f"start is at rest; {found.method}")
    run, passing, dying, watches = None, None, [], 0
    end, length = 0.0, 1.0 / scale
    slowly: list[_Near] = []
    for _ in range(_STAGES):
        begin, end = end, end + length
        stage = _flow_from(problem, start, run, np.linspace(begin, end, _WATCHED + 1)[1:])
        if stage.termination is Termination.STEP_LIMIT and watches < _WATCHES:
            # The flow turns round and round: for once only as far as the steps last.
            reached = float(stage.t[-1]) if len(stage.t) else begin
            end, length, watches = begin, 0.8 * (reached - begin), watches + 1
            if length > 0:
                continue
        if stage.termination is not Termination.COMPLETED:
            break
        run, length = stage, 4 * length
        logs, masses = run.log_masses[-1], run.masses[-1]
        staying, fading = _staying(problem, masses, logs, end)
        dying = [block for block, _ in problem.blocks if not staying[block].any()]
        if dying:
            continue
        totals = [float(masses[block].sum()) for block, _ in problem.blocks]
        settled = dataclasses.replace(
            problem,
            present=staying,
            # A clip changes total mass on the way; what is conserved is known better than integrated.
            totals=np.where(problem.clips & ~np.isnan(problem.totals), totals, problem.totals),
            exact=True,
        )
        passing, near = None, _nearby(settled, masses, logs)
        if near is not None and not near.repels:
            if near.distance <= _SETTLED:
                return near.solution
            recent = slice(-_WATCHED, None)
            if watches and _spirals_in(settled, near, run.t[recent], run.log_masses[recent][:, staying]):
                return dataclasses.replace(
                    near.solution, method=f"{near.solution.method}; approached in a spiral, slowly"
                )
        elif near is not None and near.distance <= _SETTLED:
            passing = near.solution
        if near is None and fading.any():
            # Groups whose rate of decline itself goes to 0 are never quite gone.
            settled = dataclasses.replace(settled, present=staying & ~fading)
            near = _nearby(settled, masses, logs)
        slowly = [] if near is None else [*slowly, near]
    if passing is not None:
        return passing
    if not watches and _closing_in(slowly):
        found = slowly[-1].solution
        return dataclasses.replace(found, method=f"{found.method}; approached only algebraically")
    if dying:
        raise NoRestPointError(
            f"all groups {dying[0].start} to {dying[0].stop - 1} die out from start; expected a start from "
            "which some persist: where none does, there is no rest point with mass."
        )
    raise NoRestPointError(
        f"the flow from start has not settled within {end:.3g} time units (it may cycle, or grow without "
        "bound); expected a start that leads to a rest point: see with evodyn.solve what it does."
    )


def _flow_from(problem: RestPointProblem, start: FloatArray, run: Run | None, times: FloatArray) -> Run:
    """Return the flow from `start`, or `run` continued, up to the last of `times`, saved at each of them."""
    if run is not None:
        return extend(run, float(times[-1]), save_at=times, throw=False)
    # Settling is slow against the fastest rate: what matters is that the steps can grow. A looser tolerance
    # would carry starts beside a separatrix across it, a tighter one meets rounding.
    solver = Solver("LSODA" if problem.n <= _FEW else "auto", rtol=1e-11, atol=1e-13, max_steps=_STEPS)
    span = (0.0, float(times[-1]))
    return solve(problem.dynamics, problem.landscape, start, span, save_at=times, solver=solver, throw=False)


@dataclasses.dataclass(frozen=True)
class _Near:
    """A rest point near the flow that no living group invades."""

    solution: Solution
    distance: float  # relative to total mass
    repels: bool


def _nearby(settled: RestPointProblem, masses: FloatArray, logs: FloatArray) -> _Near | None:
    """Return the rest point of the present groups near `masses`, None if there is none or it is invaded."""
    if not all(settled.present[block].any() for block, _ in settled.blocks):
        return None
    try:
        found = newton(settled, masses, steps=_FEW_STEPS)
    except NoRestPointError:
        return None
    fitness = real(fitness_at_log_masses(settled.landscape, 0.0, found.log_masses))
    others = ~found.survivors & np.isfinite(logs)
    rates = settled.growth(found.masses, fitness)[1][others]
    if (rates > _AT_REST * settled.rate_scale(logs[settled.present])).any():
        return None
    found = dataclasses.replace(
        found, method=f"integration from start, then {found.method}", totals=settled.totals
    )
    distance = float(np.abs(found.masses - masses).max() / masses.sum())
    return _Near(found, distance, _repels(settled, found))


def _spirals_in(settled: RestPointProblem, near: _Near, times: FloatArray, logs: FloatArray) -> bool:
    """Tell whether the flow decays towards a rest point as the linearization there says.

    The component along the slowest eigenvector, whose size has no phase, must do so from the start of the
    stage to its middle and from there to its end, within a factor of two for what is not linear.

    Parameters
    ----------
    settled : RestPointProblem
        With the groups that stay.
    near : _Near
        The rest point.
    times : array, shape (T,)
    logs : array, shape (T, k)
        Log-masses of those groups along the flow.
    """
    if near.solution.log_masses is None or near.distance > _SMALL_AMPLITUDE or len(times) < 3:
        return False
    resting = near.solution.log_masses[settled.present]
    values, vectors = np.linalg.eig(settled.log_jacobian(resting).T)
    # A total mass that is conserved gives an eigenvalue of 0.
    moving = np.argsort(np.abs(values))[len(settled.conserved()) :]
    if not len(moving):
        return False
    slowest = moving[int(values[moving].real.argmax())]
    size = np.log(np.abs((logs - resting) @ vectors[:, slowest]))
    middle = len(times) // 2
    slopes = np.diff(size[[0, middle, -1]]) / np.diff(times[[0, middle, -1]])
    expected = float(values[slowest].real)
    return bool(((2 * expected < slopes) & (slopes < expected / 2)).all())


def _closing_in(stages: list[_Near]) -> bool:
    """Tell whether one stage after another came nearer to one rest point, in proportion to its length."""
    last = stages[-_LAST:]
    pairs = list(itertools.pairwise(last))
    return (
        len(last) == _LAST
        and last[-1].distance <= _RARE
        and not last[-1].repels
        and all(np.array_equal(a.solution.survivors, b.solution.survivors) for a, b in pairs)
        and all(b.distance < 0.7 * a.distance for a, b in pairs)
    )


def _repels(problem: RestPointProblem, found: Solution) -> bool:
    """Tell whether some perturbation of the rest point among its survivors grows."""
    if problem.n > _FEW or found.log_masses is None:
        return False
    here = dataclasses.replace(problem, present=found.survivors)
    logs = found.log_masses[found.survivors]
    spectrum = here.internal_eigenvalues(logs)
    return bool(spectrum.size and spectrum.real.max() > 1e-9 * here.rate_scale(logs))


def _staying(
    problem: RestPointProblem, masses: FloatArray, logs: FloatArray, elapsed: float
) -> tuple[BoolArray, BoolArray]:
    """Return the groups that are not on their way out, and those among them that are rare and shrink.

    On their way out are those that are rare and shrink at a steady rate.
    """
    alive = np.isfinite(logs)
    rates = np.zeros(problem.n)
    rates[alive] = dataclasses.replace(problem, present=alive).rates(logs[alive])
    shares = np.zeros(problem.n)
    for block, _ in problem.blocks:
        shares[block] = masses[block] / (masses[block].sum() or 1.0)
    staying = (alive & (rates > -1.0 / elapsed) | (shares > _COMMON)) & (masses > 0)
    if problem.mutates:
        staying |= problem.fed_by(staying) & (masses > 0)  # never gone, however rare
    return staying, staying & (shares <= _RARE) & (rates < 0)


def _values_of_all(values: FloatArray, chosen: Any, n: int, fill: float) -> FloatArray:
    """Return `values` at the `chosen` groups of n, `fill` elsewhere; `values` itself if all are chosen."""
    if len(values) == n:
        return values
    whole = np.full(n, fill)
    whole[chosen] = values
    return whole


def _one_line(methods: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(methods))


def _linear_method(nullity: int) -> str:
    if not nullity:
        return "linear system"
    kind = {1: "line", 2: "plane"}.get(nullity, f"{nullity}-dimensional continuum")
    return f"linear system; one of a neutral {kind} of rest points"
