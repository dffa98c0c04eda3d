"""The fraction of groups that are extinct, over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from evodyn.analysis.intervals import interval_of_fraction
from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.plots.canvas import DARK, TIME, axes_or_new

if TYPE_CHECKING:
    from evodyn.noise.runs import StochasticRuns
    from evodyn.simulate.ensemble import Ensemble
    from evodyn.simulate.run import Run

__all__ = ["extinct_fraction", "mean_interval"]

_POINTS = 200


def extinct_fraction(
    result: Run | Ensemble | StochasticRuns,
    ax: Axes | None = None,
    *,
    band: Literal["members", "mean"] = "members",
    level: float = 0.9,
    color: Any = DARK,
    label: str | None = None,
) -> Axes:
    """Draw the fraction of groups extinct over time: those whose first extinction is at or before it.

    Of a run it is a line that steps at every extinction; of an ensemble it is the mean over members, with a
    band that cannot leave [0, 1].

    Parameters
    ----------
    result : Run, Ensemble or StochasticRuns
        Members that have ended early count until then.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    band : {"members", "mean"}, optional
        What the band holds: the middle members (a fraction `level` of them), or the mean (its confidence
        interval at that level: Student's t, exact where few groups are counted).
    level : float, optional
        Between 0 and 1.
    color, label : optional
        Of the line, as matplotlib takes them.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If `band` or `level` is none of these.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import numpy as np, evodyn as ed
    >>> def draw(generator):
    ...     return ed.landscapes.Constant(
    ...         ed.landscapes.contributions("lognormal", n=20, heterogeneity=1.0, rng=generator))
    >>> ensemble = ed.solve_ensemble(ed.Replicator(), draw, np.ones(20), (0.0, 30.0), members=5, rng=0,
    ...                              extinction=ed.Extinction(threshold=1e-3))
    >>> ax = ed.plots.extinct_fraction(ensemble)
    >>> bool(ax.lines[0].get_ydata()[-1] == np.isfinite(ensemble.extinction_time).mean())
    True
    """
    validation.choice("band", band, ("members", "mean"))
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}; expected a number between 0 and 1, such as 0.9.")
    ax = axes_or_new(ax)
    deaths = np.asarray(result.extinction_time)
    known = deaths[np.isfinite(deaths)]
    start, end = float(result.t[0]), float(max(result.t[-1], known.max(initial=result.t[0])))
    if deaths.ndim == 1:
        times = np.unique(np.concatenate(([start], known, [end])))
        ax.step(times, result.fraction_extinct(times), where="post", color=color, label=label)
    else:
        times = np.union1d(result.t, np.linspace(start, end, _POINTS + 1))
        fractions = result.fraction_extinct(times)
        known_to_some = np.isfinite(fractions).any(axis=0)
        times, fractions = times[known_to_some], fractions[:, known_to_some]
        ax.plot(times, np.nanmean(fractions, axis=0), color=color, label=label)
        if band == "mean":
            low, high = mean_interval(fractions, deaths.shape[-1], level=level)
        else:
            low, high = np.nanquantile(fractions, ((1 - level) / 2, (1 + level) / 2), axis=0)
        ax.fill_between(times, low, high, color=color, alpha=0.25, linewidth=0)
    ax.set(xlabel=TIME, ylabel="fraction of groups extinct", ylim=(-0.02, 1.02))
    return ax


def mean_interval(fractions: npt.ArrayLike, of: int, *, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Return the ends of the confidence interval of the mean fraction of groups, at every time.

    Parameters
    ----------
    fractions : array_like, shape (M, T)
        Of each member at each time; NaN where a member is not known.
    of : int
        Groups of a member.
    level : float, optional
        Probability of the interval.

    Examples
    --------
    >>> low, high = mean_interval([[0.0, 0.1], [0.0, 0.3]], 20)
    >>> bool((0 <= low).all() and (high <= 1).all() and low[0] == 0)
    True
    """
    columns = np.asarray(fractions, dtype=np.float64).T
    counts = [np.rint(column[np.isfinite(column)] * of).astype(int) for column in columns]
    ends = np.array([interval_of_fraction(count, of, level=level) for count in counts])
    return ends[:, 0], ends[:, 1]
