"""The selector: feeds live fitness from a training network into the discrete dynamics of `evodyn`."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

import evodyn as ed
from evodyn.core import validation
from evodyn.model.dynamics import SCHEMES, Scheme
from evodyn.model.fitness import LandscapeFunction
from evodyn.simulate.compiled_maps import load, one_step
from evodyn.simulate.extinction import emptied
from nn_bridge.layers import PopulationLayer, populations
from nn_bridge.population import Observer, probe
from nn_bridge.ranks import over_ranks
from nn_bridge.signals import Signal, relative
from nn_bridge.soundness import all_finite, chosen

__all__ = ["Selector"]

SCOPES = ("global", "layer", "kind")

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
        A network with population layers, wrapped (`DistributedDataParallel`, `torch.compile`) or not. Of
        several selectors made for one model only the latest sees its backward passes.
    dynamics : evodyn.Dynamics
        `Replicator`, `NormalizedGrowth`, `SelectionMutation`, ...
    signal : Signal
        What is measured, see `nn_bridge.signals`.
    step_size : float
        η_p > 0, in units of 1/fitness.
    landscape : callable, optional
        ``landscape(c)`` returns a landscape for the contributions c, a tensor of shape (groups,) on the
        model's device: `nn_bridge.Priced`, say. By default φ = c - 10⁻³ p, the paper's.
    scope : {"global", "layer", "kind"}, optional
        Whether all groups compete, or those of each layer among themselves, or those of all layers of one
        kind (`evodyn.Populations`). By default "kind" where the layers are of several kinds, else "global".
    scheme : {"euler", "exponential"}, optional
        Of the map, see `evodyn.Dynamics.step`.
    extinction : evodyn.Extinction, optional
        With the policy "absorb" a group that falls below the threshold is at exactly 0 from then on, as in
        `evodyn.iterate`; mutation does not bring it back. By default no group is set to 0.
    process_group : torch.distributed.ProcessGroup, optional
        The ranks that train this model together; by default all there are.

    Attributes
    ----------
    layers : list of PopulationLayer
        In the order of the model's modules.
    order : Tensor or None
        Indices of the groups in the order in which `dynamics` acts on them, where that is another: groups of
        one kind lie side by side there, in a replay too. None where they do so already.
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
        If the model has no population layer, is wrapped in `torch.nn.DataParallel`, or an argument is of the
        wrong kind or out of its range; if the signal is of single samples, and a layer does not keep them
        apart.

    Warns
    -----
    UserWarning
        If mutation will bring back groups of mass 0, which are there already. `prune` warns of it later.

    Notes
    -----
    A step is skipped as a whole if the signal, the fitness of a living group or a new mass is not finite (a
    batch whose loss overflowed, say): masses, smoothed and remembered values stay as they are, and only
    `steps` and with it the time go on.

    The weights and the masses of one minibatch may be updated in either order: both use the gradients of
    the same backward pass. Gradients add up over passes, through layers that are called several times and
    through recomputed activations, until a step or `clear`; ``optimizer.zero_grad()`` and the clipping of
    the weights' gradients do not touch them. ∂L/∂p_i is autograd's own, so that it is right for losses with
    gradients in them as well; a signal of single samples (``additive`` is False) refuses those by name.

    In a distributed run the sums of the ranks are averaged before an absolute value is taken: masses are
    the same on every rank, to the last bit.

    On a CPU the map works on NumPy views of the tensors, without a copy, and is bit for bit NumPy's.
    Nothing in a step waits for another device.

    Examples
    --------
    >>> import nn_bridge as nb
    >>> model = nb.population_mlp((4, 3, 2))
    >>> selector = Selector(model, ed.Replicator(), nb.Contribution(), step_size=0.1)
    >>> nn.functional.cross_entropy(model(torch.eye(4)), torch.tensor([0, 1, 0, 1])).backward()
    >>> selector.step()
    >>> selector
    Selector(Replicator, Contribution, groups: 3, steps: 1)
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
        scope: Literal["global", "layer", "kind"] | None = None,
        scheme: Scheme = "euler",
        extinction: ed.Extinction | None = None,
        process_group: Any = None,
    ) -> None:
        for name, value, kind in (("dynamics", dynamics, ed.Dynamics), ("signal", signal, Signal)):
            if not isinstance(value, kind):
                raise ValueError(f"{name} is {value!r}; expected an instance of {kind.__name__}.")
        if not callable(landscape):
            raise ValueError(f"landscape is {landscape!r}; expected a callable: contributions -> landscape.")
        if extinction is not None and getattr(extinction, "policy", None) != "absorb":
            raise ValueError(
                f"extinction is {extinction!r}; expected evodyn.Extinction(threshold, 'absorb'): what else "
                "is to happen at an extinction, the training loop decides, which sees selector.masses."
            )
        if any(isinstance(part, nn.DataParallel) for part in model.modules()):
            raise ValueError(
                "model holds torch.nn.DataParallel, whose replicas do not report to the masses; expected "
                "torch.nn.parallel.DistributedDataParallel, with one process for each device."
            )
        self._names = populations(model)
        layers = list(self._names)
        kinds = list(dict.fromkeys(layer.kind for layer in layers))
        self.scope = validation.choice(
            "scope", ("kind" if len(kinds) > 1 else "global") if scope is None else scope, SCOPES
        )
        self.layers: list[PopulationLayer] = layers
        self.sizes = tuple(layer.groups for layer in layers)
        blocks = {
            "global": (),
            "layer": self.sizes,
            "kind": tuple(sum(layer.groups for layer in layers if layer.kind == kind) for kind in kinds),
        }[self.scope]
        self.dynamics = ed.Populations(dynamics, blocks) if blocks else dynamics
        self.order: torch.Tensor | None = None
        if self.scope == "kind":
            each = torch.tensor([kinds.index(layer.kind) for layer in layers for _ in range(layer.groups)])
            if bool((each.diff() < 0).any()):
                self.order = each.argsort(stable=True).to(layers[0].masses.device)
        self.dynamics.check(sum(self.sizes))
        self.signal = signal
        self.landscape = landscape
        self.step_size = validation.positive("step_size", step_size)
        self.scheme: Scheme = validation.choice("scheme", scheme, SCHEMES)  # type: ignore[assignment]
        self.extinction = extinction
        self.process_group = process_group
        self.steps = 0
        device = layers[0].masses.device
        if device.type == "cpu":
            load()
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.contribution: torch.Tensor | None = None
        self._totals: list[torch.Tensor | None] = [None] * len(layers)
        self._differentiated: str | None = None  # a layer that saw a pass which is to be differentiated
        self._remembered: torch.Tensor | None = None
        self._smoothed: torch.Tensor | None = None
        self._weight = _counted(0.0, device)
        self._listeners: list[Listener] = []
        self._observers: list[Observer | None] = [None] * len(layers)
        self._measured = signal.needs_gradient
        if self._measured:
            self._observers = [functools.partial(self._observe, index) for index in range(len(layers))]
        revives = extinction is None and self._has_inflow()
        for layer, name in self._names.items():
            layer.revives = revives
            if self._measured and not signal.additive and layer.samples is None:
                raise ValueError(
                    f"signal is {signal!r}, of single samples, which {name} has not along one axis; expected "
                    "samples on the first axis of the model's first input, and layers that keep them apart: "
                    "use a signal of the whole batch."
                )
        if revives and device.type != "meta" and bool((self.masses == 0).any()):
            warnings.warn(
                "groups of mass 0 come back by mutation; expected dynamics without mutation, or "
                "extinction=evodyn.Extinction(threshold, 'absorb'), where they are to stay away.",
                stacklevel=2,
            )
        double = any(parameter.dtype == torch.float64 for parameter in model.parameters())
        precision = torch.float64 if double else torch.float32
        for layer, observer in zip(layers, self._observers, strict=True):
            layer.observer = observer
            summed = observer is not None and signal.additive
            layer.probe = probe(layer.masses.to(precision)) if summed else None

    def __repr__(self) -> str:
        kinds = ", ".join(type(part).__name__ for part in (self.dynamics, self.signal))
        return f"Selector({kinds}, groups: {' + '.join(map(str, self.sizes))}, steps: {self.steps})"

    def _has_inflow(self) -> bool:
        """Tell whether groups without mass get some, now."""
        none = torch.zeros(sum(self.sizes), dtype=torch.float64)
        inflow = self.dynamics.inflow(none, none, time=self.steps * self.step_size)
        return bool((torch.as_tensor(inflow) > 0).any())

    @property
    def masses(self) -> torch.Tensor:
        """The masses of all layers one after another, float64, shape (groups,); a copy."""
        return torch.cat([layer.masses for layer in self.layers])

    @torch.no_grad()
    def step(self, scale: float | torch.Tensor | None = None) -> None:
        """Update the masses from the backward passes since the last step.

        Parameters
        ----------
        scale : float or Tensor of one element, optional
            By what the loss was multiplied before its backward pass: ``scaler.get_scale()`` of a
            `torch.amp.GradScaler`, asked before ``scaler.update()``. The gradients of the weights need not
            be unscaled.

        Raises
        ------
        RuntimeError
            If there was none through one of the layers, which is named, or if the signal is of single
            samples and there was one with ``create_graph=True``.
        ValueError
            If `scale` is not a positive number.
        """
        totals = self._summed(scale)
        values = self.signal.values(self.layers, totals)
        if not self._measured:
            values = over_ranks(values, "mean", self.process_group)
        average = self._averaged(values) if self.signal.smoothing else None
        held = [layer.masses for layer in self.layers]
        masses = torch.cat(held)
        contribution = values if average is None else average[0] / average[1]
        if self.signal.relative:
            contribution = self._compared(contribution, masses)
        time = self.steps * self.step_size
        sound, new = all_finite(values), masses
        if sound is not False:
            # In double precision, as the masses are: one conversion instead of one in every operation.
            landscape = self.landscape(chosen(sound, contribution, 0.0).double())
            moved = self._moved_at_once(landscape, masses, time)
            if moved is not None:
                new = moved
            else:
                present = masses if self.extinction is None else self._present(masses)
                fitness = landscape(time, present)
                if not torch.is_tensor(fitness) or fitness.device != masses.device:
                    fitness = torch.as_tensor(fitness, device=masses.device)
                new = self._next(present, fitness, time)
                sound = sound & all_finite(fitness, where=present) & all_finite(new)
        if sound is not False:
            new = chosen(sound, new, masses)
            _write(new, held)
            if self.signal.memory:
                self._remembered = chosen(sound, totals, self._remembered)
            if average is not None:
                self._smoothed = chosen(sound, average[0], self._smoothed)
                self._weight = chosen(sound, average[1], self._weight)
        self.contribution = chosen(sound, contribution, math.nan)
        if sound is not True:
            self.skipped = self.skipped + ~torch.as_tensor(sound, device=self.skipped.device)
        self.steps += 1
        for listener in self._listeners:
            listener(self.contribution, masses)

    def _moved_at_once(
        self, landscape: LandscapeFunction, masses: torch.Tensor, time: float
    ) -> torch.Tensor | None:
        """Return the masses after the map in one compiled call, if it has that form and all is finite."""
        if not masses.is_cpu or self.order is not None or self.extinction is not None:
            return None
        if self.scheme != "euler":
            return None
        new = one_step(self.dynamics, landscape, masses.numpy(), self.step_size, time)
        return None if new is None else torch.from_numpy(new)

    def _present(self, masses: torch.Tensor) -> torch.Tensor:
        """Return the masses without those of extinct groups, as something else may have left them."""
        p, extinction = _fastest(masses), cast(ed.Extinction, self.extinction)
        return torch.as_tensor(emptied(p, extinction.below(p)))

    def _next(self, masses: torch.Tensor, fitness: torch.Tensor, time: float) -> torch.Tensor:
        """Return the masses after the map, and after the extinctions that it led to."""
        p, phi = _fastest(masses), _fastest(fitness)
        if self.order is None:
            new = self.dynamics.step(p, phi, self.step_size, time=time, scheme=self.scheme)
        else:
            order, back = _fastest(self.order), _fastest(self.order.argsort())
            new = self.dynamics.step(p[order], phi[order], self.step_size, time=time, scheme=self.scheme)[
                back
            ]
        if self.extinction is not None:  # what is extinct already gets no inflow
            new = emptied(new, (p == 0) | self.extinction.below(new))
        return torch.from_numpy(new) if type(new) is np.ndarray else new

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
        """Forget the backward passes since the last step, as ``optimizer.zero_grad()`` does for weights.

        A pass for something else than the loss (a second evaluation within a step) is to be forgotten before
        the one of the loss; for a signal of single samples, so are gradients of `torch.autograd.grad`.
        """
        self._totals = [None] * len(self.layers)
        self._differentiated = None
        for layer, observer in zip(self.layers, self._observers, strict=True):
            if layer.probe is not None and layer.observer is observer:
                layer.probe.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is not the model's: numbers of steps, remembered and smoothed signal."""
        return {
            "steps": self.steps,
            "skipped": self.skipped.clone(),
            "remembered": None if self._remembered is None else self._remembered.clone(),
            "smoothed": None if self._smoothed is None else self._smoothed.clone(),
            "weight": float(self._weight),
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
        self._weight = _counted(weight, device)
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

    def _summed(self, scale: float | torch.Tensor | None) -> torch.Tensor:
        """Return the sums over the backward passes, the remembered ones included, and forget the passes."""
        if not self._measured:
            return torch.empty(0)
        if self._differentiated is not None:
            raise RuntimeError(
                f"{self._differentiated} saw a backward pass with create_graph=True since the last step; "
                "expected a loss without gradients in it: how those of single samples depend on the masses "
                "is not measured. If the pass was for something else, call selector.clear() before that of "
                "the loss."
            )
        if scale is not None and not torch.is_tensor(scale):
            scale = validation.positive("scale", scale)
        seen: list[Any] = []
        blind: list[Any] = []
        for layer, observer, total in zip(self.layers, self._observers, self._totals, strict=True):
            if layer.probe is not None:
                # The probe of a later selector is that one's.
                total = layer.probe.grad if layer.observer is observer else None
            (blind if total is None else seen).append(layer if total is None else total)
        if blind:
            raise RuntimeError(
                f"{', '.join(self._names[layer] for layer in blind)} saw no backward pass since the last "
                "step; expected loss.backward() through every population layer before selector.step(), with "
                "this model's latest selector."
            )
        totals = torch.cat(seen)
        self.clear()
        if scale is not None:
            totals = totals / scale
        totals = over_ranks(totals, self.signal.over_ranks, self.process_group)
        if self.signal.memory and self._remembered is not None:
            totals = totals + self.signal.memory * self._remembered
        return totals

    def _averaged(self, values: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Return the weighted sum of the values so far, and the sum of the weights."""
        keep = self.signal.smoothing
        smoothed = torch.zeros_like(values) if self._smoothed is None else self._smoothed
        return (keep * smoothed).add_(values, alpha=1 - keep), keep * self._weight + (1 - keep)

    def _compared(self, contribution: torch.Tensor, masses: torch.Tensor) -> torch.Tensor:
        """Return the contributions relative to those of the groups that compete."""
        if self._rows is None:
            return relative(contribution, masses, self.signal.relative)
        rows, filled, back = self._rows
        parts = relative(contribution[rows], masses[rows] * filled, self.signal.relative)
        return parts.flatten()[back]

    @functools.cached_property
    def _rows(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Indices of the groups of each block as rows, which of them count, and where each group is there.

        None where all groups compete. One block after another takes several times as long.
        """
        n, device = sum(self.sizes), self.layers[0].masses.device
        blocks = [block for block, _ in self.dynamics.blocks(n)]
        if len(blocks) == 1:
            return None
        order = np.arange(n) if self.order is None else self.order.cpu().numpy()
        sizes = [block.stop - block.start for block in blocks]
        rows, filled = np.zeros((len(blocks), max(sizes)), int), np.zeros((len(blocks), max(sizes)))
        for row, count, block, size in zip(rows, filled, blocks, sizes, strict=True):
            row[:size], count[:size] = order[block], 1.0
        back = np.empty(n, int)
        back[rows[filled > 0]] = np.flatnonzero(filled)
        return tuple(torch.from_numpy(part).to(device) for part in (rows, filled, back))  # type: ignore[return-value]


def _counted(weight: float, device: torch.device) -> Any:
    """Return a number that is kept where the masses are: on a CPU a float, which costs no call of torch."""
    return weight if device.type == "cpu" else torch.tensor(weight, dtype=torch.float64, device=device)


def _fastest(values: torch.Tensor) -> Any:
    """Return a NumPy view on a CPU, at half the overhead per call of torch's own functions."""
    return values.numpy() if values.is_cpu else values


def _write(values: torch.Tensor, parts: Sequence[torch.Tensor]) -> None:
    """Enter values in tensors that they fill one after another."""
    if not values.is_cpu:
        torch.split_with_sizes_copy(values, [len(part) for part in parts], out=list(parts))
        return
    start, numbers = 0, values.numpy()
    for part in parts:
        view = part.numpy()
        view[:] = numbers[start : start + len(view)]
        start += len(view)
