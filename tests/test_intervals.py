"""Intervals of means, and of one more value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from evodyn.analysis.intervals import interval, interval_of_fraction


def test_intervals_cover_what_they_promise() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 11))
    found = [interval(row[:10]) for row in draws]
    in_mean = np.mean([i.of_mean[0] <= 3.0 <= i.of_mean[1] for i in found])
    in_next = np.mean([i.of_next[0] <= x <= i.of_next[1] for i, x in zip(found, draws[:, 10], strict=True)])
    assert in_mean == pytest.approx(0.95, abs=0.015) and in_next == pytest.approx(0.95, abs=0.015)
    reference: Any = stats.ttest_1samp(draws[0, :10], 0).confidence_interval(0.9)
    assert interval(draws[0, :10], level=0.9).of_mean == pytest.approx(tuple(reference), rel=1e-12)
    with pytest.raises(ValueError, match="at least two"):
        interval([1.0])


def test_intervals_of_fractions_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    for chance, populations in ((0.4, 6), (0.002, 6)):
        covered = 0
        for _ in range(1000):
            low, high = interval_of_fraction(rng.binomial(200, chance, populations), 200, level=0.95)
            covered += low <= chance <= high
        # Exact intervals of small counts are wider than need be, never narrower.
        assert covered >= 930
        assert covered <= 970 or chance < 0.01
    assert interval_of_fraction(np.zeros(4, dtype=int), 50, level=0.95)[0] == 0.0


def test_an_interval_of_a_fraction_is_that_of_students_t() -> None:
    extinct = np.array([60, 75, 66, 90])
    expected = stats.ttest_1samp(extinct / 200, 0.0).confidence_interval(0.95)
    assert interval_of_fraction(extinct, 200, level=0.95) == pytest.approx(
        (expected.low, expected.high), rel=1e-12
    )
