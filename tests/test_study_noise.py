"""The study of noise: what it prints, saves and draws agrees with theory."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import evodyn as ed
from tests.scripts import caption, fits, module, saved, study

NAME = "noise"
STUDY = module(f"studies/{NAME}.py")
SIGNIFICANT = 1e-4  # chance that a right theory fails in one of the tests here


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp(NAME)
    return folder, study(NAME, folder, "--smoke")[0]


@pytest.fixture(scope="module")
def data(finished: tuple[Path, str]) -> xr.Dataset:
    return saved(finished[0], NAME)[0]


@pytest.fixture(scope="module")
def rows(finished: tuple[Path, str]) -> list[dict[str, str]]:
    return saved(finished[0], NAME)[1]


def test_no_theory_is_rejected(rows: list[dict[str, str]]) -> None:
    sampled = [row for row in rows if row["part"] != "estimates"]
    assert len(sampled) == 2 + 14 + 7 + 12
    assert min(float(row["p_value"]) for row in sampled) > SIGNIFICANT
    for row in sampled:
        assert float(row["interval_low"]) <= float(row["simulation"]) <= float(row["interval_high"])


def test_death_times_are_of_their_own_calculus(data: xr.Dataset) -> None:
    times = data.death_time.values
    assert np.isfinite(times).all()
    for k, own in enumerate(data.calculus.values):
        for j, other in enumerate(data.calculus.values):
            curve = data.death_curve.sel(calculus=other)
            ranks = np.interp(times[k], data.fine_time, curve)  # uniform if the law is right
            p_value = scipy.stats.kstest(ranks, "uniform").pvalue
            assert (p_value > SIGNIFICANT) == (k == j), (own, other)


def test_the_calculus_decides_who_dies_from_the_noise_at_which_theory_says(data: xr.Dataset) -> None:
    of = int(data.dead_of)
    ito, stratonovich = data.dead.values
    # Itô's growth rates cross at σ² = 2Δ = 0.4: dead with chance about one half some way beyond.
    loud = data.noise.values > 0.8
    quiet = data.noise.values < 0.5
    assert (ito[loud] > 0.75 * of).all()
    assert (stratonovich < 0.1 * of).all()
    assert (ito[quiet] == stratonovich[quiet]).all()
    table = np.array([[ito[-1], of - ito[-1]], [stratonovich[-1], of - stratonovich[-1]]])
    assert scipy.stats.fisher_exact(table).pvalue < 1e-12


def test_fixation_follows_the_exact_chain_and_kimura(data: xr.Dataset) -> None:
    np.testing.assert_allclose(data.fixed_theory, data.kimura, atol=0.006)
    fixed = data.fixed.values / int(data.fixed_of)
    assert scipy.stats.spearmanr(data.selection, fixed).statistic > 0.9


def test_normalised_growth_steadies_mass_and_not_shares(data: xr.Dataset) -> None:
    free = data.sel(signal_clip=np.inf)
    assert (free.share_difference == 0).all()  # the same map, bit for bit
    np.testing.assert_allclose(free.total_mass, 1.0, rtol=1e-12)
    clipped = data.sel(signal_clip=data.signal_clip[np.isfinite(data.signal_clip)])
    assert (clipped.share_difference.sel(estimate_decay=0.0) < 1e-12).all()  # the cap only rescales
    assert (clipped.share_difference.sel(estimate_decay=0.3) > 1e-6).all()
    spread = clipped.total_mass.std("trial")
    assert (spread.sel(map="replicator") > spread.sel(map="normalized_growth")).all()
    assert (clipped.total_mass.sel(map="normalized_growth") <= 1 + 1e-12).all()
    ratio = clipped.scatter.sum("trial")
    ratio = ratio.sel(map="normalized_growth") / ratio.sel(map="replicator")
    assert (abs(ratio - 1) < 0.05).all()


def test_mutation_rescues_from_a_strength_of_about_one(data: xr.Dataset) -> None:
    for name in ("rare", "gone"):
        curve = data[f"{name}_curve"].values
        assert (np.diff(curve) < 0).all()
        assert curve[0] > 0.05
        assert np.interp(1.0, data.fine_strength, curve) < 0.3 * curve[0]
        assert curve[-1] < 1e-4
        np.testing.assert_allclose(
            data[f"{name}_theory"], np.interp(data.strength, data.fine_strength, curve), atol=1e-3
        )


def test_the_table_fits_and_names_the_smallest_p_value(
    finished: tuple[Path, str], rows: list[dict[str, str]]
) -> None:
    out = finished[1]
    assert fits(out, NAME)
    smallest = min(float(row["p_value"]) for row in rows if row["part"] != "estimates")
    assert f"Smallest of 35 p-values: {smallest:.2g}" in out
    assert "0e+00 without a clip" in out


def test_too_few_realisations_are_refused(tmp_path: Path) -> None:
    _, err = study(NAME, tmp_path, "--seeds", "3", code=2)
    assert "seeds is 3; expected at least 20" in err


def test_the_figure_is_drawn_from_saved_data(finished: tuple[Path, str]) -> None:
    told = caption(NAME, finished[0])
    for words in ("inverse Gaussian", "50 individuals", "200 realisations", "2nμq"):
        assert words in told


def test_duels_without_noise_are_certain_and_with_a_wrong_law_are_told_apart() -> None:
    certain = STUDY.duel(STUDY.Duel("ito", (0.0, 1.0), (0.0, 0.0), 0.01, 10.0, 1.0, members=2))
    assert float(certain.dead_theory) == 1.0 and (certain.log_odds == -10).all()
    assert math.isnan(certain.mean_time_theory)
    lively = STUDY.duel(STUDY.Duel("ito", (1.0, 0.0), (0.1, 0.0), 0.01, 10.0, 1.0, members=20))
    assert np.isinf(lively.death_time).all() and float(lively.dead_theory) < 1e-12


def test_drift_with_mutation_revives_what_drift_without_loses() -> None:
    plain = STUDY.drift(STUDY.Drift(ed.Replicator(), 20, 0.0, 10, 400, members=60))
    assert set(np.unique(plain.share)) == {0.0, 1.0}
    assert float(plain.gone_theory + plain.fixed_theory) == pytest.approx(1.0, abs=1e-6)
    fed = STUDY.drift(STUDY.Drift(ed.SelectionMutation(0.5), 20, 0.0, 10, 400, members=60))
    assert math.isnan(fed.kimura) and float(fed.gone_theory) < 1e-3
    assert 0.3 < float(fed.share.mean()) < 0.7


def test_estimates_share_their_draws() -> None:
    one, two = (
        STUDY.estimates(STUDY.Estimates(dynamics, 0.3, steps=30, members=3))
        for dynamics in (ed.Replicator(), ed.NormalizedGrowth(mass_cap=32.0))
    )
    np.testing.assert_array_equal(one.share, two.share)
    other = STUDY.estimates(STUDY.Estimates(ed.Replicator(), 0.3, steps=30, members=3, seed=1))
    assert np.abs(other.share - one.share).max() > 1e-3
