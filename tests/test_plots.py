"""Plots show what the results hold, at its true place; no text is pale, and no band leaves [0, 1]."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import evodyn as ed
from evodyn import landscapes
from evodyn.plots.barycentric import MARKERS, share_velocity
from evodyn.plots.ternary import TRIANGLE, shares_at
from evodyn.plots.tetrahedral import corners_seen
from tests.figure_checks import problems
from tests.test_results import RUNS

REPLICATOR = ed.Replicator()
C = np.array([1.0, 0.3, 0.8, 0.0])
ROCK = landscapes.MatrixGame([[0.0, -1.0, 2.0], [2.0, 0.0, -1.0], [-1.0, 2.0, 0.0]])
COORDINATION = landscapes.MatrixGame(np.diag([1.0, 2.0, 3.0]))


@pytest.fixture(autouse=True)
def _few_cells_and_no_figure_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plt.switch_backend("Agg")
    monkeypatch.setattr("evodyn.plots.ternary._CELLS", 20)
    monkeypatch.setattr("evodyn.plots.ternary._BASIN_CELLS", 9)
    yield
    plt.close("all")


def a_run(landscape: Any = None, end: float = 20.0) -> Any:
    landscape = landscapes.Constant(C) if landscape is None else landscape
    return ed.solve(REPLICATOR, landscape, np.ones(4), (0.0, end), extinction=ed.Extinction(1e-3))


def draws(generator: np.random.Generator) -> landscapes.Constant:
    return landscapes.Constant(landscapes.contributions("lognormal", n=20, heterogeneity=1.0, rng=generator))


def an_ensemble() -> Any:
    return ed.solve_ensemble(
        REPLICATOR, draws, np.ones(20), (0.0, 30.0), members=6, rng=0, extinction=ed.Extinction(1e-3)
    )


def test_lines_are_the_masses_and_crosses_the_extinctions() -> None:
    run = a_run()
    ax: Any = run.plot()
    for group in range(4):
        np.testing.assert_array_equal(
            ax.lines[group].get_xydata(), np.column_stack((run.t, run.masses[:, group]))
        )
    dead = np.flatnonzero(run.extinct_at_end)
    marks = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_array_equal(
        marks, np.column_stack((run.extinction_time[dead], np.full(len(dead), 1e-3)))
    )
    # The dying are heavy until they die, to the cross itself.
    for line, death in zip(ax.lines[4:], run.extinction_time[dead], strict=False):
        assert line.get_xydata()[-1].tolist() == [death, 1e-3]
    assert [to_hex(line.get_color()) for line in ax.lines[:4]] == [
        to_hex(colour) for colour in np.array(ed.plots.canvas.shades(4))[[3, 1, 2, 0]]
    ]
    shares = ed.plots.masses(run, shares=True)
    np.testing.assert_array_equal(shares.lines[1].get_ydata(), run.shares[:, 1])


def test_crosses_that_are_close_all_have_their_names() -> None:
    fitness = landscapes.Constant([1.0, 0.32, 0.31, 0.305, 0.3, 0.0])
    run = ed.solve(REPLICATOR, fitness, np.ones(6), (0.0, 20.0), extinction=ed.Extinction(1e-3))
    names = ["left", "one", "two", "three", "four", "five"]
    ax: Any = run.plot(names=names)
    assert sorted(text.get_text() for text in ax.texts)[1:] == sorted(names)
    assert problems(ax.figure) == []


def test_a_threshold_that_nobody_comes_near_is_not_written_below_the_axes() -> None:
    fitness = landscapes.Constant([1.0, 0.9])
    run = ed.solve(REPLICATOR, fitness, np.ones(2), (0.0, 2.0), extinction=ed.Extinction(1e-6))
    ax: Any = run.plot()
    assert [text.get_text() for text in ax.texts] == ["1", "0"]
    assert problems(ax.figure) == []


def test_groups_with_thresholds_of_their_own_die_at_them() -> None:
    fitness = ed.landscapes.Constant([1.0, 0.8, 0.0])
    levels = ed.Extinction([1e-3, 0.1, 1e-4])
    run = ed.solve(ed.Replicator(), fitness, np.ones(3), (0.0, 30.0), extinction=levels)
    ax = ed.plots.masses(run)
    crosses: Any = ax.collections[0].get_offsets()
    np.testing.assert_allclose(crosses[:, 1], [0.1, 1e-4])
    assert not [line for line in ax.lines if line.get_linestyle() == ":"]
    assert "below thresholds of their own" in run._repr_html_()


def test_axes_are_taken_and_returned() -> None:
    run, ensemble = a_run(), an_ensemble()
    _, ax = plt.subplots()
    game = (REPLICATOR, ROCK)
    drawn: list[Callable[[], Axes]] = [
        lambda: ed.plots.masses(run, ax),
        lambda: run.plot(ax, log=False),
        lambda: ed.plots.muller(run, ax),
        lambda: ed.plots.extinct_fraction(ensemble, ax),
        lambda: ensemble.plot(ax, band="mean"),
        lambda: ed.plots.network(run, ax),
        lambda: ed.plots.simplex(*game, ax),
        lambda: ed.plots.tetrahedron(REPLICATOR, landscapes.Constant(C), ax, starts=2),
    ]
    assert all(draw() is ax for draw in drawn)
    assert len(plt.get_fignums()) == 1


def test_what_is_not_one_run_is_refused_by_name() -> None:
    for plot in (ed.plots.masses, ed.plots.muller):
        with pytest.raises(ValueError, match=r"run is Ensemble; expected a single run, such as a member"):
            plot(an_ensemble())
    with pytest.raises(ValueError, match=r"names has 2 entries; expected one for each of 4 groups"):
        ed.plots.masses(a_run(), names=["one", "two"])
    with pytest.raises(ValueError, match="landscape is for 4 groups; expected 3"):
        ed.plots.simplex(REPLICATOR, landscapes.Constant(C))
    with pytest.raises(ValueError, match="several blocks"):
        ed.plots.simplex(ed.Populations(REPLICATOR, (2, 1)), landscapes.Constant(C[:3]))
    with pytest.raises(ValueError, match=r"level is 95"):
        ed.plots.extinct_fraction(a_run(), level=95)


@pytest.mark.parametrize("name", ["integrated", "blocks", "failed", "all absorbed", "map"])
def test_every_run_has_a_picture_in_a_notebook(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RUNS[name]()
    assert "data:image/png;base64," in run._repr_html_()
    assert not plt.get_fignums()
    monkeypatch.setitem(sys.modules, "evodyn.plots.inline", None)  # as without matplotlib
    page = run._repr_html_()
    assert "img" not in page and run.termination.value in page


def test_ensembles_equilibria_and_noisy_runs_have_pages_too() -> None:
    noisy = ed.stochastic.wright_fisher(REPLICATOR, landscapes.Constant(C), [5, 5, 5, 5], 9, members=3, rng=0)
    point = ed.equilibrium(REPLICATOR, landscapes.LinearDecay(C, 1.0), total_mass=2.0)
    for result, words in ((an_ensemble(), "COMPLETED 6"), (noisy, "Wright-Fisher"), (point, "water filling")):
        page = result._repr_html_()
        assert words in page and "data:image/png;base64," in page


@pytest.mark.parametrize("band", ["members", "mean"])
def test_the_fraction_extinct_stays_within_its_bounds(band: Any) -> None:
    ensemble = an_ensemble()
    ax: Any = ed.plots.extinct_fraction(ensemble, band=band)
    line: Any = ax.lines[0]
    t = np.asarray(line.get_xdata())
    deaths = ensemble.extinction_time
    expected = [(deaths <= time).mean() for time in t]
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
    height = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert height.min() >= 0 and height.max() <= 1


def test_the_fraction_extinct_ends_with_the_last_member() -> None:
    cases = [landscapes.Constant(C), landscapes.Constant(2 * C)]
    stopping = ed.Extinction(1e-3, "stop")
    ensemble = ed.solve_ensemble(REPLICATOR, cases, np.ones(4), (0.0, 100.0), extinction=stopping)
    (line,) = ed.plots.extinct_fraction(ensemble).lines
    assert 0 < np.max(line.get_xdata()) <= max(run.t_span[1] for run in ensemble) < 20


def test_the_fraction_extinct_of_a_run_steps_where_groups_die() -> None:
    run = a_run()
    (line,) = ed.plots.extinct_fraction(run).lines
    deaths = np.sort(run.extinction_time[np.isfinite(run.extinction_time)])
    np.testing.assert_array_equal(line.get_xdata(), [0.0, *deaths, 20.0])
    np.testing.assert_array_equal(
        line.get_ydata(), [0.0, *np.arange(1, len(deaths) + 1) / 4, len(deaths) / 4]
    )


def test_areas_of_a_muller_plot_are_the_shares() -> None:
    run = a_run(landscapes.LinearDecay(C, 0.1))
    ax: Any = ed.plots.muller(run)
    fittest_first = np.argsort(-C)
    below = np.zeros(len(run.t))
    for area, group in zip(ax.collections, fittest_first, strict=True):
        points = {(x, y) for x, y in area.get_paths()[0].vertices.tolist()}
        above = below + run.shares[:, group]
        for height in (below, above):
            drawn = np.array(sorted(points))
            assert all(
                np.abs(drawn - point).max(axis=1).min() < 1e-12 for point in zip(run.t, height, strict=True)
            )
        below = above


def places(ax: Any, marker: dict[str, Any]) -> list[list[float]]:
    """Return where marks of a kind are, sorted."""
    return sorted(
        np.round([line.get_xdata()[0], line.get_ydata()[0]], 9).tolist()
        for line in ax.lines
        if line.get_marker() == marker["marker"] and line.get_markerfacecolor() == marker["markerfacecolor"]
    )


@pytest.mark.parametrize("game", [ROCK, COORDINATION], ids=["rock-paper-scissors", "coordination"])
def test_rest_points_are_marked_at_their_barycentric_places(game: Any) -> None:
    ax = ed.plots.simplex(REPLICATOR, game, speed=False)
    points = ed.all_equilibria(REPLICATOR, game)
    for kind, marker in MARKERS.items():
        expected = sorted(np.round(p.masses @ TRIANGLE, 9).tolist() for p in points if p.stability is kind)
        assert places(ax, marker) == expected
    # Of the coordination game: x_i = (1/a_i)/Σ(1/a_j) at the mixture of all, which repels.
    if game is COORDINATION:
        assert np.round(np.array([6, 3, 2]) / 11 @ TRIANGLE, 9).tolist() in places(
            ax, MARKERS[ed.Stability.UNSTABLE]
        )


def test_neutral_rest_points_are_joined_only_where_all_between_is_at_rest() -> None:
    twins = landscapes.Redundancy([1.0, 1.0, 0.8], [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], 1.0)
    ax: Any = ed.plots.simplex(REPLICATOR, twins, total_mass=3.0)
    lines = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert lines
    velocity = share_velocity(REPLICATOR, twins, 3.0)
    for line in lines:
        one, other = line.get_xydata()
        inside = shares_at(one + np.linspace(0, 1, 7)[:, None] * (other - one))
        assert np.abs(velocity(inside)).max() < 1e-12


def test_the_flow_is_that_of_shares_at_the_total_mass() -> None:
    landscape = landscapes.LinearDecay([3.0, 2.0, 0.0], 1.0)
    x = np.array([[0.5, 0.3, 0.2]])
    fitness = np.array([3.0, 2.0, 0.0]) - 2.0 * x[0]
    expected = x[0] * (fitness - x[0] @ fitness)
    np.testing.assert_allclose(share_velocity(REPLICATOR, landscape, 2.0)(x)[0], expected, rtol=1e-14)
    entropic = landscapes.Entropic([1.0, 0.5, 0.0], 0.3)  # infinite fitness of those who are absent
    assert np.isfinite(share_velocity(REPLICATOR, entropic, 1.0)(np.array([[1.0, 0.0, 0.0]]))).all()


def test_basins_are_those_of_the_game() -> None:
    ax = ed.plots.simplex(REPLICATOR, landscapes.MatrixGame(np.eye(3)), basins=True, rest_points=False)
    assert len(ax.collections) >= 3  # one ground for each corner, and the streamlines
    assert "basins" in ax.texts[-1].get_text()


def test_a_tetrahedron_keeps_its_rest_points_and_its_nearest_corner() -> None:
    landscape = landscapes.LinearDecay([3.0, 2.5, 2.0, 0.0], 1.0)
    view = (30.0, 20.0)
    ax = ed.plots.tetrahedron(REPLICATOR, landscape, total_mass=4.0, starts=2, view=view)
    corners, depth = corners_seen(view)
    stable = ed.equilibrium(REPLICATOR, landscape, total_mass=4.0).masses / 4
    assert places(ax, MARKERS[ed.Stability.STABLE]) == [np.round(stable @ corners, 9).tolist()]
    edges = [line for line in ax.lines if line.get_zorder() == 1]
    assert len(edges) == 6
    # Distances in space are those of the picture and of depth: all edges are equally long.
    solid = np.column_stack((corners, depth))
    lengths = [np.linalg.norm(solid[i] - solid[j]) for i in range(4) for j in range(i)]
    np.testing.assert_allclose(lengths, lengths[0])


def test_layers_of_a_network_are_told_apart() -> None:
    signals = np.random.default_rng(0).lognormal(size=(30, 12))
    landscape = landscapes.Recorded(np.arange(31.0), signals, 1e-3)
    run = ed.iterate(ed.Populations(REPLICATOR, (8, 4)), landscape, np.ones(12), 30, 1.0)
    ax = ed.plots.network(run, threshold=0.5)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), np.median(run.masses[:, 8:], axis=1), rtol=1e-14)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["layer 1", "layer 2"]
    data = run.to_xarray()
    np.testing.assert_array_equal(ed.plots.network(data).lines[0].get_ydata(), ax.lines[0].get_ydata())


SHOWN: dict[str, Callable[[], Axes]] = {
    "few": lambda: a_run().plot(),
    "blocks": lambda: RUNS["blocks"]().plot(),
    "long names": lambda: ed.plots.masses(a_run(), names=["oak", "birch", "beech", "ash"]),
    "areas": lambda: ed.plots.muller(a_run(end=60.0)),
    "fraction": lambda: ed.plots.extinct_fraction(an_ensemble()),
    "simplex": lambda: ed.plots.simplex(REPLICATOR, ROCK, names=["rock", "paper", "scissors"]),
    "network": lambda: ed.plots.network(a_run()),
}


def test_a_picture_for_a_notebook_needs_no_pyplot() -> None:
    code = (
        "import sys, evodyn as ed\n"
        "run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1, 1], (0, 1))\n"
        "assert 'data:image/png' in run._repr_html_()\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", SHOWN)
def test_plots_have_no_overlap_and_no_pale_text_in_print(name: str) -> None:
    with plt.rc_context({"font.size": 8}):
        figure: Any = SHOWN[name]().figure
        figure.set_size_inches(3.4, 2.6)
        assert problems(figure) == []
