"""Removal in the middle of training: what is left goes on, in the same budget of epochs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from evodyn.core import validation
from nn_bridge.baselines.gates import GatedLinear, balanced, folded, penalty
from nn_bridge.baselines.rankings import remove_lowest
from nn_bridge.layers import population_layers
from nn_bridge.removal.compact import compact
from nn_bridge.selector import Selector
from nn_bridge.shedding.course import Course, Lessons

__all__ = ["removed_early"]


def removed_early(
    model: nn.Sequential,
    images: torch.Tensor,
    labels: torch.Tensor,
    fractions: Sequence[float],
    *,
    course: Course,
    until: int,
    scores: Callable[[nn.Module], torch.Tensor],
    strength: float = 0.0,
    selector: Callable[[nn.Module], Selector] | None = None,
    seed: int = 0,
) -> Iterator[tuple[nn.Sequential, nn.Module]]:
    """Train a network, remove groups after some epochs, and go on; for every fraction from the same middle.

    Parameters
    ----------
    model : torch.nn.Sequential
        A network with masses; trained in place up to the removal.
    images, labels : Tensor
        The samples.
    fractions : sequence of float
        How much of all groups is removed.
    course : Course
        The schedule of the whole training, which the removal does not lengthen.
    until : int
        Epochs before the removal, at least 1 and less than those of the course.
    scores : callable
        ``scores(model)``, shape (groups,): the lowest are removed, see `rankings`.
    strength : float, optional
        Of the penalty on gates, which ends with the removal.
    selector : callable, optional
        ``selector(model)`` moves the masses until the removal.
    seed : int, optional
        Of the order of the samples.

    Yields
    ------
    middle : torch.nn.Sequential
        The whole network at the removal.
    small : torch.nn.Module
        For the next fraction, what is left, at the end of the course; gates and masses are in its weights,
        shared out between those that enter a neuron and those that leave it.
    """
    if not 0 < validation.count("until", until) < course.epochs:
        raise ValueError(f"until is {until!r}; expected an epoch before the last of {course.epochs}.")
    lessons = Lessons(
        course, model, images, labels, seed=seed, optimizer=without_decay_of_gates(course, model)
    )
    moved = selector(model) if selector is not None else None
    pressure = (lambda: strength * penalty(model)) if strength else None
    for _ in range(until):
        for _, samples in lessons.epoch():
            lessons.part(model, samples, moved, penalty=pressure)
    ranked = scores(model)
    for fraction in fractions:
        twin = copy.deepcopy(model)
        remove_lowest(twin, ranked, fraction)
        left: Any = compact(folded(twin))
        small = balanced(left).train()
        rest = Lessons(course, small, images, labels, seed=seed + 1)
        rest.step = lessons.step
        for _ in range(course.epochs - until):
            for _, samples in rest.epoch():
                rest.part(small, samples)
        yield model, small


def without_decay_of_gates(course: Course, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of a course for a model whose gates are subject to their own penalty alone."""
    own = {
        id(parameter)
        for layer in population_layers(model)
        if isinstance(layer, GatedLinear)
        for name, parameter in layer.named_parameters()
        if name not in ("weight", "bias")
    }
    optimizer = course.optimizer(model)
    (group,) = optimizer.param_groups
    gates = [parameter for parameter in group["params"] if id(parameter) in own]
    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
    if gates:
        optimizer.add_param_group({"params": gates, "weight_decay": 0.0})
    return optimizer
