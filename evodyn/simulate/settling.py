"""When a run has come to rest: what that means, and who may be asked for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, real
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction, breakpoints
from evodyn.simulate.changes import SampledTimes
from evodyn.simulate.extinction import Ledger
from evodyn.simulate.flow import Flow

__all__ = ["at_rest", "flow_at_rest", "validated_settle"]


def validated_settle(
    settle: object,
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    masses: FloatArray,
    span: tuple[float, float],
) -> float | None:
    """Return the rate below which a run of `dynamics` on `landscape` counts as settled, if one is given."""
    if settle is None:
        return None
    rate = validation.positive("settle", settle)
    says = getattr(landscape, "autonomous", None)
    if breakpoints(landscape, span).size or says is False:
        says = False
    elif says is None:
        says = _same_at_all_times(lambda t: real(landscape(t, masses)), span)
    if not says:
        raise ValueError(
            f"settle is {rate!r} and the landscape ({type(landscape).__name__}) depends on time; expected "
            "one that does not: what has come to rest would be moved again. Leave settle out."
        )
    steady = False if breakpoints(dynamics, span).size else dynamics.autonomous
    if steady is None:
        fitness = real(landscape(span[0], masses))
        steady = _same_at_all_times(lambda t: dynamics.velocity(masses, fitness, time=t), span)
    if not steady:
        raise ValueError(
            f"settle is {rate!r} and the rates of {dynamics!r} depend on time; expected rates that "
            "do not: what has come to rest would be moved again. Leave settle out."
        )
    return rate


def _same_at_all_times(values: Callable[[float], FloatArray], span: tuple[float, float]) -> bool:
    """Tell whether values are the same at the start and at times throughout a span."""
    try:
        with np.errstate(all="ignore"):
            first = values(span[0])
            times = SampledTimes(*span).within(*span)
            return all(np.array_equal(values(float(t)), first, equal_nan=True) for t in times)
    except Exception:  # what fails at some times and not at others is not the same at all
        return False


def at_rest(
    log_masses: FloatArray, rates: FloatArray, ledger: Ledger, rate: float, blocks: list[slice]
) -> bool:
    """Tell whether nothing moves faster than `rate`, with `rates` the slopes of ln p, shape (N,).

    With a threshold no living group may grow faster, and none at or above the threshold may fall faster.
    Without one no share may change faster.
    """
    living = np.isfinite(log_masses)
    if ledger.watching:
        held = living & (log_masses >= ledger.levels)
        return not ((rates[living] > rate).any() or (rates[held] < -rate).any())
    for block in blocks:
        logs, slopes = log_masses[block][living[block]], rates[block][living[block]]
        if len(logs):
            shares = np.exp(logs - logs.max())
            shares /= shares.sum()
            if not (np.abs(shares * (slopes - shares @ slopes)) <= rate).all():
                return False
    return True


def flow_at_rest(flow: Flow, t: float, y: FloatArray, ledger: Ledger, rate: float) -> bool:
    """Tell whether a flow is at rest in a state."""
    logs, velocity = flow.log_masses(t, y), flow.velocity(t, y)
    split = len(flow.log_living)
    rates = np.zeros(len(logs))
    rates[flow.log_living] = velocity[:split]
    # A group that comes back from nothing grows infinitely fast.
    with np.errstate(divide="ignore", invalid="ignore"):
        rates[flow.reviving] = np.where(
            velocity[split:] == 0, 0.0, velocity[split:] / np.maximum(y[split:], 0.0)
        )
    for block in flow.blocks:
        if block.capped:
            # What all of them would gain, the cap takes.
            part = logs[block.groups]
            shares = np.exp(part - part.max())
            rates[block.groups] -= shares @ rates[block.groups] / shares.sum()
    return at_rest(
        np.where(flow.start.removed, -np.inf, logs),
        rates,
        ledger,
        rate,
        [block.groups for block in flow.blocks],
    )
