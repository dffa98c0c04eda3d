"""How a run ended, and how it was computed."""

from __future__ import annotations

import dataclasses
import enum

__all__ = ["SUCCESSES", "Stats", "Termination"]


class Termination(enum.Enum):
    """How a run ended; the value says it in a sentence, with the remedy where there is one.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 5.0))
    >>> run.termination is Termination.COMPLETED, run.termination.value
    (True, 'The run reached the end of its time span.')
    """

    COMPLETED = "The run reached the end of its time span."
    STOPPED_AT_EXTINCTION = (
        "The run stopped at its first extinction, as its policy asks; observe instead to go on."
    )
    STOPPED_AT_EVENT = "The run stopped at a terminal event, as asked; give terminal=False to go on."
    SETTLED = "The run has come to rest: nothing moves faster than settle; a lower rate waits for longer."
    ALL_EXTINCT = (
        "Every group was absorbed and no mass is left; lower the threshold or observe instead of absorbing."
    )
    STEP_LIMIT = (
        "The step limit was reached before the end; raise Solver(max_steps=...) or loosen the tolerances."
    )
    SOLVER_FAILED = (
        "The integrator or the landscape failed before the end; look at stats.message, check the "
        "landscape near the time reached, or try another method."
    )
    FITNESS_NOT_FINITE = (
        "The landscape returned a fitness that is not finite for a living group; check it near the "
        "time reached."
    )
    INTERRUPTED = "The run was interrupted (Ctrl-C); evodyn.extend goes on from where it stands."


SUCCESSES = (
    Termination.COMPLETED,
    Termination.STOPPED_AT_EXTINCTION,
    Termination.STOPPED_AT_EVENT,
    Termination.SETTLED,
    Termination.ALL_EXTINCT,
)
"""How runs end that end as asked."""


@dataclasses.dataclass(frozen=True)
class Stats:
    """How a run was computed.

    Attributes
    ----------
    method : str
        "closed_form", the name of a SciPy method, or the map's scheme.
    reason : str
        Why this method.
    steps : int
        Accepted steps (pieces, for a closed form).
    evaluations : int
        Evaluations of the landscape by the method.
    restarts : int
        Times the integrator was restarted: breakpoints, absorptions, a cap reached or left, revivals.
    projections : int
        Group-steps in which a map's projection onto p >= 0 acted, and so created mass.
    message : str
        What the solver or the landscape said on failure; empty otherwise.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 5.0))
    >>> run.stats.method, run.stats.restarts
    ('closed_form', 0)
    """

    method: str
    reason: str
    steps: int = 0
    evaluations: int = 0
    restarts: int = 0
    projections: int = 0
    message: str = ""
