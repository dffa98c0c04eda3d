"""Rest points in closed form, up to one scalar equation: arrays in, masses and growth rates out.

Every function returns the masses and the *excess* c_i - θ, where θ is the level that the constraint on
total mass fixes. For a group that is absent the excess is its growth rate when rare.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize
import scipy.special

from evodyn.core.arrays import FloatArray

__all__ = ["mutation_balance", "regulated_balance", "soft_water_filling", "softmax", "water_filling"]

_EPS = 2.0**-52
_ITERATIONS = 200
_CORRECTIONS = 4  # of a level, by less than its rounding
_MANY = 16_384  # groups, of which the water level is first sought in a sample
_SAMPLE = 4096  # groups of such a sample, about
_NEWTON_STEPS = 7  # from half a unit away, on exponentials


def water_filling(contribution: FloatArray, decay: float, total_mass: float) -> tuple[FloatArray, FloatArray]:
    """Return the attractor of Eq. 6 with Eq. 10: p_i = (c_i - ν)_+/λ with Σ p_i = P.

    The survivors are the groups above the level that they would have alone, which is found by Newton's
    iteration, without putting groups in order.

    Parameters
    ----------
    contribution : array, shape (N,)
        c_i.
    decay : float
        λ > 0.
    total_mass : float
        P > 0.

    Returns
    -------
    masses : array, shape (N,)
        p_i, exactly 0 below the level.
    excess : array, shape (N,)
        c_i - ν: λp_i for the survivors, the growth rate φ_i - φ̄ of the others.

    Examples
    --------
    >>> import numpy as np
    >>> masses, excess = water_filling(np.array([3.0, 2.0, 0.0]), decay=1.0, total_mass=2.0)
    >>> masses, excess
    (array([1.5, 0.5, 0. ]), array([ 1.5,  0.5, -1.5]))
    """
    # Depths below the best group: exact for ties, and indifferent to a constant added to all.
    depth = contribution.max() - contribution
    volume = decay * total_mass
    excess = np.subtract(_water_height(depth, volume), depth, out=depth)
    masses = np.maximum(excess, 0.0)
    for _ in range(_CORRECTIONS):
        defect = volume - float(masses.sum())
        if abs(defect) <= 4 * _EPS * volume:
            break
        # One best group far above the rest makes the level large and the others' masses small beside it.
        excess += defect / np.count_nonzero(masses)
        np.maximum(excess, 0.0, out=masses)
    masses /= decay
    return masses, excess


def mutation_balance(
    contribution: FloatArray, inflow: FloatArray, total_mass: float
) -> tuple[FloatArray, FloatArray]:
    """Return the rest point of Eq. 8 with constant fitness: p_i = μm_i/(Λ - c_i).

    Λ = φ̄ + μ is the root of Σ μm_i/(Λ - c_i) = M above the contributions of all groups that mutation
    feeds. The reciprocal of that sum is concave in Λ, so Newton's iteration on it converges from below
    without a safeguard. A group that mutation does not feed survives only if its c_i exceeds that root;
    it then sets Λ and takes the mass that the others leave.

    Parameters
    ----------
    contribution, inflow : array, shape (N,)
        c_i and μm_i >= 0, not all zero.
    total_mass : float
        M = Σ m_i.

    Returns
    -------
    masses, excess : array, shape (N,)
        p_i and c_i - Λ.

    Examples
    --------
    >>> import numpy as np
    >>> masses, excess = mutation_balance(np.array([1.0, 0.0]), np.array([0.5, 0.5]), total_mass=1.0)
    >>> bool(np.isclose((0.5 / -excess).sum(), 1.0)), masses.argmax()
    (True, np.int64(0))
    """
    fed = inflow > 0
    top = float(contribution[fed].max())
    flow, depth = inflow[fed], top - contribution[fed]
    margin = float((flow / total_mass - depth).max())
    for _ in range(_ITERATIONS):
        terms = flow / (margin + depth)
        total = float(terms.sum())
        step = total * (total / total_mass - 1) / float((terms / (margin + depth)).sum())
        margin += step
        if step <= _EPS * margin:
            break
    level = top + margin
    excess = contribution - top - margin
    masses = np.zeros_like(contribution)
    if not fed.all() and contribution[~fed].max() > level:
        level = float(contribution[~fed].max())
        excess = contribution - level
        best = ~fed & (excess == 0)
        masses[fed] = flow / -excess[fed]
        masses[best] = (total_mass - masses.sum()) / best.sum()
    else:
        masses[fed] = flow / -excess[fed]
    return masses, excess


def soft_water_filling(
    contribution: FloatArray, decay: float, inflow: FloatArray, total_mass: float
) -> tuple[FloatArray, FloatArray]:
    """Return the rest point of Eq. 8 with Eq. 10: p_i = [e_i + √(e_i² + 4λμm_i)]/(2λ), e_i = c_i - θ.

    θ = φ̄ + μ follows from Σ p_i = M by Newton's iteration on a convex function, downwards from the
    water level. Where e_i < 0 the form 2μm_i/(√(e_i² + 4λμm_i) - e_i) avoids the cancellation.

    Parameters
    ----------
    contribution, inflow : array, shape (N,)
        c_i and μm_i >= 0.
    decay : float
        λ > 0.
    total_mass : float
        M = Σ m_i.

    Returns
    -------
    masses, excess : array, shape (N,)
        p_i and c_i - θ.

    Examples
    --------
    >>> import numpy as np
    >>> masses, excess = soft_water_filling(np.array([1.0, 0.0]), 1.0, np.array([0.1, 0.1]), 2.0)
    >>> bool(np.allclose(excess - masses + 0.1 / masses, 0.0))
    True
    """
    depth = contribution.max() - contribution
    height = _water_height(depth, decay * total_mass)
    for _ in range(_ITERATIONS):
        excess = height - depth
        root = np.sqrt(excess**2 + 4 * decay * inflow)
        with np.errstate(invalid="ignore"):  # 0/0 for a group exactly at the level that nothing feeds
            masses = np.where(excess > 0, (excess + root) / (2 * decay), 2 * inflow / (root - excess))
            slopes = masses / root
        masses, slopes = np.nan_to_num(masses), np.nan_to_num(slopes)
        surplus = float(masses.sum()) - total_mass
        lower = height - surplus / float(slopes.sum())
        if surplus <= _EPS * total_mass or not lower < height:
            break
        height = lower
    return masses, excess


def softmax(contribution: FloatArray, temperature: float, total_mass: float) -> FloatArray:
    """Return the logarithms of the attractor of Eq. 6 with entropic fitness, p = P·softmax(c/T).

    Parameters
    ----------
    contribution : array, shape (N,)
        c_i.
    temperature : float
        T > 0.
    total_mass : float
        P > 0.

    Returns
    -------
    array, shape (N,)
        ln p_i, finite also where p_i itself underflows.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.array([0.0, -2000.0]), temperature=1.0, total_mass=1.0)
    array([    0., -2000.])
    """
    exponents = (contribution - contribution.max()) / temperature
    log_masses: FloatArray = exponents + (np.log(total_mass) - np.log(np.exp(exponents).sum()))
    return log_masses


def regulated_balance(
    contribution: FloatArray, decay: float, temperature: float, inflow: FloatArray, total_mass: float
) -> FloatArray:
    """Return ln p at the rest point where c_i - λp_i - T ln p_i + μm_i/p_i is the same for all groups.

    For each level θ every group has one solution, which rises as θ falls; θ follows from the total mass.
    With a = (c_i - θ)/T it solves a = ln p + (λ/T) p - (μm_i/T)/p, as Wright's function does when one of
    the last two terms is left out. From there, or from where both are equal if that is nearer, the solution
    is less than half a unit of ln p away, and Newton's iteration converges.

    Parameters
    ----------
    contribution, inflow : array, shape (N,)
        c_i and μm_i >= 0.
    decay : float
        λ >= 0.
    temperature : float
        T > 0.
    total_mass : float
        P > 0.

    Returns
    -------
    array, shape (N,)
        ln p_i.

    Examples
    --------
    >>> import numpy as np
    >>> c, f = np.array([1.0, 0.0]), np.array([0.1, 0.1])
    >>> p = np.exp(regulated_balance(c, 2.0, 0.5, f, 3.0))
    >>> bool(np.ptp(c - 2.0 * p - 0.5 * np.log(p) + f / p) < 1e-12), float(p.sum().round(12))
    (True, 3.0)
    """
    depth = contribution - contribution.max()
    with np.errstate(divide="ignore", invalid="ignore"):  # without decay or inflow
        log_loss, log_gain = np.log(decay / temperature), np.log(inflow / temperature)
        balance = (log_gain - log_loss) / 2

    def at_level(level: float) -> FloatArray:
        height = (depth - level) / temperature
        without_gain = height - scipy.special.wrightomega(height + log_loss)
        without_loss = height + scipy.special.wrightomega(log_gain - height)
        logs: FloatArray = np.where(
            height > balance, np.fmax(without_gain, balance), np.fmin(without_loss, balance)
        )
        for _ in range(_NEWTON_STEPS):
            loss, gain = np.exp(log_loss + logs), np.exp(log_gain - logs)
            logs += (height - logs - loss + gain) / (1 + loss + gain)
        return logs

    def surplus(level: float) -> float:
        return float(np.logaddexp.reduce(at_level(level)) - np.log(total_mass))

    # Some group has the mean mass or more, some group has it or less.
    mean = total_mass / len(depth)
    levels = depth - decay * mean - temperature * np.log(mean) + inflow / mean
    slack = temperature + 1e-9 * (np.ptp(depth) + np.abs(levels).max() + decay * mean + inflow.max() / mean)
    level = scipy.optimize.brentq(
        surplus, levels.min() - slack, levels.max() + slack, xtol=_EPS * temperature, rtol=4 * _EPS
    )
    logs = at_level(level)
    # The level is exact to rounding of its own size; the total mass is to be so, too.
    logs += np.log(total_mass) - np.logaddexp.reduce(logs)
    return logs


def _water_height(depth: FloatArray, volume: float) -> float:
    """Return h with Σ (h - depth_i)_+ = volume, for depths of which the least is 0.

    Newton's iteration on a convex function. Of many groups it begins at the height of a sample, and uses no
    order: to pick out who is in the water takes longer than to look at all.
    """
    if len(depth) < _MANY:
        return _exact_height(depth, volume, volume)
    bound = min(volume, (volume + float(depth.sum())) / len(depth))  # the deepest alone, and all
    sample = depth[:: len(depth) // _SAMPLE]
    least = float(sample.min())
    part = volume * (len(sample) / len(depth))
    height = min(bound, least + _exact_height(sample - least, part, part))
    before = -1
    for _ in range(_ITERATIONS):
        filled, wet = _filled(depth, height)
        nearer = min(bound, height + (volume - filled) / wet)
        if wet == before or nearer == height:  # with the same groups in the water it is the solution
            return nearer
        height, before = nearer, wet
    return height


def _filled(depth: FloatArray, height: float) -> tuple[float, int]:
    """Return Σ (h - depth_i)_+ and how many groups are in the water, part by part, near the processor."""
    filled, wet, above = 0.0, 0, np.empty(_MANY)
    for start in range(0, len(depth), _MANY):
        part = depth[start : start + _MANY]
        own = above[: len(part)]
        np.subtract(height, part, out=own)
        np.maximum(own, 0.0, out=own)
        filled += float(np.add.reduce(own))
        wet += int(np.count_nonzero(part < height))
    return filled, wet


def _exact_height(depth: FloatArray, volume: float, height: float) -> float:
    """Return the height from above: that of the groups below the last height, until there is no other."""
    while True:
        level = (volume + float(depth.sum())) / len(depth)
        height = level if level < height else height
        wet = depth < height
        if wet.all():
            return height
        depth = depth[wet]
