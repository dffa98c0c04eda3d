"""The study of extinction rates: its smoke run against theory, its intervals, and its figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import evodyn as ed
from evodyn.extinction_theory import equilibrium_sparsity
from tests.scripts import caption, fits, module, saved, study

NAME = "extinction_rates"
STUDY = module(f"studies/{NAME}.py")
Sample = STUDY.Sample


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp(NAME)
    return folder, study(NAME, folder, "--smoke", "--workers", "2")[0]


@pytest.fixture(scope="module")
def data(finished: tuple[Path, str]) -> xr.Dataset:
    return saved(finished[0], NAME)[0]


def test_measured_rates_are_those_of_theory_for_every_law(data: xr.Dataset) -> None:
    expected, found = data.theoretical_rate.values, data.measured_rate.values
    dying = np.isfinite(expected)
    assert dying.any(axis=1).all()
    assert np.abs(found[dying] / expected[dying] - 1).max() < 1e-6  # the target is 1 %
    assert len(set(data.rate_kind.values)) == 5
    # Constant fitness, by hand: the gap to the best.
    sample = Sample(kind="uniform", groups=48, decay=0.0)
    c = np.sort(sample.contribution(0))
    row = (data.rate_kind.values == "uniform") & (data.rate_decay.values == 0)
    np.testing.assert_allclose(np.sort(found[row][0])[:-1], (c[-1] - c)[::-1][1:], rtol=1e-6)


def test_theory_is_inside_the_band_that_covers_every_heterogeneity(
    finished: tuple[Path, str], data: xr.Dataset
) -> None:
    main = data.phase_decay.values == 0.3
    assert main.sum() == 20
    inside = (data.phase_low <= data.phase_theory) & (data.phase_theory <= data.phase_high)
    # Independent 95 % intervals: more misses than this have a probability below 1e-4.
    missed = int((~inside.values[main]).sum())
    assert stats.binom.sf(missed - 1, 20, 0.05) > 1e-4
    assert f"inside {20 - missed} of 20 intervals" in finished[1]
    for k in np.flatnonzero(main):
        expected = equilibrium_sparsity(
            str(data.phase_kind.values[k]),
            heterogeneity=float(data.phase_heterogeneity.values[k]),
            decay=0.3,
            threshold=0.02,
        )
        assert data.phase_theory.values[k] == expected


def test_the_fit_finds_a_finite_size_correction_and_its_errors() -> None:
    rng = np.random.default_rng(1)
    sizes = np.array([24, 48, 96, 192])
    limits = []
    for _ in range(300):
        rows = [
            {"kind": "x", "groups": n, "standard_error": 0.01, "difference": -2.0 / n + rng.normal(0, 0.01)}
            for n in sizes
        ]
        fit = STUDY.correction("x", rows)
        limits.append((fit["limit"] / fit["limit_error"], (fit["slope"] + 2) / fit["slope_error"]))
    scores = np.array(limits)
    assert np.abs(scores.mean(axis=0)).max() < 4 / 300**0.5
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=0.15)


def test_a_simulated_population_ends_where_water_filling_says() -> None:
    sample = Sample(kind="gaussian", groups=60, populations=2, heterogeneity=0.7)
    counted = STUDY.simulated_sparsity(sample).extinct.values
    for member in range(2):
        landscape = STUDY._shared.fitness(sample.contribution(member), sample.decay)
        point = ed.equilibrium(ed.Replicator(), landscape, total_mass=60.0)
        assert counted[member] == (point.masses < sample.threshold).sum()
    with pytest.raises(ValueError, match="decay is 0"):
        STUDY.simulated_sparsity(Sample(decay=0.0))
    with pytest.raises(ValueError, match="heterogeneity"):
        Sample(heterogeneity=0.0)
    # Draws differ between laws, sizes, decays and populations, and nothing else changes them.
    assert (
        sample.contribution(0) == Sample(kind="gaussian", groups=60, heterogeneity=0.7).contribution(0)
    ).all()
    other = Sample(kind="gaussian", groups=60, heterogeneity=0.7, decay=0.1)
    assert (sample.contribution(0) != other.contribution(0)).all()


def test_rates_of_a_population_without_deaths_are_none() -> None:
    rates = STUDY.measured_rates(Sample(kind="uniform", groups=10, heterogeneity=0.1, decay=1.0))
    assert np.isnan(rates.theoretical).all()


def test_mutation_is_as_theory_says(finished: tuple[Path, str], data: xr.Dataset) -> None:
    np.testing.assert_allclose(data.best_share.values, data.best_share_theory.values, rtol=1e-6)
    # Below the threshold the best group keeps a share that no number of groups makes small; above it, none.
    share = data.best_share.sel(peak_groups=data.peak_groups.values.max())
    below = share.sel(factor=[0.25, 0.5, 0.75]).values
    np.testing.assert_allclose(below, [0.75, 0.5, 0.25], atol=0.01)
    assert share.sel(factor=2.0) < 0.01
    assert data.mass_over_floor.min() >= 1
    table = saved(finished[0], NAME)[1]
    rows = [row for row in table if row["quantity"].startswith(("rate that", "error thr"))]
    assert len(rows) == 4
    assert all(abs(float(row["simulation"]) / float(row["theory"]) - 1) < 1e-5 for row in rows)


def test_what_is_written_says_what_it_is(finished: tuple[Path, str], data: xr.Dataset) -> None:
    assert all({"long_name", "units"} <= set(variable.attrs) for variable in data.variables.values())
    assert json.loads(data.attrs["specification"])["study"] == "extinction_rates"
    out = finished[1]
    assert fits(out, NAME)
    assert "nan" not in out


def test_the_figure_is_drawn_beside_its_data(finished: tuple[Path, str]) -> None:
    assert "measured in populations of 48, over theory" in caption("phase_diagram", finished[0])
