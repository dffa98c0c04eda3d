"""Results as tables: one row for each group, and what a notebook shows of a run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray, host, is_foreign
from evodyn.core.extras import extra

if TYPE_CHECKING:
    import pandas


__all__ = [
    "contribution_of",
    "dataframe",
    "dataframe_of_members",
    "fraction_of",
    "rows_of",
    "shares_of_blocks",
]


def contribution_of(landscape: object, n: int) -> FloatArray | None:
    """Return the contributions of `n` groups that a landscape declares, None if it has none for each.

    Examples
    --------
    >>> from evodyn.landscapes import LinearDecay, MatrixGame
    >>> contribution_of(LinearDecay([1.0, 0.5], decay=0.1), 2)
    array([1. , 0.5])
    >>> contribution_of(MatrixGame([[0.0, 1.0], [1.0, 0.0]]), 2)
    """
    declared = getattr(landscape, "contribution", None)
    try:
        values = np.asarray(host(declared) if is_foreign(declared) else declared, dtype=np.float64)
    except (TypeError, ValueError):  # of a landscape of the user's own it may be anything
        return None
    return values if values.shape == (n,) else None


def fraction_of(extinction_time: FloatArray, t: npt.ArrayLike) -> Any:
    """Return the fraction of groups whose first extinction is at or before `t`.

    Parameters
    ----------
    extinction_time : array, shape (..., N)
    t : float or array_like, shape (T,)

    Returns
    -------
    float, or array of shape (..., T)

    Examples
    --------
    >>> import numpy as np
    >>> fraction_of(np.array([1.0, 2.0, np.inf, np.inf]), [0.0, 1.0, 5.0])
    array([0.  , 0.25, 0.5 ])
    """
    times = np.asarray(t, dtype=np.float64)
    if times.ndim > 1 or np.isnan(times).any():
        raise ValueError(f"t has shape {times.shape} or is not a number somewhere; expected a time or times.")
    ever = np.isfinite(extinction_time)[..., None]
    fractions = (ever & (extinction_time[..., None] <= times.ravel())).mean(axis=-2)
    if times.ndim:
        return fractions
    return fractions[..., 0] if fractions.ndim > 1 else float(fractions[0])


def shares_of_blocks(log_masses: FloatArray, blocks: Any) -> FloatArray:
    """Return shares within the blocks, summing to 1 to rounding; NaN where a block has no mass.

    Examples
    --------
    >>> import numpy as np
    >>> shares_of_blocks(np.log([[3.0, 1.0, 5.0]]), [slice(0, 2), slice(2, 3)])
    array([[0.75, 0.25, 1.  ]])
    """
    shares = np.empty_like(log_masses)
    with np.errstate(invalid="ignore"):  # -inf - -inf, of a block without mass
        for block in blocks:
            part = log_masses[..., block]
            weights = np.exp(part - part.max(axis=-1, keepdims=True))
            shares[..., block] = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def dataframe(run: Any) -> pandas.DataFrame:
    """Return the table of a `Run` with one row for each group; see `Run.to_dataframe`."""
    with extra("tables", user="to_dataframe"):
        library: Any = importlib.import_module("pandas")
    n = len(run.extinction_time)
    columns: dict[str, Any] = {"group": np.arange(n)}
    blocks = run.dynamics.blocks(n)
    if len(blocks) > 1:
        columns["block"] = np.repeat(np.arange(len(blocks)), [b.stop - b.start for b, _ in blocks])
    contribution = contribution_of(run.landscape, n)
    if contribution is not None:
        columns["contribution"] = contribution
    columns |= {
        "extinction_time": run.extinction_time,
        "extinct_at_end": run.extinct_at_end,
        "end_mass": run.end_state.masses,
        "end_log_mass": run.end_state.log_masses,
    }
    table: pandas.DataFrame = library.DataFrame({name: np.array(values) for name, values in columns.items()})
    return table


def dataframe_of_members(runs: Any) -> pandas.DataFrame:
    """Return the tables of several runs, one below the other; see `Ensemble.to_dataframe`."""
    parts = [dataframe(run) for run in runs]
    for member, part in enumerate(parts):
        part.insert(0, "member", member)
    library: Any = importlib.import_module("pandas")
    table: pandas.DataFrame = library.concat(parts, ignore_index=True)
    return table


def rows_of(run: Any) -> dict[str, object]:
    """Return what a notebook shows of a `Run`, by name."""
    n = len(run.extinction_time)
    blocks = len(run.dynamics.blocks(n))
    extinct = int(np.count_nonzero(run.extinct_at_end))
    threshold = "at exactly zero"
    if run.extinction:
        levels = np.atleast_1d(run.extinction.threshold)
        threshold = f"below {levels[0]:g}" if len(levels) == 1 else "below thresholds of their own"
    return {
        "dynamics": repr(run.dynamics),
        "landscape": repr(run.landscape),
        "groups": f"{n} in {blocks} blocks" if blocks > 1 else n,
        "time": f"{run.t_span[0]:g} to {run.t_span[1]:g}, {len(run.t)} saved",
        "extinct": f"{extinct} of {n} at the end ({threshold})",
        "ended": run.termination.value,
        "method": run.stats.method,
        "steps": run.stats.steps,
    }
