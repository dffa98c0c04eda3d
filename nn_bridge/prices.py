"""What groups cost: accuracy against size as the fitness of one population."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from evodyn.core import validation
from evodyn.core.specifications import Specification
from evodyn.landscapes import LinearDecay
from evodyn.model.fitness import LandscapeFunction
from nn_bridge.layers import population_layers
from nn_bridge.removal.compact import compact
from nn_bridge.removal.cost import cost

__all__ = ["Priced", "Triangle", "group_costs"]

Schedule = Callable[[float], float]
"""A number that depends on time."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Priced(Specification):
    """Fitness less a price, φ_i = c_i - π(t) k_i - λ p_i: a `landscape` of `Selector`.

    With growth by fitness itself, ``evodyn.Selection(lambda masses, fitness: fitness)``, and `Benefit` as
    the signal this is descent on L + π Σ k_i p_i along the masses: a group lives as long as its mass lowers
    the loss by more than it costs. Where fitness is compared with its mean, only differences of cost act.

    Parameters
    ----------
    price : float or callable
        π >= 0, in units of fitness: a number, or a function of time such as `Triangle`. The time of a step
        is ``selector.steps * selector.step_size``.
    costs : array_like, shape (groups,), optional
        k_i >= 0, see `group_costs`; by default 1 for every group. ``numpy.repeat([1.2, 1.0], (512, 256))``
        is one cost for each layer.
    decay : float, optional
        λ >= 0 of Eq. 10.

    Raises
    ------
    ValueError
        If a number is negative or not finite.

    Examples
    --------
    >>> landscape = Priced(0.5, costs=[1.0, 3.0])
    >>> landscape(torch.tensor([1.0, 1.0]))(0.0, torch.ones(2)).tolist()
    [0.5, -0.5]
    """

    price: float | Schedule
    costs: Any = 1.0
    decay: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.price):
            self._set(price=validation.non_negative("price", self.price))
        costs = validation.finite_array("costs", self.costs, least=0.0)
        if costs.ndim > 1:
            raise ValueError(f"costs has shape {costs.shape}; expected one number for each group.")
        self._set(costs=costs, decay=validation.non_negative("decay", self.decay))

    @functools.cached_property
    def _copies(self) -> dict[torch.device, torch.Tensor]:
        return {}  # one for each device, so that a step moves nothing there

    def _costs_on(self, device: torch.device) -> torch.Tensor | float:
        if not self.costs.ndim:
            return float(self.costs)
        if device not in self._copies:
            self._copies[device] = torch.tensor(self.costs, device=device)
        return self._copies[device]

    def __call__(self, contribution: torch.Tensor) -> LandscapeFunction:
        """Return the landscape of one step's contributions."""
        costs = self._costs_on(contribution.device)
        if self.costs.shape not in ((), tuple(contribution.shape)):
            raise ValueError(
                f"costs has shape {self.costs.shape}; expected {tuple(contribution.shape)}, one number for "
                "each group."
            )
        free = LinearDecay(contribution, self.decay) if self.decay else None

        def priced(time: float, masses: torch.Tensor) -> torch.Tensor:
            price = self.price(time) if callable(self.price) else self.price
            before = contribution if free is None else free(time, masses)
            return before - price * costs

        return priced


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Triangle(Specification):
    """A price that rises linearly from `start` on and falls to 0 at `stop`, with its peak in the middle.

    Parameters
    ----------
    peak : float
        The highest price, in units of fitness.
    start, stop : float
        Times, in units of 1/fitness: numbers of steps times ``step_size``.

    Raises
    ------
    ValueError
        If the peak is negative, or `stop` is not after `start`.

    Examples
    --------
    >>> price = Triangle(2.0, start=1.0, stop=5.0)
    >>> [price(time) for time in (0.0, 2.0, 3.0, 4.5, 9.0)]
    [0.0, 1.0, 2.0, 0.5, 0.0]
    """

    peak: float
    start: float
    stop: float

    def __post_init__(self) -> None:
        start, stop = (validation.finite(name, getattr(self, name)) for name in ("start", "stop"))
        if stop <= start:
            raise ValueError(f"stop is {stop!r}; expected a time after start, {start!r}.")
        self._set(peak=validation.non_negative("peak", self.peak), start=start, stop=stop)

    def __call__(self, time: float) -> float:
        """Return the price at `time`."""
        half = (self.stop - self.start) / 2
        return self.peak * max(0.0, 1 - abs(time - self.start - half) / half)

    def breakpoints(self, t_span: tuple[float, float]) -> list[float]:
        """Return the times at which the slope jumps."""
        return [self.start, (self.start + self.stop) / 2, self.stop]


def group_costs(
    model: nn.Module, example: torch.Tensor, by: Literal["parameters", "macs"] = "parameters"
) -> torch.Tensor:
    """Return what every group costs, in units of the mean over all groups.

    Parameters
    ----------
    model : torch.nn.Module
        A network that `compact` can make smaller. It is left as it is.
    example : Tensor, shape (samples, ...)
        Inputs of the network.
    by : {"parameters", "macs"}, optional
        Count weights and biases, or the multiply-accumulates of one sample.

    Returns
    -------
    Tensor, shape (groups,)
        Costs with the mean 1, in the order of `population_layers`, float64.

    Raises
    ------
    ValueError
        If `by` is unknown, or `compact` refuses the network.

    Notes
    -----
    A group costs what the network is smaller by once the group alone is removed: its own weights and those
    that read it. All groups of a layer cost the same; one that is the only group of its layer cannot be
    removed, and costs 0.

    Examples
    --------
    A neuron of the first layer has 4 + 1 weights and is read by 3; one of the second has 3 + 1, and is read
    by 2.

    >>> import nn_bridge as nb
    >>> model = nb.population_mlp((4, 2, 3, 2))
    >>> costs = group_costs(model, torch.ones(1, 4))
    >>> (costs / costs.min()).tolist() == [8 / 5, 8 / 5, 1.0, 1.0, 1.0]
    True
    """
    every = group_sizes(model, example, by)
    return every / every.mean()


def group_sizes(
    model: nn.Module, example: torch.Tensor, by: Literal["parameters", "macs"] = "parameters"
) -> torch.Tensor:
    """Return what the network is smaller by without each group, see `group_costs`."""
    validation.choice("by", by, ("parameters", "macs"))
    layers = population_layers(model)
    whole = _size_without(model, None, example, by)
    sizes = [
        torch.full((len(layer.masses),), float(whole - _size_without(model, k, example, by)))
        if len(layer.masses) > 1 or layer.population.may_vanish
        else torch.zeros(1)
        for k, layer in enumerate(layers)
    ]
    return torch.cat(sizes).double()


def _size_without(model: nn.Module, index: int | None, example: torch.Tensor, by: str) -> int:
    """Return the size of the network without one group of the layer of this number."""
    twin = copy.deepcopy(model)
    for k, layer in enumerate(population_layers(twin)):
        layer.masses.fill_(1.0)
        if k == index:
            layer.masses[-1] = 0.0
    size: int = getattr(cost(compact(twin, example[:1]), example[:1], repeats=1), by)
    return size
