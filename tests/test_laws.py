"""The laws of contributions: mean and coefficient of variation of the law, never of a rescaled sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evodyn.core.arrays import FloatArray
from evodyn.model.laws import KINDS, contributions

VARYING = [kind for kind in KINDS if kind != "neutral"]
N = 100_000


def has_moments(sample: FloatArray, heterogeneity: float) -> bool:
    """Tell whether a sample may come from a law with mean 1 and this coefficient of variation.

    Both within 4.5 standard errors, which come from the scatter of twenty batches (and rounding).
    """
    batches = sample.reshape(20, -1)
    errors = batches - 1, (batches - 1) ** 2 - heterogeneity**2
    means = np.array([error.mean(axis=1) for error in errors])
    standard = means.std(axis=1, ddof=1) / np.sqrt(20)
    return bool((np.abs(means.mean(axis=1)) < 4.5 * standard + 1e-12).all())


@pytest.mark.parametrize("heterogeneity", [0.05, 0.3, 0.45])
@pytest.mark.parametrize("kind", VARYING)
def test_mean_and_spread_are_those_of_the_law(kind: str, heterogeneity: float) -> None:
    # Beyond 0.45 the Pareto law's sample moments say little: its quantiles are checked below instead.
    sample = contributions(kind, n=N, heterogeneity=heterogeneity, rng=11)
    assert has_moments(sample, heterogeneity)


@pytest.mark.parametrize("heterogeneity", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["uniform", "gaussian", "two_class"])
def test_mean_and_spread_of_wide_laws_with_light_tails(kind: str, heterogeneity: float) -> None:
    assert has_moments(contributions(kind, n=N, heterogeneity=heterogeneity, rng=12), heterogeneity)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_two_classes_have_their_fraction(fraction: float) -> None:
    sample = contributions("two_class", n=N, heterogeneity=0.3, rng=3, fraction=fraction)
    assert has_moments(sample, 0.3)
    low, high = np.unique(sample)
    share = (sample == high).mean()
    assert abs(share - fraction) < 4.5 * np.sqrt(fraction * (1 - fraction) / N)
    # Two values with mean 1 and spread h leave no freedom.
    assert fraction * high + (1 - fraction) * low == pytest.approx(1, abs=1e-14)
    assert fraction * (high - 1) ** 2 + (1 - fraction) * (low - 1) ** 2 == pytest.approx(0.09, rel=1e-13)


QUANTILES: dict[str, Callable[[float, float], float]] = {
    # Of c at probability q for coefficient of variation h, from the textbook form of each law.
    "uniform": lambda q, h: 1 + np.sqrt(3) * h * (2 * q - 1),
    "pareto": lambda q, h: (
        np.sqrt(1 + h**2) / (h + np.sqrt(1 + h**2)) * (1 - q) ** (-h / (h + np.sqrt(1 + h**2)))
    ),
    "lognormal": lambda q, h: float(np.exp(np.sqrt(np.log1p(h**2)) * _normal(q)) / np.sqrt(1 + h**2)),
    "gaussian": lambda q, h: 1 + h * _normal(q),
}


def _normal(q: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(q))


@pytest.mark.parametrize("heterogeneity", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("kind", QUANTILES)
def test_quantiles_are_those_of_the_law(kind: str, heterogeneity: float) -> None:
    # Moments alone would not tell the laws apart, and the heavy tails have no useful sample moments.
    sample = contributions(kind, n=N, heterogeneity=heterogeneity, rng=5)
    for q in (0.02, 0.3, 0.5, 0.9, 0.999):
        below = (sample < QUANTILES[kind](q, heterogeneity)).mean()
        assert abs(below - q) < 4.5 * np.sqrt(q * (1 - q) / N), (q, below)


def test_the_checker_can_fail() -> None:
    # Negative control: a law 3 % too wide, and one 1 % too rich.
    rng = np.random.default_rng(0)
    assert not has_moments(1 + 0.309 * rng.standard_normal(N), 0.3)
    assert not has_moments(1.01 + 0.3 * rng.standard_normal(N), 0.3)
    assert has_moments(1 + 0.3 * rng.standard_normal(N), 0.3)


@pytest.mark.parametrize("kind", VARYING)
def test_samples_are_not_rescaled(kind: str) -> None:
    # Means of small samples scatter as those of independent draws do.
    samples = np.array([contributions(kind, n=8, heterogeneity=0.4, rng=k) for k in range(400)])
    scatter = samples.mean(axis=1).std() * np.sqrt(8)
    assert 0.3 < scatter < 0.5
    assert samples.std(axis=1).std() > 0.01
    # Nor do draws depend on how many there are.
    rng = np.random.default_rng(1)
    first = contributions(kind, n=3, heterogeneity=0.4, rng=rng)
    both = np.concatenate((first, contributions(kind, n=5, heterogeneity=0.4, rng=rng)))
    np.testing.assert_array_equal(both, contributions(kind, n=8, heterogeneity=0.4, rng=1))


@pytest.mark.parametrize("kind", KINDS)
def test_no_heterogeneity_is_one_for_all(kind: str) -> None:
    np.testing.assert_array_equal(contributions(kind, n=5, heterogeneity=0.0, rng=0), np.ones(5))
    np.testing.assert_array_equal(contributions(kind, n=5, heterogeneity=0), np.ones(5))


@pytest.mark.parametrize("kind", VARYING)
def test_a_seed_is_a_sample(kind: str) -> None:
    def draw(rng: object) -> FloatArray:
        return contributions(kind, n=16, heterogeneity=0.7, rng=rng)

    np.testing.assert_array_equal(draw(3), draw(3))
    np.testing.assert_array_equal(draw(3), draw(np.random.default_rng(3)))
    np.testing.assert_array_equal(draw(3), draw(np.random.SeedSequence(3)))
    assert (draw(3) != draw(4)).any()
    state = repr(np.random.get_state())  # noqa: NPY002 (it must stay as it is)
    draw(None)
    assert repr(np.random.get_state()) == state  # noqa: NPY002


@given(
    st.sampled_from(VARYING),
    st.sampled_from([1e-160, 1e-12]) | st.floats(0.0, 1e6, allow_subnormal=False),
    st.integers(0, 100),
    st.floats(0.01, 0.99),
)
@example("pareto", 1e-160, 0, 0.5)
@example("pareto", 5e-324, 0, 0.5)
def test_every_heterogeneity_gives_finite_contributions(
    kind: str, heterogeneity: float, seed: int, fraction: float
) -> None:
    sample = contributions(kind, n=7, heterogeneity=heterogeneity, rng=seed, fraction=fraction)
    assert sample.shape == (7,) and sample.dtype == np.float64 and np.isfinite(sample).all()
    if heterogeneity < 1e-9:
        np.testing.assert_allclose(sample, 1, atol=1e-6)


def test_which_laws_can_go_negative() -> None:
    def least(kind: str, h: float, **options: float) -> float:
        return float(contributions(kind, n=N, heterogeneity=h, rng=1, **options).min())

    # "lognormal" and "pareto" are positive always.
    for h in (0.1, 1.0, 10.0):
        assert least("lognormal", h) > 0 and least("pareto", h) > 0
    # "uniform" above h = 1/√3, "two_class" above √((1 - fraction)/fraction).
    assert least("uniform", 0.99 / np.sqrt(3)) > 0 > least("uniform", 1.01 / np.sqrt(3))
    for fraction in (0.2, 0.5, 0.8):
        bound = np.sqrt((1 - fraction) / fraction)
        assert least("two_class", 0.99 * bound, fraction=fraction) > 0
        assert least("two_class", 1.01 * bound, fraction=fraction) < 0
    # "gaussian" at every h > 0, in principle; at 0.3 within this sample.
    assert least("gaussian", 0.3) < 0
