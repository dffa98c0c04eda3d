"""Removal in the middle of training: what is left goes on, in the same budget of epochs."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from evodyn.core import validation
from nn_bridge.baselines.gates import GatedLinear, balanced, closed, folded, penalty
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
    """Train a network, remove groups on the way, and go on, for every fraction from a middle of its own.

    A fraction is removed as soon as so many gates are closed, or, if they never are, after `until` epochs.
    All fractions share the training before that.

    Parameters
    ----------
    model : torch.nn.Sequential
        A network with masses; trained in place up to the last removal.
    images, labels : Tensor
        The samples.
    fractions : sequence of float
        How much of all groups is removed, in ascending order.
    course : Course
        The schedule of the whole training, which a removal does not lengthen.
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
        The whole network at the removal; the next step trains it on.
    small : torch.nn.Module
        For the next fraction, what is left, at the end of the course; gates and masses are in its weights,
        shared out between those that enter a neuron and those that leave it.
    """
    if not 0 < validation.count("until", until) < course.epochs:
        raise ValueError(f"until is {until!r}; expected an epoch before the last of {course.epochs}.")
    if list(fractions) != sorted(fractions):
        raise ValueError(f"fractions is {fractions!r}; expected them in ascending order.")
    optimizer = without_decay_of_gates(course, model)
    lessons = Lessons(course, model, images, labels, seed=seed, optimizer=optimizer)
    moved = selector(model) if selector is not None else None
    pressure = (lambda: strength * penalty(model)) if strength else None
    due = list(fractions)
    for epoch in range(until):
        for part, (_, samples) in enumerate(lessons.epoch(), start=1):
            lessons.part(model, samples, moved, penalty=pressure)
            last = epoch + 1 == until and lessons.step == until * lessons.steps_per_epoch
            while due and (last or closed(model) >= due[0]):
                twin = copy.deepcopy(model)
                remove_lowest(twin, scores(model), due.pop(0))
                left: Any = compact(folded(twin))
                rest = Lessons(course, small := balanced(left).train(), images, labels, seed=seed + 1)
                rest.step = lessons.step
                _finish(rest, small, epoch, part)
                yield model, small
        if not due:
            return


def _finish(lessons: Lessons, model: nn.Module, epoch: int, part: int) -> None:
    """Train to the end of the course, from the end of a part of an epoch on."""
    for number in range(epoch, lessons.course.epochs):
        for _, samples in itertools.islice(lessons.epoch(), part if number == epoch else 0, None):
            lessons.part(model, samples)


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
