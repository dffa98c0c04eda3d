"""What is known of heterogeneity and of extinctions after a part of the record (studies/inference.py)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

import style

NEVER = 3.0
"""Where times without an end are drawn, in lengths of the record."""
RARE = 1e-3
"""Share below which a lineage counts as extinct, as in the study."""
FIRST_WEEK = 8
"""Where its fits begin."""


def main() -> None:
    """Draw the figure from results/inference, or from the folder given as argument."""
    data = style.read("inference", "inference.nc")
    given = style.specification(data)
    style.start()
    figure, panels = plt.subplots(2, 3, figsize=(style.WIDTH, 4.8))
    (spread, width, *deaths), (third, *lineages) = panels
    heterogeneity(spread, data)
    precision(width, data)
    middle = float(data.heterogeneity.values[len(data.heterogeneity) // 2])
    one = data.sel(heterogeneity=middle).isel(seed=0)
    parts = data.part.values
    early = float(parts[min(2, len(parts) - 1)])
    who_dies(deaths[0], one.sel(part=early), given["t_end"])
    future(third, data)
    shares(lineages[0], data)
    last_cases(lineages[1], data)
    titles = (
        "Heterogeneity, found / true",
        "Width of its interval / true",
        "Who dies when",
        "Deaths: interval of the time",
        "Lineages of a virus",
        "When BA.1 died out",
    )
    for letter, axes, title in zip("abcdef", panels.flat, titles, strict=True):
        style.letter(axes, letter, title)
    style.key(
        figure,
        [
            style.symbol("estimate (e: record), with 95 % interval (a: 90 % of populations)", "o"),
            style.symbol("the truth", line="-", color=style.GREY, linewidth=0.8),
            style.symbol("no upper end (c), end of the fit (e)", line=":", color=style.GREY, linewidth=0.8),
        ],
    )
    style.save(
        figure,
        "inference",
        [
            f"(a-d) {given['groups']} groups of equal mass with {given['kind']} fitness of mean 1 and "
            "coefficient of variation h; constant-fitness selection fitted to the first part of a record of "
            f"{given['sample']} individuals at {given['saved_times']} times up to t = {given['t_end']:g}. "
            f"{given['seeds']} populations, darker the larger h.",
            "(a) Estimated over true standard deviation of fitness: mean, and the middle 90 % of "
            "populations. (b) Mean width of its 95 % interval, relative to the truth.",
            f"(c) Predicted against true times at which masses fall below {given['threshold']:g}, with 95 % "
            f"intervals, after {early:.0%} of the record, for the first population of h = {middle:g}; "
            "intervals without an end reach the dotted line.",
            "(d) Ratio of the ends of that interval: median over groups that die, and over the populations "
            "where it is finite.",
            "(e) Weekly shares of four lineages of SARS-CoV-2 in the United States, weeks since 4 December "
            "2021 (points), and constant-fitness selection fitted to those before the dotted line, with "
            "95 % bands of the shares.",
            "(f) Week in which BA.1 falls below 0.1 % as predicted from ever more weeks, with 95 % "
            "intervals, and as it was (line): the last cases of BA.1 are more than constant fitness has.",
        ],
    )


def colours(data: xr.Dataset, name: str) -> list[tuple[float, float, float]]:
    """Return a colour for each value of a coordinate; the palest of the scale vanishes on white."""
    return style.shades(data.sizes[name] + 1)[1:]


def logarithmic(axes: Axes, ticks: list[float], name: str = "y") -> None:
    """Make an axis logarithmic, with plain numbers at these ticks."""
    axis = axes.yaxis if name == "y" else axes.xaxis
    axes.set(**{f"{name}scale": "log"})
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def heterogeneity(axes: Axes, data: xr.Dataset) -> None:
    """Draw the estimated heterogeneity, relative to the true one, against the part seen."""
    ratio = data.heterogeneity_value / data.true_heterogeneity
    for h, colour in zip(data.heterogeneity.values, colours(data, "heterogeneity"), strict=True):
        own = ratio.sel(heterogeneity=h)
        low, high = own.quantile([0.05, 0.95], dim="seed").values
        axes.fill_between(data.part, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(data.part, own.mean("seed"), "o-", color=colour, label=f"h = {h:g}", **style.RIM)
    axes.axhline(1.0, color=style.GREY, linewidth=0.7, zorder=0)
    axes.set(xlabel="part of the record seen", ylabel="found / true", ylim=(0, None))
    axes.legend(frameon=False, loc="lower right", fontsize=7)


def precision(axes: Axes, data: xr.Dataset) -> None:
    """Draw the width of the interval of heterogeneity."""
    width = (data.heterogeneity_high - data.heterogeneity_low) / data.true_heterogeneity
    for h, colour in zip(data.heterogeneity.values, colours(data, "heterogeneity"), strict=True):
        axes.plot(data.part, width.sel(heterogeneity=h).mean("seed"), "o-", color=colour, **style.RIM)
    axes.set(xlabel="part of the record seen", ylabel="relative width")
    logarithmic(axes, [0.1, 0.2, 0.5, 1.0, 2.0])


def who_dies(axes: Axes, cell: xr.Dataset, t_end: float) -> None:
    """Draw predicted against true extinction times of one population."""
    truth = cell.true_extinction_time.values
    dies = np.isfinite(truth) & np.isfinite(cell.extinction_time_value.values)
    value, low, high = (cell[f"extinction_time_{end}"].values[dies] for end in ("value", "low", "high"))
    top = NEVER * max(t_end, float(truth[dies].max()), float(value.max()))
    bounded = np.where(np.isfinite(high), high, top)
    bars = np.abs([value - low, np.minimum(bounded, top) - value])
    axes.errorbar(truth[dies], value, bars, fmt="o", color=style.OURS, ecolor=style.OURS, elinewidth=0.8)
    ends = [0.7 * float(np.min([truth[dies].min(), low.min()])), 1.2 * top]
    axes.plot(ends, ends, color=style.GREY, linewidth=0.7, zorder=0)
    axes.axhline(top, color=style.GREY, linewidth=0.7, linestyle=":")
    axes.set(xlabel="true time", ylabel="predicted time")
    for name in "xy":
        logarithmic(axes, [5.0, 20.0, 100.0, 500.0, 2000.0], name)
    axes.set(xlim=(0.7 * truth[dies].min(), 1.5 * truth[dies].max()), ylim=ends)


def future(axes: Axes, data: xr.Dataset) -> None:
    """Draw how far apart the ends of the intervals of extinction times are."""
    for h, colour in zip(data.heterogeneity.values, colours(data, "heterogeneity"), strict=True):
        own = data.time_factor.sel(heterogeneity=h)
        factor = own.where(np.isfinite(own)).median("seed")
        axes.plot(data.part, factor, "o-", color=colour, **style.RIM)
    axes.set(xlabel="part of the record seen", ylabel="upper / lower end")
    logarithmic(axes, [1.0, 1.2, 1.5, 2.0, 5.0, 10.0, 50.0])


def shares(axes: Axes, data: xr.Dataset) -> None:
    """Draw the shares of lineages, and what the first weeks said of them."""
    first = data.isel(last_week=0).sel(week=slice(FIRST_WEEK, None))
    places = {"BA.1": (11.0, 0.985), "BA.2": (8.2, 0.07), "BA.2.12.1": (17.3, 0.95), "BA.4/5": (8.0, 2.5e-3)}
    for name, colour in zip(first.lineage.values, colours(data, "lineage"), strict=True):
        own = first.sel(lineage=name)
        axes.plot(first.week, own.share.where(own.share > 0), ".", color=colour, markersize=4)
        axes.plot(first.week, own.predicted_share_value, color=colour, linewidth=1)
        low, high = own.predicted_share_low, own.predicted_share_high
        axes.fill_between(first.week, low, high, color=colour, alpha=0.2, linewidth=0)
        style.label_line(axes, *places[str(name)], str(name), colour, shift=(0, 0))
    axes.axvline(float(first.last_week) + 0.5, color=style.GREY, linewidth=0.7, linestyle=":")
    axes.set(xlabel="week", ylabel="share", yscale="logit", ylim=(1e-5, 0.9995))
    axes.yaxis.set_major_locator(FixedLocator([1e-4, 1e-2, 0.5, 0.99]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def last_cases(axes: Axes, data: xr.Dataset) -> None:
    """Draw the predicted week of the end of BA.1 against the last week that the fit has seen."""
    own = data.sel(lineage="BA.1")
    share = own.share.values
    died = float(data.week.values[(share < RARE) & (data.week.values > FIRST_WEEK)][0])
    low, high, value = (own[f"week_extinct_{end}"].values for end in ("low", "high", "value"))
    axes.errorbar(
        data.last_week, value, [value - low, high - value], fmt="o", color=style.OURS, elinewidth=0.8
    )
    axes.axhline(died, color=style.GREY, linewidth=0.9)
    last = float(data.last_week.values[-1])
    style.label_line(
        axes, last, died, f"it was week {died:g}", style.GREY, shift=(0, -2), ha="right", va="top"
    )
    axes.set(xlabel="last week seen", ylabel="week below 0.1 %")


if __name__ == "__main__":
    main()
