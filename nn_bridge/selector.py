"""The selector: feeds live fitness from a training network into the discrete dynamics of `evodyn`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

import evodyn as ed
from evodyn.core import validation
from evodyn.model.fitness import LandscapeFunction
from nn_bridge.layers import PopulationLayer, populations
from nn_bridge.signals import Signal

__all__ = ["Selector"]

SCOPES = ("global", "layer")

Listener = Callable[[torch.Tensor, torch.Tensor], None]
"""Receives the contributions of a step and the masses before it."""


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
        NaN if that step was skipped.
    skipped : Tensor, shape ()
        Number of steps that were skipped, counted on the model's device.

    Raises
    ------
    ValueError
        If the model has no population layer, or an argument is of the wrong kind or out of its range.

    Notes
    -----
    A step is skipped as a whole if the signal, the fitness of a living group or a new mass is not finite (a
    batch whose loss overflowed, say): masses, smoothed and remembered values stay as they are, and only
    `steps` and with it the time go on.

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
        self._names = populations(model)
        self.layers: list[PopulationLayer] = list(self._names)
        self.sizes = tuple(layer.groups for layer in self.layers)
        self.scope = validation.choice("scope", scope, SCOPES)
        self.dynamics = ed.Populations(dynamics, self.sizes) if scope == "layer" else dynamics
        self.dynamics.check(sum(self.sizes))
        self.signal = signal
        self.landscape = landscape
        self.step_size = validation.positive("step_size", step_size)
        self.steps = 0
        self.skipped = torch.zeros((), dtype=torch.int64, device=self.layers[0].masses.device)
        self.contribution: torch.Tensor | None = None
        self._totals: list[torch.Tensor | None] = [None] * len(self.layers)
        self._differentiated: str | None = None  # a layer that saw a pass which is to be differentiated
        self._remembered: torch.Tensor | None = None
        self._smoothed: torch.Tensor | None = None
        self._weight: torch.Tensor | None = None
        self._listeners: list[Listener] = []
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
            If there was none through one of the layers, which is named, or one with ``create_graph=True``.
        """
        totals = self._summed()
        values = self.signal.values(self.layers, totals)
        average = self._averaged(values) if self.signal.smoothing else None
        masses = self.masses
        contribution = self._compared(values if average is None else average[0] / average[1], masses)
        # No device is waited for: a step that does not count is computed from zeros, and not taken.
        sound = torch.isfinite(values).all()
        time = self.steps * self.step_size
        # In double precision, as the masses are: one conversion instead of one in every operation.
        used = torch.where(sound, contribution, 0.0).double()
        fitness = torch.as_tensor(self.landscape(used)(time, masses), device=masses.device)
        if masses.device.type == "cpu":  # NumPy views, at half the overhead per call of torch's own functions
            step = self.dynamics.step(masses.numpy(), fitness.numpy(), self.step_size, time=time)
            new = torch.from_numpy(step)
        else:
            new = self.dynamics.step(masses, fitness, self.step_size, time=time)
        living = torch.where(masses > 0, fitness, 0.0)  # that of absent groups may be infinite
        sound = sound & torch.isfinite(torch.cat((living, new))).all()
        new = torch.where(sound, new, masses)
        torch.split_with_sizes_copy(new, self.sizes, out=[layer.masses for layer in self.layers])
        if self.signal.memory:
            self._remembered = _accepted(sound, totals, self._remembered)
        if average is not None:
            self._smoothed = _accepted(sound, average[0], self._smoothed)
            self._weight = _accepted(sound, average[1], self._weight)
        self.contribution = torch.where(sound, contribution, math.nan)
        self.skipped = self.skipped + ~sound
        self.steps += 1
        for listener in self._listeners:
            listener(self.contribution, masses)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after every step; return a function that ends it.

        Parameters
        ----------
        listener : callable
            ``listener(contribution, masses)`` gets the contributions of the step and the masses before it.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def clear(self) -> None:
        """Forget the backward passes since the last step, as ``optimizer.zero_grad()`` does.

        Gradients that `torch.autograd.grad` takes through the layers for something else count as a backward
        pass: call `clear` between them and the one of the loss.
        """
        self._totals = [None] * len(self.layers)
        self._differentiated = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is not the model's: numbers of steps, remembered and smoothed signal."""
        return {
            "steps": self.steps,
            "skipped": self.skipped.clone(),
            "remembered": None if self._remembered is None else self._remembered.clone(),
            "smoothed": None if self._smoothed is None else self._smoothed.clone(),
            "weight": 0.0 if self._weight is None else float(self._weight),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned (the masses are restored with the model).

        Raises
        ------
        ValueError
            If the state is of a model with another number of groups, or not a selector's; nothing is
            changed then.
        """
        state = {"skipped": 0, **state}  # states of former versions, which skipped nothing
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise ValueError(f"state lacks {', '.join(sorted(missing))}; expected what state_dict returned.")
        device, restored = self.layers[0].masses.device, {}
        for name in ("remembered", "smoothed"):
            value = state[name]
            if value is not None:
                shape = tuple(value.shape) if torch.is_tensor(value) else type(value).__name__
                if shape != (sum(self.sizes),):
                    raise ValueError(
                        f"{name} of the state is {shape}; expected {(sum(self.sizes),)}, one value for each "
                        "group: it belongs to another model."
                    )
                if not bool(torch.isfinite(value).all()):
                    raise ValueError(f"{name} of the state is not finite; expected what state_dict returned.")
                value = value.to(device, copy=True)
            restored[name] = value
        steps = validation.count("steps of the state", state["steps"], least=0)
        skipped = validation.count("skipped of the state", int(state["skipped"]), least=0)
        weight = validation.non_negative("weight of the state", state["weight"])
        self.steps, self.skipped = steps, torch.tensor(skipped, device=device)
        self._smoothed, self._remembered = restored["smoothed"], restored["remembered"]
        self._weight = torch.tensor(weight, dtype=torch.float64, device=device)
        self.clear()

    def _observe(self, index: int, gradient: torch.Tensor, z: torch.Tensor) -> None:
        if torch.is_grad_enabled():  # by create_graph: the product p·z is to be differentiated once more
            self._differentiated = self._names[self.layers[index]]
            return
        if gradient.ndim == 1:  # a sample without the axis of samples
            gradient, z = gradient[None], z[None]
        seen = self.signal.observed(gradient, z, self.layers[index].group_axis)
        total = self._totals[index]
        self._totals[index] = seen if total is None else total + seen

    def _summed(self) -> torch.Tensor:
        """Return the sums over the backward passes, the remembered ones included, and forget the passes."""
        totals = torch.empty(0)
        if self._differentiated is not None:
            raise RuntimeError(
                f"{self._differentiated} saw a backward pass with create_graph=True since the last step; "
                "expected a loss without gradients in it: how they depend on the masses is not measured. If "
                "the pass was for something else, call selector.clear() before the one of the loss."
            )
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
            if self.signal.memory and self._remembered is not None:
                totals = totals + self.signal.memory * self._remembered
        self.clear()
        return totals

    def _averaged(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted sum of the values so far, and the sum of the weights."""
        keep = self.signal.smoothing
        smoothed = torch.zeros_like(values) if self._smoothed is None else self._smoothed
        weight = values.new_zeros((), dtype=torch.float64) if self._weight is None else self._weight
        return (keep * smoothed).add_(values, alpha=1 - keep), keep * weight + (1 - keep)

    def _compared(self, contribution: torch.Tensor, masses: torch.Tensor) -> torch.Tensor:
        """Return the contributions relative to those of the groups that compete, if they are to be."""
        if not self.signal.relative:
            return contribution
        blocks = [block for block, _ in self.dynamics.blocks(len(masses))]
        return torch.cat([_relative(contribution[b], masses[b], self.signal.relative) for b in blocks])


def _accepted(sound: torch.Tensor, new: torch.Tensor, old: torch.Tensor | None) -> torch.Tensor:
    """Return `new` if the step is sound, else `old`, where None is zero."""
    return torch.where(sound, new, 0.0 if old is None else old)


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
