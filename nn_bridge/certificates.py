"""What theory says of signed selection on a network, as numbers that a run can be checked by."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import evodyn as ed
from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from nn_bridge.layers import PopulationLinear, PopulationWeights, has_masses

__all__ = ["Balance", "balance", "loss_fall", "penalty"]


def loss_fall(
    dynamics: ed.Dynamics,
    masses: npt.ArrayLike,
    benefit: npt.ArrayLike,
    *,
    fitness: npt.ArrayLike | None = None,
    time: float = 0.0,
) -> float:
    """Return how fast the loss falls along the masses, -dL/dt at frozen weights.

    It is Σ_i φ_i dp_i/dt with the benefits φ_i = -∂L/∂p_i. Under the replicator, with fitness the benefit
    itself, it is P·Var_x(φ), the variance of fitness over the shares times total mass (Fisher's theorem);
    under growth by fitness, ``evodyn.Selection(lambda masses, fitness: fitness)``, it is Σ p_i φ_i². A step
    of size η lowers the loss of the same batch by η times as much, to first order.

    Parameters
    ----------
    dynamics : evodyn.Dynamics
        Of the masses.
    masses : array_like, shape (groups,)
        p_i.
    benefit : array_like, shape (groups,)
        -∂L/∂p_i, what `Benefit` without smoothing measures.
    fitness : array_like, shape (groups,), optional
        What the dynamics sees, where that is not the benefit alone: less a price, smoothed.
    time : float, optional
        For dynamics that depend on it.

    Examples
    --------
    >>> p, benefit = np.array([1.0, 3.0]), np.array([2.0, -2.0])
    >>> loss_fall(ed.Replicator(), p, benefit), 4 * np.average((benefit - -1.0) ** 2, weights=p)
    (12.0, 12.0)
    """
    p, phi = (np.asarray(array, dtype=float) for array in (masses, benefit))
    seen = phi if fitness is None else np.asarray(fitness, dtype=float)
    return float(phi @ dynamics.velocity(p, seen, time=time))


def penalty(
    strength: npt.ArrayLike, cost: npt.ArrayLike, weight_decay: float, *, one_sided: bool = False
) -> FloatArray:
    """Return the least that a neuron of a given effective strength can cost, in units of the loss.

    A ReLU neuron does the same for all p, ‖w_in‖ and ‖w_out‖ of the same product m. With weight decay
    on both sides c p + ½λ(‖w_in‖² + ‖w_out‖²) is at least 2√(λ c m), which grows ever more slowly: strong
    neurons are hardly held back, weak ones die. With weight decay on the incoming side alone and ‖w_out‖ = 1
    held fixed it is at least (3/2) λ^⅓ (c m)^⅔.

    Parameters
    ----------
    strength : array_like
        m >= 0.
    cost : array_like
        c >= 0 for each unit of mass.
    weight_decay : float
        λ >= 0, in PyTorch's convention.
    one_sided : bool, optional
        Whether only the incoming side is decayed, the other one fixed.

    Raises
    ------
    ValueError
        If an argument is negative or not finite.

    Examples
    --------
    >>> penalty([1.0, 4.0], cost=0.01, weight_decay=0.04)
    array([0.04, 0.08])
    """
    m = validation.finite_array("strength", strength, least=0.0)
    c = validation.finite_array("cost", cost, least=0.0)
    decay = validation.non_negative("weight_decay", weight_decay)
    if one_sided:
        return np.asarray(1.5 * np.cbrt(decay) * np.cbrt(c * m) ** 2)
    return np.asarray(2 * np.sqrt(decay * c * m))


@dataclasses.dataclass(frozen=True, eq=False)
class Balance:
    """What every neuron pays on its three sides; for those alive at rest all three are the same.

    Parameters
    ----------
    masses : array, shape (groups,)
        p_i; the dead are at 0.
    paid : array, shape (groups,)
        c_i p_i.
    incoming, outgoing : array, shape (groups,)
        λ‖w_in,i‖² and λ‖w_out,i‖².
    """

    masses: FloatArray
    paid: FloatArray
    incoming: FloatArray
    outgoing: FloatArray

    @property
    def gap(self) -> FloatArray:
        """By how much the largest of the three exceeds the smallest, relative to it; NaN for the dead."""
        sides = np.stack([self.paid, self.incoming, self.outgoing])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.masses > 0, sides.max(0) / sides.min(0) - 1, np.nan)

    @property
    def penalty(self) -> FloatArray:
        """What the neuron costs: c_i p_i and half of both other sides; compare with `penalty`."""
        return np.where(self.masses > 0, self.paid + 0.5 * (self.incoming + self.outgoing), 0.0)


def balance(
    model: nn.Module, cost: npt.ArrayLike, weight_decay: float, *, decayed_bias: bool = True
) -> Balance:
    """Return the certificate of rest under selection at a constant cost, neuron by neuron.

    With growth by the benefit less a cost c_i, and weight decay λ on all weights, every living neuron of a
    positively homogeneous activation (ReLU) is at rest where c_i p_i = λ‖w_in,i‖² = λ‖w_out,i‖².

    Parameters
    ----------
    model : torch.nn.Module
        A chain of linear layers, such as `population_mlp`.
    cost : array_like
        c_i >= 0: a number, or one for each group in the order of `population_layers`.
    weight_decay : float
        λ >= 0, what the optimiser calls ``weight_decay``.
    decayed_bias : bool, optional
        Whether the biases are decayed too. They belong to w_in then, where masses scale them.

    Raises
    ------
    ValueError
        If the linear layers are no chain, the last one has masses, or a number is negative or not finite.

    Examples
    --------
    >>> import nn_bridge as nb
    >>> model = nb.population_mlp((2, 3, 2))
    >>> found = balance(model, cost=0.01, weight_decay=0.001)
    >>> found.paid, found.gap.shape
    (array([0.01, 0.01, 0.01]), (3,))
    """
    decay = validation.non_negative("weight_decay", weight_decay)
    linear: list[Any] = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear | PopulationLinear | PopulationWeights)
    ]
    sizes = [tuple(module.weight.shape) for module in linear]
    chain = all(before[0] == after[1] for before, after in itertools.pairwise(sizes))
    populated = [module for module in model.modules() if has_masses(module)]
    if not chain or not populated or populated != [module for module in linear[:-1] if has_masses(module)]:
        raise ValueError(
            f"model has linear layers of shapes {sizes}, {len(populated)} modules with masses; expected a "
            "chain of linear layers, where only the last has none: as population_mlp makes it."
        )
    masses: list[torch.Tensor] = []
    incoming: list[torch.Tensor] = []
    outgoing: list[torch.Tensor] = []
    with torch.no_grad():
        for layer, following in itertools.pairwise(linear):
            if has_masses(layer):
                squares = layer.weight.double().square().sum(1)
                if decayed_bias and layer.bias is not None and not isinstance(layer, PopulationWeights):
                    squares = squares + layer.bias.double().square()
                masses.append(layer.masses)
                incoming.append(decay * squares)
                outgoing.append(decay * following.weight.double().square().sum(0))
    p, into, out = (torch.cat(parts).cpu().numpy().astype(float) for parts in (masses, incoming, outgoing))
    c = validation.finite_array("cost", cost, least=0.0)
    if c.shape not in ((), p.shape):
        raise ValueError(f"cost has shape {c.shape}; expected a number, or {p.shape}, one for each group.")
    return Balance(p, c * p, into, out)
