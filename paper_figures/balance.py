"""What neurons pay at rest under signed selection, against theory (studies/balance.py)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style

SIDES = {"incoming": ("o", style.OURS, "λ‖w_in‖²"), "outgoing": ("^", style.PAPER, "λ‖w_out‖²")}
NETWORKS = {
    "both_sides": ("o", style.OURS, "both sides: m^½"),
    "one_side": ("s", style.PAPER, "one side: m^⅔"),
}


def main() -> None:
    """Draw the figure from results/balance, or from the folder given as argument."""
    data = style.read("balance", "balance.nc")
    rest = style.specification(data)["rest"]
    style.start()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(style.WIDTH, 2.6))
    sides(left, data)
    style.letter(left, "a", "Three sides of a neuron at rest")
    approach(middle, data)
    style.letter(middle, "b", "The way there")
    penalties(right, data, rest)
    style.letter(right, "c", "What strength costs")
    style.save(
        figure,
        "balance",
        [
            f"Small networks on {rest['samples']} images of MNIST (7 × 7 pixels) at constant price "
            f"c = {rest['price']:g} and weight decay λ = {rest['weight_decay']:g}, trained with all samples "
            f"at once for {rest['steps']} steps.",
            "(a) λ‖w‖² of the incoming and of the outgoing weights of every living neuron at the end against "
            "c p; line: equal. (b) Largest and median distance between the three, relative, over the steps. "
            "(c) What a neuron pays, c p and half of λ‖w‖², against its effective strength m: with decay on "
            "both sides, and on the incoming side alone with the other fixed; lines: 2√(λ c m) and "
            "(3/2) λ^⅓ (c m)^⅔.",
        ],
    )


def sides(axes: Axes, data: xr.Dataset) -> None:
    """Draw both norms against what the mass costs."""
    last = data.isel(check=-1)
    living = last.both_sides_mass.values > 0
    paid = last.both_sides_paid.values[living]
    for name, (marker, colour, label) in SIDES.items():
        values = last[f"both_sides_{name}"].values[living]
        axes.plot(paid, values, marker, color=colour, markersize=4, label=label, **style.RIM)
    axes.axline((paid.mean(), paid.mean()), slope=1, color=style.GREY, linewidth=0.8)
    axes.set(xlabel="c p", ylabel="λ‖w‖²")
    axes.legend(frameon=False, fontsize=7)


def approach(axes: Axes, data: xr.Dataset) -> None:
    """Draw how far the three sides are apart on the way."""
    parts = np.stack([data[f"both_sides_{name}"].values for name in ("paid", "incoming", "outgoing")])
    alive = data.both_sides_mass.values > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.where(alive, parts.max(0) / parts.min(0) - 1, np.nan)
    steps = data.check.values
    for label, values, style_of in (
        ("largest", np.nanmax(gap, axis=1), "-"),
        ("median", np.nanmedian(gap, axis=1), "--"),
    ):
        axes.plot(steps, values, style_of, color=style.OURS, label=label)
    axes.set(xlabel="steps", ylabel="largest side over smallest, less 1", yscale="log")
    axes.legend(frameon=False, fontsize=7)


def penalties(axes: Axes, data: xr.Dataset, rest: dict[str, float]) -> None:
    """Draw what neurons pay against their strength."""
    last, decay, cost = data.isel(check=-1), rest["weight_decay"], rest["price"]
    for name, (marker, colour, label) in NETWORKS.items():
        mass, paid, into, out = (
            last[f"{name}_{key}"].values for key in ("mass", "paid", "incoming", "outgoing")
        )
        alive = mass > 0
        both = name == "both_sides"
        strength = mass * np.sqrt(into * out if both else into * decay) / decay
        total = paid + 0.5 * (into + (out if both else 0.0))
        m = np.geomspace(0.7 * strength[alive].min(), 1.4 * strength[alive].max())
        theory = 2 * np.sqrt(decay * cost * m) if both else 1.5 * np.cbrt(decay) * np.cbrt(cost * m) ** 2
        axes.plot(m, theory, color=colour, linewidth=0.9)
        axes.plot(strength[alive], total[alive], marker, color=colour, markersize=4, label=label, **style.RIM)
    axes.set(xlabel="effective strength m", ylabel="paid (loss)", xscale="log", yscale="log")
    axes.legend(frameon=False, fontsize=7)


if __name__ == "__main__":
    main()
