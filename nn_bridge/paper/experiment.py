"""The paper's experiment (section 8) and its variations: one training run, completely specified."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

import evodyn as ed
from evodyn.core import validation
from evodyn.core.specifications import Specification
from nn_bridge.selector import Selector
from nn_bridge.signals import Contribution

__all__ = ["MUTATION_RATE", "SIGNAL_CLIP", "Experiment", "MutationTarget", "paper_dynamics"]

SIGNAL_CLIP = 0.10
MUTATION_RATE = 2e-3
MutationTarget = Literal["uniform_share"] | float
"""Of Eq. 8: 1/N as printed, or a mass for each group."""


def paper_dynamics(
    groups: int = 768, *, mutation_target: MutationTarget = "uniform_share"
) -> dict[str, ed.Dynamics]:
    """Return Eqs. 12, 13 and 14 with the numbers of section 8, by the columns of the paper's tables.

    Parameters
    ----------
    groups : int, optional
        Number of groups; the cap on total mass is what they start with.
    mutation_target : "uniform_share" or float, optional
        Of Eq. 8: 1/N as printed, or another mass for each group.

    Examples
    --------
    >>> paper_dynamics()["normalized"]
    NormalizedGrowth(mass_cap=768.0, signal_clip=0.1)
    """
    return {
        "replicator": ed.Replicator(SIGNAL_CLIP),
        "normalized": ed.NormalizedGrowth(float(groups), SIGNAL_CLIP),
        "mutation": ed.SelectionMutation(MUTATION_RATE, mutation_target, SIGNAL_CLIP),
    }


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Experiment(Specification):
    """One training run with selection, and the removals after it. The defaults are section 8 of the paper.

    Parameters
    ----------
    dynamics : evodyn.Dynamics
        Of the masses: Eq. 12, 13 or 14 (see `paper_dynamics`), or another. If layers compete apart, each
        has its share of a cap on total mass, by number of groups.
    seed : int
        Of the initial weights and, independently, of the order of the samples.
    dataset : {"mnist", "fashion-mnist"}
        The data.
    standardise : bool
        Standardised pixels, or pixels in [0, 1].
    train_samples, test_samples : int, optional
        Only the first so many.
    widths : tuple of int
        Inputs, hidden layers, outputs.
    epochs, batch_size : int
        Length of the training.
    learning_rate, momentum : float
        Of the weights' SGD.
    step_size : float
        η_p of the masses.
    decay : float
        λ of Eq. 10.
    clipped : {"difference", "fitness"}
        Whether the signal clip of the dynamics bounds |φ - φ̄| or |φ|.
    per_sample, smoothing, relative, summed, memory
        Options of the signal, see `Contribution`.
    scope : {"global", "layer"}
        Which groups compete.
    fresh_gradients : bool
        Measure the fitness at the updated weights, see `train_epoch`.
    scaled_bias : bool
        Whether masses scale the biases too, see `population_mlp`.
    trained_masses : bool
        Whether the masses are in the optimiser's list too: its steps move them like any weight, and those of
        the selector come on top.
    shuffling : {"own", "loader"}
        Where the order of the samples comes from: a generator of its own, or, as in a script with one global
        seed, the one that drew the weights before, through a shuffling `DataLoader`.
    pruning : {"global", "layer"}
        Rank all groups together, or those of each layer.
    sparsities, thresholds : tuple of float
        The removals of Tables 1 and 2.

    Raises
    ------
    ValueError
        If a value is of the wrong kind or out of its range.
    """

    dynamics: ed.Dynamics = ed.Replicator(SIGNAL_CLIP)  # noqa: RUF009
    seed: int = 0
    dataset: Literal["mnist", "fashion-mnist"] = "mnist"
    standardise: bool = True
    train_samples: int | None = None
    test_samples: int | None = None
    widths: tuple[int, ...] = (784, 512, 256, 10)
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    step_size: float = 5e-4
    decay: float = 1e-3
    clipped: Literal["difference", "fitness"] = "difference"
    per_sample: bool = False
    smoothing: float = 0.0
    relative: bool | Literal["mean", "zscore", "max"] = False
    summed: bool = False
    memory: float = 0.0
    scope: Literal["global", "layer"] = "global"
    fresh_gradients: bool = False
    scaled_bias: bool = True
    trained_masses: bool = False
    shuffling: Literal["own", "loader"] = "own"
    pruning: Literal["global", "layer"] = "global"
    sparsities: tuple[float, ...] = (0.35, 0.40, 0.45, 0.50)
    thresholds: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9)

    def __post_init__(self) -> None:
        if not isinstance(self.dynamics, ed.Dynamics):
            raise ValueError(f"dynamics is {self.dynamics!r}; expected an instance of evodyn.Dynamics.")
        validation.choice("dataset", self.dataset, ("mnist", "fashion-mnist"))
        validation.choice("pruning", self.pruning, ("global", "layer"))
        validation.choice("scope", self.scope, ("global", "layer"))
        validation.choice("clipped", self.clipped, ("difference", "fitness"))
        validation.choice("shuffling", self.shuffling, ("own", "loader"))
        for name in ("epochs", "batch_size"):
            validation.count(name, getattr(self, name))
        validation.count("seed", self.seed, least=0)
        for name in ("train_samples", "test_samples"):
            if getattr(self, name) is not None:
                validation.count(name, getattr(self, name))
        for name in ("widths", "sparsities", "thresholds"):  # a list names the same experiment
            self._set(**{name: tuple(getattr(self, name))})
        for k, width in enumerate(self.widths):
            validation.count(f"widths[{k}]", width)
        for name, most in (("sparsities", 1.0), ("thresholds", np.inf)):
            for k, value in enumerate(getattr(self, name)):
                if validation.non_negative(f"{name}[{k}]", value) > most:
                    raise ValueError(f"{name}[{k}] is {value!r}; expected a fraction in [0, 1].")
        for name in ("learning_rate", "step_size"):
            validation.positive(name, getattr(self, name))
        validation.non_negative("momentum", self.momentum)
        validation.non_negative("decay", self.decay)
        self.signal()
        self.selection()

    def signal(self) -> Contribution:
        """Return the signal (Eq. 9)."""
        return Contribution(self.per_sample, self.smoothing, self.relative, self.summed, self.memory)

    def selection(self) -> ed.Dynamics:
        """Return the dynamics (Eqs. 12-14) of all groups together: blocks, if the layers compete apart."""
        dynamics: Any = self.dynamics
        if self.clipped == "fitness" and dynamics.signal_clip is not None:
            dynamics = dataclasses.replace(dynamics, signal_clip=None)
        if self.scope == "global":
            return dynamics  # type: ignore[no-any-return]
        groups = self.widths[1:-1]
        if dynamics.mass_cap is not None:
            caps = [dynamics.mass_cap * size / sum(groups) for size in groups]
            dynamics = tuple(dataclasses.replace(dynamics, mass_cap=cap) for cap in caps)
        return ed.Populations(dynamics, groups)

    def landscape(self, contribution: torch.Tensor) -> ed.landscapes.LandscapeFunction:
        """Return the landscape (Eq. 10) of one step's contributions."""
        regularised = ed.landscapes.LinearDecay(contribution, decay=self.decay)
        clip = self.dynamics.signal_clip
        if clip is None or self.clipped == "difference":
            return regularised
        return lambda time, masses: torch.clamp(regularised(time, masses), -clip, clip)

    def selector(self, model: nn.Module) -> Selector:
        """Return the selector of `model`."""
        return Selector(model, self.selection(), self.signal(), self.step_size, landscape=self.landscape)
