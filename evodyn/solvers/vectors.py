"""Compiled loops over arrays: what steps are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from evodyn.solvers.compilation import compiled

__all__ = [
    "GAP",
    "add",
    "advance",
    "clear",
    "copy",
    "enter_multiples",
    "exponential",
    "extremes",
    "in_wide_vectors",
    "largest",
    "largest_error",
    "making",
    "ordered",
    "room",
    "subtract",
    "sums",
    "weighted_mean",
]

GAP = 64
"""Numbers between arrays, which is more than what a loop handles at once."""

# What makes arrays. All else looks at arrays that its caller holds, and does not count references to them:
# that took longer than the arithmetic of a few hundred groups.
making = compiled()
ordered = compiled(_nrt=False)
# Sums may be taken in any order, which lets the compiler use vectors; NaN and infinity keep their meaning.
sums = compiled(_nrt=False, fastmath={"reassoc", "contract", "arcp", "nsz"})
# Bounds of numbers among which there is no NaN.
extremes = compiled(_nrt=False, fastmath={"reassoc", "contract", "nnan", "nsz"})


@intrinsic  # type: ignore[untyped-decorator]
def _float_of_bits(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _bits_of_float(typing_context: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic  # type: ignore[untyped-decorator]
def in_wide_vectors(typing_context: Any) -> Any:
    """Let the calling function use vectors of eight numbers, on processors that have them."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # llvmlite knows attributes without values only.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_constant(types.int64, 0)

    return types.int64(), generate


# e^r = 1 + r + r² Σ E_k r^k for |r| <= ln(2)/2, to 2e-17: interpolation at Chebyshev's places.
E0, E1, E2, E3, E4 = (
    0.5000000000000001,
    0.16666666666666669,
    0.04166666666662413,
    0.008333333333330062,
    (0.0013888888917213717),
)
E5, E6, E7, E8, E9 = (
    0.00019841269863053618,
    2.4801521295954376e-05,
    2.7557268459997064e-06,
    (2.7620088445409746e-07),
    2.510038549551032e-08,
)
_SHIFT = 1.5 * 2.0**52  # a number that leaves room for the integer part only


# Not inlined by numba, which would let the order of its operations be changed; the compiler inlines it later.
@compiled(_nrt=False, fastmath={"contract"})
def exponential(x):
    """Return exp(x) to rounding, by a polynomial that the compiler vectorises; 0 below -708, NaN for NaN."""
    y = x if not (x < -708.0) else -708.0
    y = y if not (y > 709.0) else 709.0
    shifted = y * 1.4426950408889634 + _SHIFT
    n = shifted - _SHIFT
    r = (y - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10
    s = E9 * r + E8
    s = s * r + E7
    s = s * r + E6
    s = s * r + E5
    s = s * r + E4
    s = s * r + E3
    s = s * r + E2
    s = s * r + E1
    s = s * r + E0
    s = s * r * r + r
    s = (s + 1.0) * _float_of_bits((_bits_of_float(shifted) + 1023) << 52)
    return s if not (x < -708.0) else 0.0


@sums
def advance(u, k, weights, count, out):
    """Enter u + Σ weights_j k_j over the first `count` stages."""
    in_wide_vectors()
    w = weights
    k0, k1, k2, k3, k4, k5, k6 = k[0], k[1], k[2], k[3], k[4], k[5], k[6]
    n = u.size
    if count == 0:
        for i in range(n):
            out[i] = u[i]
    elif count == 1:
        for i in range(n):
            out[i] = u[i] + w[0] * k0[i]
    elif count == 2:
        for i in range(n):
            out[i] = u[i] + (w[0] * k0[i] + w[1] * k1[i])
    elif count == 3:
        for i in range(n):
            out[i] = u[i] + (w[0] * k0[i] + w[1] * k1[i] + w[2] * k2[i])
    elif count == 4:
        for i in range(n):
            out[i] = u[i] + (w[0] * k0[i] + w[1] * k1[i] + w[2] * k2[i] + w[3] * k3[i])
    elif count == 5:
        for i in range(n):
            out[i] = u[i] + (w[0] * k0[i] + w[1] * k1[i] + w[2] * k2[i] + w[3] * k3[i] + w[4] * k4[i])
    elif count == 6:
        for i in range(n):
            out[i] = u[i] + (
                w[0] * k0[i] + w[1] * k1[i] + w[2] * k2[i] + w[3] * k3[i] + w[4] * k4[i] + w[5] * k5[i]
            )
    else:
        for i in range(n):
            out[i] = u[i] + (
                w[0] * k0[i] + w[1] * k1[i] + w[2] * k2[i] + w[3] * k3[i] + w[4] * k4[i] + w[5] * k5[i]
                + w[6] * k6[i]
            )  # fmt: skip


@making
def room(n):
    """Return memory for n numbers, with a gap behind it.

    A compiled loop goes number by number where arrays lie close to one another, which rounds sums otherwise.
    With the gap none do, wherever memory happens to be.
    """
    return np.empty(n + GAP)[:n]


@sums
def subtract(out, value):
    """Subtract a number."""
    in_wide_vectors()
    for i in range(out.size):
        out[i] -= value


@sums
def add(values, factor, others):
    """Add multiples of others."""
    in_wide_vectors()
    for i in range(values.size):
        values[i] += factor * others[i]


@sums
def copy(values, out):
    """Enter values."""
    in_wide_vectors()
    for i in range(values.size):
        out[i] = values[i]


@sums
def clear(out):
    """Enter zeros."""
    in_wide_vectors()
    for i in range(out.size):
        out[i] = 0.0


@sums
def enter_multiples(values, factor, others):
    """Enter multiples of others."""
    in_wide_vectors()
    for i in range(values.size):
        values[i] = factor * others[i]


# Numbers that are not negative are ordered like their bits; the largest integer is found in vectors.
@sums
def largest(values, centre):
    """Return the largest distance from a number; NaN if there is one."""
    in_wide_vectors()
    worst = 0
    for i in range(values.size):
        worst = max(worst, _bits_of_float(abs(values[i] - centre)))
    return _float_of_bits(worst)


@sums
def largest_error(values, centre, u, slack):
    """Return the largest distance from a number, over 1 + slack |u|; NaN if there is one."""
    in_wide_vectors()
    worst = 0
    for i in range(values.size):
        worst = max(worst, _bits_of_float(abs(values[i] - centre) / (1.0 + slack * abs(u[i]))))
    return _float_of_bits(worst)


@sums
def weighted_mean(sizes, values):
    """Return the mean of values, weighted by sizes."""
    in_wide_vectors()
    total, product = 0.0, 0.0
    for i in range(values.size):
        total += sizes[i]
        product += sizes[i] * values[i]
    return product / total
