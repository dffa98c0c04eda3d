"""The studies of signed selection: neutral controls, overlaps, and the scores that masses add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.scripts import module

pytestmark = pytest.mark.nn
STUDY = module("studies/signed_selection.py")
HEURISTICS = module("studies/heuristics.py")


def test_neutral_signals_keep_the_noise_and_lose_every_trend() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 3)) * [1.0, 2.0, 3.0]
    noise[:, 1] += noise[:, 0]
    trend = np.array([5.0, -1.0, 0.0])
    found = STUDY.neutral(noise + trend, 50, np.random.default_rng(1))
    epochs = noise.reshape(4, 50, 3)
    centred = (epochs - epochs.mean(1, keepdims=True)).reshape(200, 3)
    # Up to the sign of each step, which all groups share: so are variances and correlations.
    signs = found[:, 0] / centred[:, 0]
    np.testing.assert_allclose(np.abs(signs), 1, rtol=1e-9)
    np.testing.assert_allclose(found, signs[:, None] * centred, atol=1e-12)
    np.testing.assert_allclose(found.T @ found, centred.T @ centred)
    assert 60 < (signs > 0).sum() < 140
    assert not STUDY.neutral(np.tile(trend, (100, 1)), 50, rng).any()


def test_overlap_counts_in_units_of_chance() -> None:
    dead = np.arange(100) < 25
    assert STUDY.beyond_chance(dead, dead) == pytest.approx(4.0)
    assert STUDY.beyond_chance(dead, ~dead) == 0
    assert STUDY.beyond_chance(dead, np.arange(100) % 4 == 0) == pytest.approx(7 / 6.25)
    assert np.isnan(STUDY.beyond_chance(dead, np.zeros(100, dtype=bool)))


def test_masses_add_up_the_score_that_is_their_fitness() -> None:
    point = HEURISTICS.Training("magnitude", samples=256, epochs=2, widths=(784, 24, 12, 10))
    found = HEURISTICS.correlations(HEURISTICS.trained(point))
    assert found[0] == pytest.approx(1, abs=1e-12)  # ln p is the sum of the scores, but for a common number
    assert all(value < 1 - 1e-6 for value in found[3:])


def test_the_positive_control_takes_off_what_the_twin_is() -> None:
    point = HEURISTICS.Training("gradient", priced=True, pairs=2)
    masses = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    fitness = point.landscape(torch.ones(5))(0.0, masses)
    expected = 1 - HEURISTICS.PRICED * np.array([3.0, 4.0, 1.0, 2.0, 0.0])
    np.testing.assert_allclose(np.asarray(fitness), expected)
