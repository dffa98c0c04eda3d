"""Compiled steps of selection in log-shares, for fitness in the normal form; needs numba.

The state of a block is u = ln x with shares x that sum to 1, and du_i/dt = G_i - Σ x_j G_j, where
G_i = c_i - λp_i - T ln x_i + swings + interactions + m_i/p_i and p = P(t) x with a known total P(t). Its
Jacobian is a diagonal plus rank one for each block: implicit steps cost about as much as explicit ones. With
interactions it is dense.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.solvers.matrices import enter_jacobian, factorize, solve
from evodyn.solvers.tableaus import RODAS5P, TSIT5
from evodyn.solvers.vectors import (
    add,
    advance,
    clear,
    enter_multiples,
    exponential,
    in_wide_vectors,
    largest,
    largest_error,
    making,
    ordered,
    room,
    subtract,
    sums,
    weighted_mean,
)

__all__ = [
    "Form",
    "Work",
    "add_interactions",
    "enter_acting",
    "explicit_step",
    "implicit_step",
    "linearize",
    "memory",
    "rates",
    "totals_at",
]

A, C, ERROR = TSIT5.a, TSIT5.c, TSIT5.error
RA, RG, RC, RD, DENSE, GAMMA = RODAS5P.a, RODAS5P.g, RODAS5P.c, RODAS5P.d, RODAS5P.dense, RODAS5P.gamma
ROUNDING = 100 * 2.0**-52
"""What multiplies |u| in the tolerance: differences of large numbers know no better."""
EXPLICIT, IMPLICIT = 7, 8
"""Stages of the two methods."""


class Form(NamedTuple):
    """Fitness and inflow in the normal form, as kernels read them: all arrays contiguous and writable.

    Attributes
    ----------
    starts : int array, shape (K + 1,)
        Where blocks begin and end.
    contribution : array, shape (N,)
        c_i.
    decay, temperature : float
        λ and T.
    frequencies : array, shape (S,)
        Angular frequencies of swings.
    sines, cosines : array, shape (S, N)
        Their amplitudes.
    interaction : array, shape (N, N) or (0, 0)
        B of the fitness B p, or B x where `of_shares`.
    of_shares : bool
    inflow : array, shape (N,) or (0,)
        m_i, mass per unit of time.
    log_totals, loss, targets : array, shape (K,)
        ln P at `begin`, and rate and target of its relaxation.
    begin : float
    """

    starts: Any
    contribution: FloatArray
    decay: float
    temperature: float
    frequencies: FloatArray
    sines: FloatArray
    cosines: FloatArray
    interaction: FloatArray
    of_shares: bool
    inflow: FloatArray
    log_totals: FloatArray
    loss: FloatArray
    targets: FloatArray
    begin: float


class Work(NamedTuple):
    """Memory of the steps.

    Attributes
    ----------
    stages : array, shape (8, N)
    base, argument, error : array, shape (N,)
        Fitness that does not depend on a group's own mass, the argument of a stage, and the error of a step.
    nothing : array, shape (N,)
        Zeros.
    diagonal, drift : array, shape (N,)
        dG_i/du_i, and the derivative of G with respect to time.
    inverse, slopes : array, shape (N,)
        1/(shift - diagonal), and with it the slopes of the mean.
    totals, changes, below : array, shape (K,)
        Total masses, their relative rates of change, and what solutions divide by.
    weights : array, shape (8,)
    matrix, pivots : array, shape (N, N) and (N,), or (0, 0) and (0,)
        The factors of shift - J where groups interact.
    norm : array, shape (1,)
        A bound on the eigenvalues of J there.
    """

    stages: FloatArray
    base: FloatArray
    argument: FloatArray
    error: FloatArray
    nothing: FloatArray
    diagonal: FloatArray
    drift: FloatArray
    inverse: FloatArray
    slopes: FloatArray
    totals: FloatArray
    changes: FloatArray
    below: FloatArray
    weights: FloatArray
    matrix: FloatArray
    pivots: Any
    norm: FloatArray


@making
def memory(n, blocks, dense):
    """Return memory for `n` groups in `blocks` blocks, of which `dense` are in a matrix: all or none."""
    nothing = room(n)
    clear(nothing)
    return Work(
        room(8 * n).reshape((8, n)), room(n), room(n), room(n), nothing, room(n), room(n), room(n), room(n),
        room(blocks), room(blocks), room(blocks), room(8), room(dense * dense).reshape((dense, dense)),
        np.empty(dense, np.int64), room(1),
    )  # fmt: skip


@ordered
def totals_at(form, t, totals, changes):
    """Enter total masses and their relative rates of change."""
    for k in range(form.loss.size):
        loss, target, elapsed = form.loss[k], form.targets[k], t - form.begin
        total = math.exp(form.log_totals[k])
        if loss > 0.0:
            total = total * math.exp(-loss * elapsed) - target * math.expm1(-loss * elapsed)
        totals[k] = total
        changes[k] = loss * (target / total - 1.0) if loss > 0.0 and target > 0.0 else -loss


@sums
def _growth(x, base, decay, temperature, sizes, out):
    """Enter exp(x) and G of a block without inflow; return the sums of x and xG."""
    in_wide_vectors()
    total, product = 0.0, 0.0
    for i in range(x.size):
        size = exponential(x[i])
        growth = base[i] - decay * size - temperature * x[i]
        sizes[i] = size
        out[i] = growth
        total += size
        product += size * growth
    return total, product


@sums
def _growth_with_inflow(x, base, decay, temperature, inflow, scale, sizes, out):
    """Enter exp(x) and G of a block with inflow; return the sums of x and xG."""
    in_wide_vectors()
    total, product = 0.0, 0.0
    for i in range(x.size):
        size = exponential(x[i])
        size = size if not (size < 1e-300) else 1e-300
        growth = base[i] - decay * size - temperature * x[i] + inflow[i] / (scale * size)
        sizes[i] = size
        out[i] = growth
        total += size
        product += size * growth
    return total, product


@sums
def _enter_swings(form, t, base):
    """Enter contributions and swings."""
    n = base.size
    for i in range(n):
        base[i] = form.contribution[i]
    for s in range(form.frequencies.size):
        sine, cosine = math.sin(form.frequencies[s] * t), math.cos(form.frequencies[s] * t)
        sines, cosines = form.sines[s], form.cosines[s]
        for i in range(n):
            base[i] += sine * sines[i] + cosine * cosines[i]


@sums
def add_interactions(form, scaled, base):
    """Add interactions with masses (or shares) `scaled`."""
    for i in range(base.size):
        row, value = form.interaction[i], 0.0
        for j in range(scaled.size):
            value += row[j] * scaled[j]
        base[i] += value


@ordered
def rates(form, work, t, x, sizes, out):
    """Enter exp(x) and du/dt."""
    totals_at(form, t, work.totals, work.changes)
    base = form.contribution
    if form.frequencies.size > 0 or form.interaction.size > 0:
        base = work.base
        _enter_swings(form, t, base)
    if form.interaction.size > 0:
        _enter_interacting(form, work.totals, x, out)
        add_interactions(form, out, base)
    for k in range(form.loss.size):
        a, b = form.starts[k], form.starts[k + 1]
        scale = work.totals[k]
        decay = form.decay * scale
        if form.inflow.size > 0:
            total, product = _growth_with_inflow(
                x[a:b], base[a:b], decay, form.temperature, form.inflow[a:b], scale, sizes[a:b], out[a:b]
            )
        else:
            total, product = _growth(x[a:b], base[a:b], decay, form.temperature, sizes[a:b], out[a:b])
        subtract(out[a:b], product / total)


@sums
def _enter_interacting(form, totals, x, scaled):
    """Enter what interactions act on: masses, or shares of the total of all blocks."""
    everything = 0.0
    for k in range(totals.size):
        everything += totals[k]
    for k in range(totals.size):
        factor = totals[k] / everything if form.of_shares else totals[k]
        for i in range(form.starts[k], form.starts[k + 1]):
            scaled[i] = factor * exponential(x[i])


@ordered
def explicit_step(form, work, t, h, u, tolerance, new, sizes):
    """Enter the state after a step of Tsitouras' pair, its exponential and, as the last stage, its velocity.

    The first stage is the velocity at the start. Return the size of the error.
    """
    in_wide_vectors()
    k, w = work.stages, work.weights
    for stage in range(1, EXPLICIT):
        for j in range(stage):
            w[j] = h * A[stage, j]
        argument = new if stage == EXPLICIT - 1 else work.argument
        advance(u, k, w, stage, argument)
        rates(form, work, t + C[stage] * h, argument, sizes, k[stage])
    for j in range(EXPLICIT):
        w[j] = h * ERROR[j]
    advance(work.nothing, k, w, EXPLICIT, work.error)
    return size_of(form, sizes, work.error, u, tolerance)


@ordered
def size_of(form, sizes, values, u, tolerance):
    """Return the largest error over the tolerance, or NaN if one is not finite.

    Errors are taken less their mean in a block: what all its groups have in common changes no share. Where
    they are too large, the rounding of u itself is allowed for.
    """
    worst = 0.0
    for k in range(form.loss.size):
        a, b = form.starts[k], form.starts[k + 1]
        centre = weighted_mean(sizes[a:b], values[a:b])
        if not math.isfinite(centre):
            return math.nan
        size = largest(values[a:b], centre) / tolerance
        if size > 1.0:
            size = largest_error(values[a:b], centre, u[a:b], ROUNDING / tolerance) / tolerance
        worst = max(worst, size)
    return worst


@sums
def _slopes(sizes, decay, temperature, diagonal):
    for i in range(sizes.size):
        diagonal[i] = -decay * sizes[i] - temperature


@sums
def _slopes_with_inflow(sizes, decay, temperature, inflow, scale, diagonal):
    for i in range(sizes.size):
        diagonal[i] = -decay * sizes[i] - temperature - inflow[i] / (scale * sizes[i])


@ordered
def centre(form, sizes, values):
    """Subtract the mean of every block once more."""
    for k in range(form.loss.size):
        a, b = form.starts[k], form.starts[k + 1]
        subtract(values[a:b], weighted_mean(sizes[a:b], values[a:b]))


@ordered
def linearize(form, work, t, sizes):
    """Enter dG_i/du_i and, less its mean, dG_i/dt; return the largest |dG_i/du_i|.

    What interactions add to the first is left out.
    """
    in_wide_vectors()
    totals_at(form, t, work.totals, work.changes)
    stiffest, moves = 0.0, form.frequencies.size > 0
    for k in range(form.loss.size):
        a, b = form.starts[k], form.starts[k + 1]
        scale, own, drift = work.totals[k], work.diagonal[a:b], work.drift[a:b]
        decay = form.decay * scale
        if form.inflow.size > 0:
            _slopes_with_inflow(sizes[a:b], decay, 0.0, form.inflow[a:b], scale, own)
        else:
            _slopes(sizes[a:b], decay, 0.0, own)
        enter_multiples(drift, work.changes[k], own)
        moves = moves or work.changes[k] != 0.0
        if form.temperature > 0.0:
            subtract(own, form.temperature)
        stiffest = max(stiffest, largest(own, 0.0))
    if moves and form.interaction.size > 0:
        _enter_growing(form, work, sizes, work.argument)
        add_interactions(form, work.argument, work.drift)
    for s in range(form.frequencies.size):
        frequency = form.frequencies[s]
        add(work.drift, frequency * math.cos(frequency * t), form.sines[s])
        add(work.drift, -frequency * math.sin(frequency * t), form.cosines[s])
    if moves:
        centre(form, sizes, work.drift)
    return stiffest


@ordered
def _enter_growing(form, work, sizes, out):
    """Enter the rates of change of what interactions act on, with shares as they are."""
    everything, change = 0.0, 0.0
    for k in range(form.loss.size):
        everything += work.totals[k]
        change += work.totals[k] * work.changes[k]
    for k in range(form.loss.size):
        factor, growth = work.totals[k], work.changes[k]
        if form.of_shares:
            factor, growth = factor / everything, growth - change / everything
        enter_multiples(
            out[form.starts[k] : form.starts[k + 1]],
            factor * growth,
            sizes[form.starts[k] : form.starts[k + 1]],
        )


@ordered
def enter_acting(form, work, sizes, out):
    """Enter what interactions act on: masses, or shares of the total of all blocks."""
    everything = 0.0
    for k in range(form.loss.size):
        everything += work.totals[k]
    for k in range(form.loss.size):
        a, b = form.starts[k], form.starts[k + 1]
        factor = work.totals[k] / everything if form.of_shares else work.totals[k]
        enter_multiples(out[a:b], factor, sizes[a:b])


@sums
def _enter_inverse(shift, diagonal, shares, velocity, inverse, slopes):
    """Enter 1/(shift - diagonal) and with it the slopes of the mean; return what a solution divides by."""
    below = 0.0
    for i in range(diagonal.size):
        own = 1.0 / (shift - diagonal[i])
        weight = shares[i] * own
        inverse[i] = own
        slopes[i] = weight * (velocity[i] + diagonal[i])
        # Shares sum to 1: this is 1 + Σ slopes, which would be a small difference.
        below += weight * (velocity[i] + shift)
    return below


@sums
def _product(one, other):
    total = 0.0
    for i in range(one.size):
        total += one[i] * other[i]
    return total


@sums
def _enter_solution(inverse, common, right):
    for i in range(right.size):
        right[i] = (right[i] - common) * inverse[i]


@ordered
def _solve(form, work, right):
    """Solve (shift - J) k = right in place.

    In every block J is diag(diagonal) less the row of slopes of the mean, shares (velocity + diagonal).
    """
    if work.pivots.size > 0:
        solve(work.matrix, work.pivots, right)
        return
    for k in range(form.loss.size):
        a, b = form.starts[k], form.starts[k + 1]
        common = _product(work.slopes[a:b], right[a:b]) / work.below[k]
        _enter_solution(work.inverse[a:b], common, right[a:b])


@ordered
def implicit_step(form, work, t, h, u, velocity, shares, tolerance, new, sizes):
    """Enter the state after a step of Rodas5P; return the size of the error.

    `linearize` has been called for `shares`, which are those at the start; `sizes` are the last stage's.
    """
    in_wide_vectors()
    k, w, shift = work.stages, work.weights, 1.0 / (GAMMA * h)
    if work.pivots.size > 0:
        totals_at(form, t, work.totals, work.changes)
        enter_acting(form, work, shares, work.argument)
        work.norm[0] = enter_jacobian(
            form, shift, work.diagonal, work.argument, shares, velocity, work.slopes, work.matrix
        )
        factorize(work.matrix, work.pivots)
    else:
        for block in range(form.loss.size):
            a, b = form.starts[block], form.starts[block + 1]
            work.below[block] = _enter_inverse(
                shift, work.diagonal[a:b], shares[a:b], velocity[a:b], work.inverse[a:b], work.slopes[a:b]
            )
    for stage in range(IMPLICIT):
        own, right = k[stage], velocity
        if stage > 0:
            for j in range(stage):
                w[j] = RA[stage, j]
            advance(u, k, w, stage, work.argument)
            right = work.error
            rates(form, work, t + RC[stage] * h, work.argument, sizes, right)
            # A mean of growth that is wrong by its rounding would move the total, to which growth is stiff.
            centre(form, sizes, right)
        for j in range(stage):
            w[j] = RG[stage, j] / h
        advance(right, k, w, stage, own)
        if RD[stage] != 0.0:
            add(own, RD[stage] * h, work.drift)
        _solve(form, work, own)
    w[0] = 1.0
    advance(work.argument, k[IMPLICIT - 1 :], w, 1, new)
    return size_of(form, sizes, k[IMPLICIT - 1], u, tolerance)
