"""Compiled steps of the Euler map for fitness that is given, or that falls with mass; needs numba.

They do the operations of `evodyn.model.comparison` in the same order, each rounded by itself, and so return
the same bits. NumPy adds in pairs: parts of up to 128 numbers in eight sums side by side, and the sums of
parts as the branches of a tree. The eight are a vector here, which the compiler would not find by itself.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from evodyn.solvers.compilation import compiled
from evodyn.solvers.vectors import in_wide_vectors

__all__ = ["euler", "iterated"]

exact = compiled(_nrt=False)

_PART = 128
"""NumPy halves what is longer."""

_DOUBLE = ir.DoubleType()
_WIDE = 8


def _loop(*, given: bool, moves: bool, sums: bool, clips: bool = False, mutates: str = "") -> Any:
    """Return the loop over a part of the groups.

    Parameters
    ----------
    given : bool
        Whether fitness is c, of absent groups too, and not c - decay·p.
    moves : bool
        Whether new masses are entered in q.
    sums : bool
        Whether Σ p, Σ pφ and the least p are returned, of the new masses if there are any.
    clips : bool
        Whether φ - φ̄ is clipped.
    mutates : {"", "alike", "each"}
        Whether there is a mutation rate, and the same inflow into every group, or one for each.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def loop(
        context: Any, p: Any, c: Any, inflow: Any, q: Any, mean: Any, decay: Any, h: Any, clip: Any,
        rate: Any,
    ) -> Any:  # fmt: skip
        answer = types.UniTuple(types.float64, 3)
        signature = answer(p, c, inflow, q, mean, decay, h, clip, rate)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b = builder
            arrays = [
                context.make_array(kind)(context, b, a)
                for kind, a in zip(signature.args[:4], args[:4], strict=True)
            ]
            numbers = dict(zip(("mean", "decay", "h", "clip", "rate"), args[4:], strict=True))
            size = b.extract_value(arrays[0].shape, 0)
            eighths = b.lshr(size, ir.Constant(size.type, 3))

            def body(width: int, index: Any, total: Any, product: Any, low: Any) -> None:
                kind = ir.VectorType(_DOUBLE, width) if width > 1 else _DOUBLE

                def spread(value: Any) -> Any:
                    if width == 1:
                        return value
                    vector = ir.Constant(kind, ir.Undefined)
                    for lane in range(width):
                        vector = b.insert_element(vector, value, ir.Constant(ir.IntType(32), lane))
                    return vector

                def number(name: str) -> Any:
                    return spread(numbers[name])

                def place(array: Any) -> Any:
                    return b.bitcast(b.gep(array.data, [index]), kind.as_pointer())

                def load(array: Any) -> Any:
                    return b.load(place(array), align=8)

                zero = ir.Constant(kind, [0.0] * width if width > 1 else 0.0)
                before, contribution = load(arrays[0]), load(arrays[1])

                def fitness(masses: Any) -> Any:
                    if given:
                        return b.select(b.fcmp_ordered(">", masses, zero), contribution, zero)
                    return b.fadd(
                        b.fmul(
                            b.fsub(ir.Constant(kind, [-0.0] * width if width > 1 else -0.0), number("decay")),
                            masses,
                        ),
                        contribution,
                    )

                after = before
                if moves:
                    growth = b.fsub(fitness(before), number("mean"))
                    if clips:
                        bound = number("clip")
                        least = b.fsub(ir.Constant(kind, [-0.0] * width if width > 1 else -0.0), bound)
                        growth = b.select(b.fcmp_ordered(">", growth, bound), bound, growth)
                        growth = b.select(b.fcmp_ordered("<", growth, least), least, growth)
                    if mutates:
                        growth = b.fsub(growth, number("rate"))
                    change = b.fmul(before, growth)
                    if mutates:
                        fed = load(arrays[2]) if mutates == "each" else spread(b.load(arrays[2].data))
                        change = b.fadd(change, fed)
                    after = b.fadd(before, b.fmul(number("h"), change))
                    after = b.select(b.fcmp_ordered("<", after, zero), zero, after)
                    b.store(after, place(arrays[3]), align=8)
                if sums:
                    b.store(b.fadd(b.load(total), after), total)
                    b.store(b.fadd(b.load(product), b.fmul(after, fitness(after))), product)
                    b.store(smaller(after, b.load(low)), low)

            def smaller(one: Any, other: Any) -> Any:
                return b.select(b.fcmp_ordered("<", one, other), one, other)

            wide = ir.VectorType(_DOUBLE, _WIDE)
            totals, products, lows = (
                cgutils.alloca_once_value(b, ir.Constant(wide, [start] * _WIDE))
                for start in (0.0, 0.0, math.inf)
            )
            with cgutils.for_range(b, eighths) as step:
                body(_WIDE, b.shl(step.index, ir.Constant(size.type, 3)), totals, products, lows)

            def folded(places: Any, combine: Any) -> Any:
                vector = b.load(places)
                lanes = [b.extract_element(vector, ir.Constant(ir.IntType(32), k)) for k in range(_WIDE)]
                while len(lanes) > 1:
                    lanes = [combine(one, other) for one, other in zip(lanes[::2], lanes[1::2], strict=True)]
                return lanes[0]

            total, product = (cgutils.alloca_once_value(b, folded(a, b.fadd)) for a in (totals, products))
            low = cgutils.alloca_once_value(b, folded(lows, smaller))
            with cgutils.for_range(b, size, start=b.shl(eighths, ir.Constant(size.type, 3))) as step:
                body(1, step.index, total, product, low)
            return context.make_tuple(b, answer, [b.load(place) for place in (total, product, low)])

        return signature, generate

    return loop


_weighed_given = _loop(given=True, moves=False, sums=True)
_weighed = _loop(given=False, moves=False, sums=True)
_moved = _loop(given=True, moves=True, sums=False)
_moved_clipped = _loop(given=True, moves=True, sums=False, clips=True)
_moved_fed = _loop(given=True, moves=True, sums=False, clips=True, mutates="alike")
_moved_fed_apart = _loop(given=True, moves=True, sums=False, clips=True, mutates="each")
_gone_on = _loop(given=False, moves=True, sums=True)
_gone_on_clipped = _loop(given=False, moves=True, sums=True, clips=True)
_gone_on_fed = _loop(given=False, moves=True, sums=True, clips=True, mutates="alike")
_gone_on_fed_apart = _loop(given=False, moves=True, sums=True, clips=True, mutates="each")


@exact
def _given_sums(p, c):
    """Return Σ p and Σ pφ for fitness that is given."""
    in_wide_vectors()
    n = p.size
    if n <= _PART:
        total, product, _ = _weighed_given(p, c, c, p, 0.0, 0.0, 0.0, 0.0, 0.0)
        return total, product
    half = n // 2 - n // 2 % _WIDE
    total, product = _given_sums(p[:half], c[:half])
    second, other = _given_sums(p[half:], c[half:])
    return total + second, product + other


@exact
def euler(p, fitness, h, clip, rate, inflow, q):
    """Enter in q the masses after a step of the Euler map with fitness that is given."""
    in_wide_vectors()
    total, product = _given_sums(p, fitness)
    mean = product / (total if total > 0.0 else 1.0)
    if inflow.size > 1:
        _moved_fed_apart(p, fitness, inflow, q, mean, 0.0, h, clip, rate)
    elif inflow.size == 1:
        _moved_fed(p, fitness, inflow, q, mean, 0.0, h, clip, rate)
    elif clip < math.inf:
        _moved_clipped(p, fitness, inflow, q, mean, 0.0, h, clip, rate)
    else:
        _moved(p, fitness, inflow, q, mean, 0.0, h, clip, rate)


@exact
def _sums(p, c, decay):
    """Return Σ p, Σ pφ and the least p for fitness c - decay·p."""
    in_wide_vectors()
    n = p.size
    if n <= _PART:
        return _weighed(p, c, c, p, 0.0, decay, 0.0, 0.0, 0.0)
    half = n // 2 - n // 2 % _WIDE
    total, product, least = _sums(p[:half], c[:half], decay)
    second, other, low = _sums(p[half:], c[half:], decay)
    return total + second, product + other, min(least, low)


@exact
def _step(p, c, decay, mean, h, clip, rate, inflow, apart, q):
    """Enter the next masses in q; return Σ p, Σ pφ and the least p of them."""
    in_wide_vectors()
    n = p.size
    if n <= _PART:
        if apart:
            return _gone_on_fed_apart(p, c, inflow, q, mean, decay, h, clip, rate)
        if inflow.size == 1:
            return _gone_on_fed(p, c, inflow, q, mean, decay, h, clip, rate)
        if clip < math.inf:
            return _gone_on_clipped(p, c, inflow, q, mean, decay, h, clip, rate)
        return _gone_on(p, c, inflow, q, mean, decay, h, clip, rate)
    half = n // 2 - n // 2 % _WIDE
    feeds, rest = (inflow[:half], inflow[half:]) if apart else (inflow, inflow)
    total, product, least = _step(p[:half], c[:half], decay, mean, h, clip, rate, feeds, apart, q[:half])
    second, other, low = _step(p[half:], c[half:], decay, mean, h, clip, rate, rest, apart, q[half:])
    return total + second, product + other, min(least, low)


@exact
def _crossed(p, q, level):
    """Tell whether a group is on another side of the level, or of 0, than it was."""
    in_wide_vectors()
    event = False
    for k in range(q.size):
        event |= ((q[k] < level) != (p[k] < level)) | ((q[k] <= 0.0) != (p[k] <= 0.0))
    return event


@exact
def iterated(p, c, decay, h, clip, rate, inflow, cap, level, steps, until_saved, every, rows, q):
    """Go on for so many steps, or until the one in which something happens that has to be looked at.

    That is a mass that arrives at 0, leaves it, or crosses `level`, and sums that are 0 or not finite; the
    step is not taken then.

    Parameters
    ----------
    p, q : array, shape (N,)
        The masses, and room for those after the next step. They change places with each step.
    until_saved, every : int
        Steps until the next state that is saved, and from there to the one after.
    rows : array, shape (T, N)
        Room for saved states.

    Returns
    -------
    taken, saved : int
        Number of steps that were taken, and of states saved.
    """
    taken, saved, apart = 0, 0, inflow.size > 1
    total, product, low = _sums(p, c, decay)
    while taken < steps and 0.0 < total < math.inf and abs(product) < math.inf:
        before = low
        after, growth, low = _step(p, c, decay, product / total, h, clip, rate, inflow, apart, q)
        if after > cap * (1.0 + p.size * 2.0**-52):
            factor = cap / after
            for k in range(q.size):
                q[k] = q[k] * factor
            after, growth, low = _sums(q, c, decay)
        if not 0.0 < after < math.inf or (min(low, before) <= level and _crossed(p, q, level)):
            break
        p, q, total, product = q, p, after, growth
        taken += 1
        until_saved -= 1
        if until_saved == 0:
            row = rows[saved]
            for k in range(p.size):
                row[k] = p[k]
            saved, until_saved = saved + 1, every
    return taken, saved
