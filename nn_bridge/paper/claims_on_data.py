"""What the project's notes claim of trained networks, checked by the runs of a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from nn_bridge.paper.claims import Claim, clip_floor
from nn_bridge.paper.readings import Finalist, Trial, name

__all__ = ["DIGITS", "NOTED", "SHOWN", "measured_claims"]

# The readings that the project's notes report: what each departs in, its ε at 35 to 50 %, sparsities (in
# percent) at 0.7 to 0.9, and accuracies at 35 and 50 %.
NOTED: tuple[tuple[dict[str, Any], tuple[float, ...], tuple[float, ...], tuple[float, ...]], ...] = (
    ({}, (0.9992, 0.9994, 0.9995, 0.9997), (0, 0, 0), (0.9747, 0.9642)),
    ({"relative": "mean"}, (0.757, 0.781, 0.803, 0.821), (21, 44, 64), (0.9783, 0.9732)),
    ({"relative": "zscore"}, (0.829, 0.837, 0.847, 0.853), (0, 19, 68), (0.9779, 0.9688)),
    ({"summed": True}, (0.897, 0.911, 0.926, 0.937), (0, 8, 36), (0.9748, 0.9688)),
    (
        {"relative": "mean", "smoothing": 0.99},
        (0.6276, 0.6414, 0.6598, 0.6820),
        (52, 57, 61),
        (0.9801, 0.9778),
    ),
    (
        {"relative": "mean", "smoothing": 0.9, "per_sample": True, "standardise": False},
        (0.6284, 0.6370, 0.6589, 0.6922),
        (51, 58, 62),
        (0.9766, 0.9644),
    ),
)
NOTED_WITHIN = {"epsilon": 0.01, "sparsity_percent": 3.0, "accuracy": 0.005}
DIGITS = {"epsilon": 4, "sparsity_percent": 1, "accuracy": 4}
SHOWN = {"epsilon": "ε", "sparsity_percent": "sparsity", "accuracy": "acc."}


def measured_claims(trials: list[Trial], final: list[Finalist]) -> list[Claim]:
    """Check the claims that need training, at full size."""
    found: list[Claim] = []
    if trials[0].experiment.train_samples is not None:
        return found
    gaps = [
        (finalist, masses_gap(finalist, 1.0), masses_gap(finalist, "uniform_share"))
        for finalist in final
        if finalist.experiment.clipped == "difference"
    ]
    if gaps:
        finalist, one, share = gaps[0]
        found.append(
            Claim(
                "4",
                "on data: mutation to 1.0 lifts ε by 0.0016 ± 0.0005 at 35 %, mutation to 1/768 lowers it",
                f"{name(finalist.experiment)}: {one:+.4f} and {share:+.4f}",
                abs(one - 0.0016) <= 5e-4 and share < 0,
            )
        )
    lowest = min(
        float(trial.result["mass"].min())
        for trial in trials
        if trial.result is not None and trial.experiment.clipped == "difference"
        if not trial.experiment.trained_masses  # SGD takes them below
    )
    floor = clip_floor(trials[0].experiment)
    found.append(
        Claim(
            "5",
            "on data: no mass of any reading with that clip is below the floor",
            f"smallest final mass {lowest:.6f}, floor {floor:.6f}",
            lowest >= floor * (1 - 1e-9),
        )
    )
    cap = ", ".join(f"{name(f.experiment)}: {f.cap_effect:.1g}" for f in final)
    found.append(
        Claim(
            "1",
            "on data: replicator and normalised growth have the same final masses to 4 digits",
            cap,
            all(f.same for f in final),
        )
    )
    results = {name(trial.experiment): trial.result for trial in trials}
    for changes, epsilons, sparsities, accuracies in NOTED:
        experiment = dataclasses.replace(trials[0].experiment, **changes)
        result = results.get(name(experiment))
        if result is not None:
            found.append(noted_claim(name(experiment), result, epsilons, sparsities, accuracies))
    return found


def noted_claim(
    reading: str,
    result: xr.Dataset,
    epsilons: Sequence[float],
    sparsities: Sequence[float],
    accuracies: Sequence[float],
) -> Claim:
    """Compare a run with what the notes report of the same reading from a throw-away script."""
    apart = {
        "epsilon": np.abs(result["epsilon_at_sparsity"].values - epsilons).max(),
        "sparsity_percent": np.abs(100 * result["removed_at_threshold"].values[1:] - sparsities).max(),
        "accuracy": np.abs(result["accuracy_at_sparsity"].values[[0, -1]] - accuracies).max(),
    }
    return Claim(
        "table",
        f"the notes' figures for: {reading}",
        ", ".join(f"{SHOWN[key]} within {value:.{DIGITS[key]}f}" for key, value in apart.items()),
        all(value <= NOTED_WITHIN[key] for key, value in apart.items()),
    )


def masses_gap(finalist: Finalist, target: Any) -> float:
    """Return by how much mutation to a target moves the first threshold of Table 1."""
    run = finalist.runs["mutation"][0] if target == finalist.target else finalist.other_target
    return float(run["epsilon_at_sparsity"][0] - finalist.runs["replicator"][0]["epsilon_at_sparsity"][0])
