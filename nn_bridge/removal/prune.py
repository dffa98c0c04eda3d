"""Which groups are removed: those below a threshold, or the smallest."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from evodyn.core import validation
from nn_bridge.layers import PopulationLayer, population_layers

__all__ = ["PruneReport", "checked_masses", "prune", "prune_to_sparsity"]


@dataclasses.dataclass(frozen=True)
class PruneReport:
    """What a removal did.

    Parameters
    ----------
    epsilon : float
        ε: the threshold that was given, or the empirical q-quantile of the masses (for removal layer by
        layer or kind by kind, NaN: there are several).
    groups : int
        Number of groups in all layers.
    removed : int
        Number of groups now at mass 0, those that were there before included.
    living : tuple of int
        Number of groups left in each layer.
    protected : tuple of str
        Layers whose last group was kept although it was due.
    """

    epsilon: float
    groups: int
    removed: int
    living: tuple[int, ...]
    protected: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """Fraction of groups removed."""
        return self.removed / self.groups


def prune(model: nn.Module, threshold: float, *, allow_empty: bool = False) -> PruneReport:
    """Set the mass of every group with p_i < ε to 0, in place (Eq. 15).

    Parameters
    ----------
    model : torch.nn.Module
        A network with population layers.
    threshold : float
        ε >= 0; a mass equal to it is kept.
    allow_empty : bool, optional
        Let a layer lose all its groups. By default its largest one (of equals the last) is kept.

    Returns
    -------
    PruneReport
        What was removed.

    Raises
    ------
    ValueError
        If the threshold or a mass is negative or not finite, or the model has no population layer.

    Warns
    -----
    UserWarning
        If a layer's last group was kept, or a selector's mutation will bring back what is removed; the
        layer is named.

    Examples
    --------
    >>> from nn_bridge import population_layers, population_mlp
    >>> model = population_mlp((4, 3, 2))
    >>> population_layers(model)[0].masses[:] = torch.tensor([0.2, 0.5, 1.0])
    >>> prune(model, 0.5)
    PruneReport(epsilon=0.5, groups=3, removed=1, living=(2,), protected=())
    """
    threshold = validation.non_negative("threshold", threshold)
    parts = _masses(model)
    return _remove(model, [part < threshold for part in parts], threshold, allow_empty)


def prune_to_sparsity(
    model: nn.Module,
    sparsity: float,
    *,
    scope: Literal["global", "layer", "kind"] | None = None,
    allow_empty: bool = False,
) -> PruneReport:
    """Set the round(qN) smallest masses to 0, in place; of equal masses those with lower index first.

    Parameters
    ----------
    model : torch.nn.Module
        A network with population layers.
    sparsity : float
        q in [0, 1], the fraction of all N groups.
    scope : {"global", "layer", "kind"}, optional
        Rank all groups together, or take the fraction from every layer, or from all groups of every kind.
        By default "kind" where the layers are of several kinds, else "global".
    allow_empty : bool, optional
        Let a layer lose all its groups. By default its largest one is kept, and the next in rank goes
        in its place, as long as any other group is left.

    Returns
    -------
    PruneReport
        What was removed, and the q-quantile of the masses as ε.

    Raises
    ------
    ValueError
        If `sparsity` is outside [0, 1], a mass is negative or not finite, or the model has no population
        layer.

    Warns
    -----
    UserWarning
        If a layer's last group was kept, or a selector's mutation will bring back what is removed; the
        layer is named.
    """
    sparsity = validation.non_negative("sparsity", sparsity)
    if sparsity > 1:
        raise ValueError(f"sparsity is {sparsity!r}; expected a fraction in [0, 1].")
    kinds = [layer.kind for layer in population_layers(model)]
    if scope is None:
        scope = "kind" if len(set(kinds)) > 1 else "global"
    validation.choice("scope", scope, ("global", "layer", "kind"))
    parts = _masses(model)
    # Layers of one rank are ranked together.
    choices: dict[str, list[Any]] = {"global": [0] * len(parts), "layer": list(range(len(parts)))}
    ranks = (choices | {"kind": kinds})[scope]
    due = [np.zeros(len(part), dtype=bool) for part in parts]
    for rank in dict.fromkeys(ranks):
        same = [k for k, own in enumerate(ranks) if own == rank]
        smallest = _smallest(np.concatenate([parts[k] for k in same]), sparsity)
        ends = np.cumsum([len(parts[k]) for k in same])[:-1]
        for k, mask in zip(same, np.split(smallest, ends), strict=True):
            due[k] = mask
    together = scope != "layer" and len(set(ranks)) == 1
    epsilon = float(np.quantile(np.concatenate(parts), sparsity)) if together else math.nan
    return _remove(model, due, epsilon, allow_empty, ranks=() if scope == "layer" else ranks)


def _names(model: nn.Module) -> dict[nn.Module, str]:
    return {module: name or "model" for name, module in model.named_modules()}


def _masses(model: nn.Module) -> list[np.ndarray]:
    names = _names(model)
    return [checked_masses(names[layer], layer) for layer in population_layers(model)]


def checked_masses(name: str, layer: PopulationLayer) -> np.ndarray:
    """Return a copy of a layer's masses if they are masses."""
    return validation.finite_array(f"masses of {name}", layer.masses, ndim=1, least=0.0)


def _smallest(masses: np.ndarray, fraction: float) -> np.ndarray:
    """Return a mask of the round(fraction·N) smallest masses, ties by index."""
    mask = np.zeros(len(masses), dtype=bool)
    mask[np.argsort(masses, kind="stable")[: round(fraction * len(masses))]] = True
    return mask


def _remove(
    model: nn.Module,
    due: Sequence[np.ndarray],
    epsilon: float,
    allow_empty: bool,
    *,
    ranks: Sequence[Any] = (),
) -> PruneReport:
    """Set masses to 0 where they are due; with `ranks`, the next of the same rank go for what is kept."""
    layers, masses, names = population_layers(model), _masses(model), _names(model)
    protected = []
    for k, (layer, mask, mass) in enumerate(zip(layers, due, masses, strict=True)):
        if mask.all() and mass.any() and not (allow_empty or layer.population.may_vanish):
            mask[np.lexsort((np.arange(len(mass)), mass))[-1]] = False
            protected.append(k)
    for k in protected if ranks else ():
        _refill(due, [mass if ranks[other] == ranks[k] else mass[:0] for other, mass in enumerate(masses)])
    for layer, mask in zip(layers, due, strict=True):
        layer.masses[torch.from_numpy(mask).to(layer.masses.device)] = 0.0
    kept = tuple(names[layers[k]] for k in protected)
    if kept:
        warnings.warn(
            f"every group of {', '.join(kept)} was due for removal; the largest of each was kept: "
            "pass allow_empty=True to remove it too.",
            stacklevel=3,
        )
    revived = [
        names[layer]
        for layer, mask in zip(layers, due, strict=True)
        if mask.any() and layer.population.revives
    ]
    if revived:
        warnings.warn(
            f"a further step of the selector will bring groups of {', '.join(revived)} back by mutation; "
            "expected dynamics without mutation, or a Selector with extinction=evodyn.Extinction(threshold, "
            "'absorb').",
            stacklevel=3,
        )
    living = tuple(int((layer.masses > 0).sum()) for layer in layers)
    groups = sum(len(mass) for mass in masses)
    return PruneReport(epsilon, groups, groups - sum(living), living, kept)


def _refill(due: Sequence[np.ndarray], masses: Sequence[np.ndarray]) -> None:
    """Mark one further group, the smallest that is not the last of its layer."""
    ranked = sorted(
        (mass, layer, index) for layer, part in enumerate(masses) for index, mass in enumerate(part)
    )
    for _, layer, index in ranked:
        if not due[layer][index] and (~due[layer]).sum() > 1:
            due[layer][index] = True
            return
