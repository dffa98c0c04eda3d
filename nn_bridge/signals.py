"""Signals: what is measured on a network, for every group, as the contribution part of its fitness.

A signal is a frozen specification. What it measures in a backward pass is additive, so that gradients may
be accumulated over several passes; its state (the smoothed values) belongs to the `Selector`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch

from evodyn.core import validation
from evodyn.core.specifications import Specification
from nn_bridge.layers import PopulationLayer
from nn_bridge.population import whole

__all__ = ["Benefit", "Contribution", "Magnitude", "Signal", "Taylor", "relative"]

RELATIVE = ("mean", "zscore", "max")


class Signal(Specification, ABC):
    """Base of the signals: the raw values c_i, then smoothed, then relative.

    Not a dataclass itself, so that each signal declares the options where its constructor has them.

    Parameters
    ----------
    smoothing : float, optional
        β in [0, 1): c is replaced by its exponential moving average over steps,
        (1 - β) Σ_k β^k c(n - k), divided by the sum of its weights (so that the first value counts fully).
    relative : bool, "mean", "zscore" or "max", optional
        Divide by the mean over the groups (True or "mean") or by the largest value ("max"), or subtract
        the mean and divide by the standard deviation over the groups ("zscore"). Over all groups that
        compete with one another, absent ones excepted. Where the divisor is 0 so are the values.

    Raises
    ------
    ValueError
        If an option is out of its range.
    """

    smoothing: float
    relative: bool | Literal["mean", "zscore", "max"]
    memory: float = 0.0  # what is kept of the sums of earlier steps; an option of `Contribution`

    def __post_init__(self) -> None:
        smoothing = validation.non_negative("smoothing", self.smoothing)
        if smoothing >= 1:
            raise ValueError(f"smoothing is {smoothing!r}; expected a number in [0, 1).")
        relative: Any = self.relative
        if not isinstance(relative, bool):
            validation.choice("relative", relative, RELATIVE)
        self._set(smoothing=smoothing)
        if relative is True:
            self._set(relative="mean")

    @property
    def needs_gradient(self) -> bool:
        """Whether the signal is measured in the backward pass, by `observed`."""
        return True

    @property
    def additive(self) -> bool:
        """Whether a pass adds just ∂L/∂p_i, which autograd sums by itself: `observed` is not asked then.

        Unless a subclass has an `observed` of its own. A hook on activations is called from Python, keeps
        them from being recomputed (activation checkpointing) and is not compiled; ∂L/∂p_i has none of that.
        """
        return type(self).observed is Signal.observed

    @property
    def over_ranks(self) -> Literal["mean", "sum"]:
        """How the sums of the ranks of a distributed run make one: the mean where each has a mean loss."""
        return "mean"

    def observed(self, gradient: torch.Tensor, z: torch.Tensor, group_axis: int) -> torch.Tensor:
        """Return what one backward pass adds to a layer's sums, shape (groups,).

        Parameters
        ----------
        gradient, z : Tensor, shape (samples, ..., groups, ...)
            ∂L/∂y and z of a layer with output y = p·z.
        group_axis : int
            The axis of the groups.
        """
        return _sensitivity(gradient, z, group_axis).sum(0)

    @abstractmethod
    def values(self, layers: Sequence[PopulationLayer], totals: torch.Tensor) -> torch.Tensor:
        """Return the raw values c_i of all layers, one after another.

        Parameters
        ----------
        layers : sequence of PopulationLayer
            The layers.
        totals : Tensor, shape (groups of all layers,)
            Sums over the backward passes of what `observed` returned; empty if it needs none.
        """


def _sensitivity(gradient: torch.Tensor, z: torch.Tensor, group_axis: int) -> torch.Tensor:
    """Return each sample's ∂L/∂p_i, shape (samples, groups), at least in single precision."""
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    product = gradient.to(dtype) * z.to(dtype)
    group_axis %= product.ndim
    middle = [axis for axis in range(1, product.ndim) if axis != group_axis]
    return product.sum(middle) if middle else product


def relative(values: torch.Tensor, masses: torch.Tensor, kind: bool | str) -> torch.Tensor:
    """Return `values` in units of their mean, or as z-scores, over the groups that are present.

    Both have shape (..., groups): those of a row compete with one another.
    """
    present = (masses > 0).to(values.dtype)
    count = present.sum(-1, keepdim=True).clamp(min=1)
    mean = (values * present).sum(-1, keepdim=True) / count
    if kind == "zscore":
        values = values - mean
        scale = ((values * values * present).sum(-1, keepdim=True) / count).sqrt()
    elif kind == "max":
        scale = (values * present).amax(-1, keepdim=True)
    else:
        scale = mean
    return torch.where(scale > 0, values / scale, torch.zeros_like(values))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Contribution(Signal):
    """The sensitivity of the loss to a group's mass, c_i = |∂L/∂p_i| (Eq. 9).

    Parameters
    ----------
    per_sample : bool, optional
        Σ_b |∂L/∂p_i restricted to sample b| in place of the absolute value of the sum. For a mean loss
        that is the mean over samples of |∂ℓ_b/∂p_i|. It does not vanish where the weights have converged;
        the gradient of the batch does, up to mini-batch noise.
    smoothing : float, optional
        See `Signal`.
    relative : bool, "mean", "zscore" or "max", optional
        See `Signal`.
    summed : bool, optional
        Multiply by the number of samples: the gradient of the summed loss where the loss is a mean.
    memory : float, optional
        ρ in [0, 1]: before the absolute value is taken, each step's gradient is added to ρ times what there
        is from the steps before. 0 starts every step from zero; 1 is a gradient that is never zeroed.

    Raises
    ------
    ValueError
        If an option is out of its range.

    Notes
    -----
    For a neuron, p_i·∂L/∂p_i = ⟨∂L/∂w_i, w_i⟩ + b_i·∂L/∂b_i.

    Examples
    --------
    >>> Contribution(per_sample=True, smoothing=0.9, relative=True)
    Contribution(per_sample=True, smoothing=0.9, relative='mean', summed=False, memory=0.0)
    """

    per_sample: bool = False
    smoothing: float = 0.0
    relative: bool | Literal["mean", "zscore", "max"] = False
    summed: bool = False
    memory: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        memory = validation.non_negative("memory", self.memory)
        if memory > 1:
            raise ValueError(f"memory is {memory!r}; expected a number in [0, 1].")
        self._set(memory=memory)

    @property
    def additive(self) -> bool:
        plain = not (self.per_sample or self.summed)
        return plain and type(self).observed is Contribution.observed

    @property
    def over_ranks(self) -> Literal["mean", "sum"]:
        return "sum" if self.summed else "mean"

    def observed(self, gradient: torch.Tensor, z: torch.Tensor, group_axis: int) -> torch.Tensor:
        if self.per_sample:
            total = _sensitivity(gradient, z, group_axis).abs_().sum(0)
        else:
            total = super().observed(gradient, z, group_axis)
        return total * gradient.shape[0] if self.summed else total

    def values(self, layers: Sequence[PopulationLayer], totals: torch.Tensor) -> torch.Tensor:
        return totals.abs()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Benefit(Signal):
    """The marginal benefit of a group's mass, φ_i = -∂L/∂p_i, with its sign.

    Positive where more of the group lowers the loss, negative where the group does harm. Under the
    replicator the loss then falls along the masses by the variance of fitness, dL/dt = -P·Var_x(φ)
    (Fisher's theorem), and under growth by fitness itself, ṗ_i = p_i φ_i, by Σ p_i φ_i².

    Parameters
    ----------
    smoothing : float, optional
        See `Signal`.

    Raises
    ------
    ValueError
        If `smoothing` is out of its range.

    Examples
    --------
    >>> Benefit(smoothing=0.9)
    Benefit(smoothing=0.9)
    """

    smoothing: float = 0.0

    relative = False  # a mean of signed values is no scale

    def values(self, layers: Sequence[PopulationLayer], totals: torch.Tensor) -> torch.Tensor:
        return -totals


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Taylor(Signal):
    """First-order estimate of how much the loss changes without the group, c_i = |p_i·∂L/∂p_i|.

    Parameters
    ----------
    smoothing : float, optional
        See `Signal`.
    relative : bool, "mean", "zscore" or "max", optional
        See `Signal`.
    """

    smoothing: float = 0.0
    relative: bool | Literal["mean", "zscore", "max"] = False

    def values(self, layers: Sequence[PopulationLayer], totals: torch.Tensor) -> torch.Tensor:
        masses = torch.cat([layer.masses for layer in layers])
        return (masses.to(totals.dtype) * totals).abs()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Magnitude(Signal):
    """The Euclidean norm of a group's own parameters, c_i = ‖θ_i‖: incoming weights and bias.

    Parameters
    ----------
    smoothing : float, optional
        See `Signal`.
    relative : bool, "mean", "zscore" or "max", optional
        See `Signal`.
    """

    smoothing: float = 0.0
    relative: bool | Literal["mean", "zscore", "max"] = False

    @property
    def needs_gradient(self) -> bool:
        return False

    def values(self, layers: Sequence[PopulationLayer], totals: torch.Tensor) -> torch.Tensor:
        norms = []
        for layer in layers:
            rows = [whole(part).detach().reshape(layer.groups, -1) for part in layer.parameters()]
            norms.append(torch.cat(rows, dim=1).float().norm(dim=1))
        return torch.cat(norms)
