"""The selector: feeds live fitness from a training network into the discrete dynamics of `evodyn`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

import evodyn as ed
from evodyn import validation
from evodyn.landscapes import LandscapeFunction
from nn_bridge.layers import PopulationLayer, population_layers
from nn_bridge.signals import Signal

__all__ = ["Selector"]

SCOPES = ("global", "layer")


def _paper_landscape(contribution: torch.Tensor) -> LandscapeFunction:
    return ed.landscapes.LinearDecay(contribution, decay=1e-3)


class Selector:
    """Updates the masses of a model's population layers, as an optimiser updates its weights.

    ``selector.step()`` after ``loss.backward()`` forms the contributions c from what the backward pass
    showed, the fitness ``landscape(c)(t, masses)``, and calls ``dynamics.step`` on the masses of all layers
    at once, in float64 and on their own device.

    Parameters
    ----------
    model : torch.nn.Module
        A network with population layers. Of several selectors made for one model only the latest sees its
        backward passes.
    dynamics : evodyn.Dynamics
        `Replicator`, `NormalizedGrowth`, `SelectionMutation`, ...
    signal : Signal
        What is measured, see `nn_bridge.signals`.
    step_size : float
        η_p > 0, in units of 1/fitness.
    landscape : callable, optional
        ``landscape(c)`` returns a landscape for the contributions c, a tensor of shape (groups,) on the
        model's device. By default φ = c - 10⁻³ p, the paper's.
    scope : {"global", "layer"}, optional
        Whether all groups compete, or those of each layer among themselves (`evodyn.Populations`).

    Attributes
    ----------
    steps : int
        Number of steps taken. The time of a step is ``steps * step_size``.
    sizes : tuple of int
        Number of groups of each layer.
    contribution : Tensor or None
        The contributions of the latest step, after all options, shape (groups,): what the landscape got.

    Raises
    ------
    ValueError
        If the model has no population layer, or an argument is of the wrong kind or out of its range.

    Notes
    -----
    The weights and the masses of one minibatch may be updated in either order: both use the gradients of
    the same backward pass. On a CPU the map works on NumPy views of the tensors, without a copy, and is
    bit for bit NumPy's. Nothing in a step waits for a device.

    Examples
    --------
    >>> import nn_bridge as nb
    >>> model = nb.population_mlp((4, 3, 2))
    >>> selector = Selector(model, ed.Replicator(), nb.Contribution(), step_size=0.1)
    >>> nn.functional.cross_entropy(model(torch.eye(4)), torch.tensor([0, 1, 0, 1])).backward()
    >>> selector.step()
    >>> bool((selector.masses != 1).any()), round(float(selector.masses.sum()), 12)
    (True, 3.0)
    """

    def __init__(
        self,
        model: nn.Module,
        dynamics: ed.Dynamics,
        signal: Signal,
        step_size: float,
        *,
        landscape: Callable[[torch.Tensor], LandscapeFunction] = _paper_landscape,
        scope: Literal["global", "layer"] = "global",
    ) -> None:
        for name, value, kind in (("dynamics", dynamics, ed.Dynamics), ("signal", signal, Signal)):
            if not isinstance(value, kind):
                raise ValueError(f"{name} is {value!r}; expected an instance of {kind.__name__}.")
        if not callable(landscape):
            raise ValueError(f"landscape is {landscape!r}; expected a callable: contributions -> landscape.")
        self.layers: list[PopulationLayer] = population_layers(model)
        self._names = {module: name or "model" for name, module in model.named_modules()}
        self.sizes = tuple(layer.groups for layer in self.layers)
        self.scope = validation.choice("scope", scope, SCOPES)
        self.dynamics = ed.Populations(dynamics, self.sizes) if scope == "layer" else dynamics
        self.dynamics.check(sum(self.sizes))
        self.signal = signal
        self.landscape = landscape
        self.step_size = validation.positive("step_size", step_size)
        self.steps = 0
        self.contribution: torch.Tensor | None = None
        self._totals: list[torch.Tensor | None] = [None] * len(self.layers)
        self._remembered: torch.Tensor | None = None
        self._smoothed: torch.Tensor | None = None
        self._weight = 0.0
        self._listeners: list[Callable[[torch.Tensor], None]] = []
        for index, layer in enumerate(self.layers):
            layer.observer = functools.partial(self._observe, index) if signal.needs_gradient else None

    @property
    def masses(self) -> torch.Tensor:
        """The masses of all layers one after another, float64, shape (groups,); a copy."""
        return torch.cat([layer.masses for layer in self.layers])

    @torch.no_grad()
    def step(self) -> None:
        """Update the masses from the backward passes since the last step.

        Raises
        ------
        RuntimeError
            If there was none through one of the layers, which is named.
        """
        self.contribution = self._measured()
        masses = self.masses
        time = self.steps * self.step_size
        # In double precision, as the masses are: one conversion instead of one in every operation.
        fitness = self.landscape(self.contribution.double())(time, masses)
        if masses.device.type == "cpu":  # NumPy views, at half the overhead per call of torch's own functions
            fitness = torch.as_tensor(fitness).numpy()
            new = torch.from_numpy(self.dynamics.step(masses.numpy(), fitness, self.step_size, time=time))
        else:
            new = self.dynamics.step(masses, fitness, self.step_size, time=time)
        torch.split_with_sizes_copy(new, self.sizes, out=[layer.masses for layer in self.layers])
        self.steps += 1
        for listener in self._listeners:
            listener(self.contribution)

    def listen(self, listener: Callable[[torch.Tensor], None]) -> Callable[[], None]:
        """Call `listener` with the contributions after every step; return a function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def clear(self) -> None:
        """Forget the backward passes since the last step, as ``optimizer.zero_grad()`` does."""
        self._totals = [None] * len(self.layers)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is not the model's: number of steps, remembered and smoothed signal."""
        return {
            "steps": self.steps,
            "remembered": None if self._remembered is None else self._remembered.clone(),
            "smoothed": None if self._smoothed is None else self._smoothed.clone(),
            "weight": self._weight,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned (the masses are restored with the model).

        Raises
        ------
        ValueError
            If the state is of a model with another number of groups, or not a selector's.
        """
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise ValueError(f"state lacks {', '.join(sorted(missing))}; expected what state_dict returned.")
        device, restored = self.layers[0].masses.device, {}
        for name in ("remembered", "smoothed"):
            value = state[name]
            if value is not None and value.shape != (sum(self.sizes),):
                raise ValueError(
                    f"state holds {value.shape[0]} groups; expected {sum(self.sizes)}: "
                    "it belongs to another model."
                )
            restored[name] = None if value is None else value.to(device, copy=True)
        self.steps, self._weight = int(state["steps"]), float(state["weight"])
        self._smoothed, self._remembered = restored["smoothed"], restored["remembered"]
        self.clear()

    def _observe(self, index: int, gradient: torch.Tensor, z: torch.Tensor) -> None:
        if gradient.ndim == 1:  # a sample without the axis of samples
            gradient, z = gradient[None], z[None]
        seen = self.signal.observed(gradient, z, self.layers[index].group_axis)
        total = self._totals[index]
        self._totals[index] = seen if total is None else total + seen

    def _measured(self) -> torch.Tensor:
        """Return the contributions after all options and forget the backward passes."""
        totals = torch.empty(0)
        if self.signal.needs_gradient:
            seen = [total for total in self._totals if total is not None]
            if len(seen) < len(self.layers):
                blind = zip(self.layers, self._totals, strict=True)
                names = ", ".join(self._names[layer] for layer, total in blind if total is None)
                raise RuntimeError(
                    f"{names} saw no backward pass since the last step; expected loss.backward() through "
                    "every population layer before selector.step(), with this model's latest selector."
                )
            totals = torch.cat(seen)
            if self.signal.memory:
                if self._remembered is not None:
                    totals = totals + self.signal.memory * self._remembered
                self._remembered = totals
        self.clear()
        contribution = self.signal.values(self.layers, totals)
        if self.signal.smoothing:
            keep = self.signal.smoothing
            if self._smoothed is None:
                self._smoothed = torch.zeros_like(contribution)
            self._smoothed.mul_(keep).add_(contribution, alpha=1 - keep)
            self._weight = keep * self._weight + (1 - keep)
            contribution = self._smoothed / self._weight
        if self.signal.relative:
            dynamics, everything = self.dynamics, (sum(self.sizes),)
            sizes = dynamics.sizes if isinstance(dynamics, ed.Populations) else everything
            parts = zip(contribution.split(sizes), self.masses.split(sizes), strict=True)
            contribution = torch.cat([_relative(c, p, self.signal.relative) for c, p in parts])
        return contribution


def _relative(values: torch.Tensor, masses: torch.Tensor, kind: bool | str) -> torch.Tensor:
    """Return `values` in units of their mean, or as z-scores, over the groups that are present."""
    present = (masses > 0).to(values.dtype)
    count = present.sum().clamp(min=1)
    mean = (values * present).sum() / count
    if kind == "zscore":
        values = values - mean
        scale = ((values * values * present).sum() / count).sqrt()
    elif kind == "max":
        scale = (values * present).max()
    else:
        scale = mean
    return torch.where(scale > 0, values / scale, torch.zeros_like(values))
