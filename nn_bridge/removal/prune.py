"""Which groups are removed: those below a threshold, or the smallest."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Literal

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
        layer, NaN: there is one for each layer).
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
        If a layer's last group was kept; the layer is named.

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
    scope: Literal["global", "layer"] = "global",
    allow_empty: bool = False,
) -> PruneReport:
    """Set the round(qN) smallest masses to 0, in place; of equal masses those with lower index first.

    Parameters
    ----------
    model : torch.nn.Module
        A network with population layers.
    sparsity : float
        q in [0, 1], the fraction of all N groups.
    scope : {"global", "layer"}, optional
        Rank all groups together, or take the fraction from every layer.
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
        If a layer's last group was kept; the layer is named.
    """
    sparsity = validation.non_negative("sparsity", sparsity)
    if sparsity > 1:
        raise ValueError(f"sparsity is {sparsity!r}; expected a fraction in [0, 1].")
    validation.choice("scope", scope, ("global", "layer"))
    parts = _masses(model)
    joint = np.concatenate(parts)
    if scope == "global":
        due = np.split(_smallest(joint, sparsity), np.cumsum([len(p) for p in parts])[:-1])
        epsilon = float(np.quantile(joint, sparsity))
    else:
        due = [_smallest(part, sparsity) for part in parts]
        epsilon = math.nan
    return _remove(model, due, epsilon, allow_empty, refill=scope == "global")


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
    model: nn.Module, due: Sequence[np.ndarray], epsilon: float, allow_empty: bool, *, refill: bool = False
) -> PruneReport:
    layers, masses, names = population_layers(model), _masses(model), _names(model)
    protected = []
    for layer, mask, mass in zip(layers, due, masses, strict=True):
        if mask.all() and mass.any() and not allow_empty:
            mask[np.lexsort((np.arange(len(mass)), mass))[-1]] = False
            protected.append(names[layer])
    if refill and protected:
        _refill(due, masses, len(protected))
    for layer, mask in zip(layers, due, strict=True):
        layer.masses[torch.from_numpy(mask).to(layer.masses.device)] = 0.0
    if protected:
        warnings.warn(
            f"every group of {', '.join(protected)} was due for removal; the largest of each was kept: "
            "pass allow_empty=True to remove it too.",
            stacklevel=3,
        )
    living = tuple(int((layer.masses > 0).sum()) for layer in layers)
    groups = sum(len(mass) for mass in masses)
    return PruneReport(epsilon, groups, groups - sum(living), living, tuple(protected))


def _refill(due: Sequence[np.ndarray], masses: Sequence[np.ndarray], count: int) -> None:
    """Mark `count` further groups, smallest first, none the last of its layer."""
    ranked = sorted(
        (mass, layer, index) for layer, part in enumerate(masses) for index, mass in enumerate(part)
    )
    for _, layer, index in ranked:
        if not count:
            return
        if not due[layer][index] and (~due[layer]).sum() > 1:
            due[layer][index] = True
            count -= 1
