"""Intervals of means, and of one more value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from evodyn.analysis.intervals import interval


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
