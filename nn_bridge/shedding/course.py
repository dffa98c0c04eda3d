"""The training of the weights alone: rate, momentum, weight decay and label smoothing, all of it fixed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from evodyn.core import validation
from evodyn.core.specifications import Specification
from nn_bridge.selector import Selector
from nn_bridge.training import shuffled, train_epoch

__all__ = ["PARTS", "Course", "Lessons"]

PARTS = 8  # of an epoch, each of which is trained on by itself


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Course(Specification):
    """Stochastic gradient descent with Nesterov's momentum, by one schedule, on a softened cross-entropy.

    Parameters
    ----------
    epochs : int
        How often every sample is seen.
    batch_size : int
        Samples per minibatch.
    learning_rate : float
        The highest rate.
    warm_up : int
        Steps in which the rate rises linearly from 0.
    hold : float
        Epochs after which it falls, by half a cosine wave and to 0 at the end.
    momentum : float
        In [0, 1).
    weight_decay : float
        λ_w of ½ λ_w ‖w‖² on every weight and bias.
    label_smoothing : float
        In [0, 1): the part of each label that is spread over all classes.
    noise : float
        Standard deviation of Gaussian noise on every input, in units of that of all inputs; it falls with the
        rate. It averages out over the many pixels of an image; where there are a few inputs it does not.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Examples
    --------
    >>> course = Course(epochs=4, learning_rate=0.1, warm_up=2, hold=2.0)
    >>> [round(course.rate(step, 16), 3) for step in (0, 1, 2, 8, 12, 15)]
    [0.05, 0.1, 0.1, 0.1, 0.05, 0.004]
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.1
    warm_up: int = 200
    hold: float = 8.0
    momentum: float = 0.9
    weight_decay: float = 1e-3
    label_smoothing: float = 0.1
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            validation.count(name, getattr(self, name))
        validation.count("warm_up", self.warm_up, least=0)
        for name in ("hold", "momentum", "weight_decay", "label_smoothing", "noise"):
            self._set(**{name: validation.non_negative(name, getattr(self, name))})
        self._set(learning_rate=validation.positive("learning_rate", self.learning_rate))
        for name in ("momentum", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a number in [0, 1).")

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0, of so many."""
        held = steps * min(self.hold / self.epochs, 1.0)
        rising = min((step + 1) / self.warm_up, 1.0) if self.warm_up else 1.0
        fallen = max(step - held, 0.0) / (steps - held) if steps > held else 0.0
        return self.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * fallen))

    def optimizer(self, model: nn.Module) -> torch.optim.SGD:
        """Return the optimiser of a model's weights."""
        return torch.optim.SGD(
            model.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
            fused=True,  # one pass over memory in place of five
        )

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a minibatch."""
        return nn.functional.cross_entropy(outputs, labels, label_smoothing=self.label_smoothing)

    def train(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        seed: int = 0,
        after_step: Callable[[], object] | None = None,
        penalty: Callable[[], torch.Tensor] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        progress: Callable[[int, float], object] | None = None,
    ) -> list[float]:
        """Train the weights of a model in place; masses stay as they are.

        Parameters
        ----------
        model : torch.nn.Module
            The network.
        images, labels : Tensor
            As for `train_epoch`.
        seed : int, optional
            Of the order of the samples.
        after_step : callable, optional
            ``after_step()`` after every minibatch.
        penalty : callable, optional
            ``penalty()`` is added to the loss of every minibatch.
        optimizer : torch.optim.Optimizer, optional
            In the place of ``self.optimizer(model)``: with parameters that are not the model's, say.
            The rates of its parameter groups follow the same schedule, each from its own.
        progress : callable, optional
            ``progress(epoch, loss)`` after every epoch.

        Returns
        -------
        list of float
            Mean loss of every epoch.
        """
        lessons = Lessons(self, model, images, labels, seed=seed, optimizer=optimizer)
        losses = []
        for epoch in range(self.epochs):
            losses.append(
                sum(
                    share * lessons.part(model, samples, after_step=after_step, penalty=penalty)
                    for share, samples in lessons.epoch()
                )
            )
            if progress is not None:
                progress(epoch, losses[-1])
        return losses


class Lessons:
    """A course under way: its optimiser, its rate and the order of the samples.

    Parameters
    ----------
    course : Course
        The schedule.
    model : torch.nn.Module
        What is trained at first; a smaller one may take its place together with the optimiser.
    images, labels : Tensor
        All samples.
    seed : int
        Of their order.
    optimizer : torch.optim.Optimizer, optional
        See `Course.train`.

    Attributes
    ----------
    step, steps : int
        Steps taken, and those of the whole course.
    """

    def __init__(
        self,
        course: Course,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        seed: int,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.course, self.images, self.labels = course, images, labels
        self.order = torch.Generator().manual_seed(validation.count("seed", seed, least=0))
        # Another stream than the order's.
        self.noise = torch.Generator(images.device).manual_seed(2**32 + seed)
        self.spread = course.noise * float(images.std(correction=0)) if course.noise else 0.0
        self.step, self.steps_per_epoch = 0, -(-len(images) // course.batch_size)
        self.steps = course.epochs * self.steps_per_epoch
        self.optimizer = course.optimizer(model) if optimizer is None else optimizer
        self._highest = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def epochs(self) -> float:
        """Epochs that are over."""
        return self.step / self.steps_per_epoch

    def slow(self, factor: float) -> None:
        """Go on at so many times the rate."""
        self._highest = [factor * highest for highest in self._highest]

    def epoch(self, parts: int = PARTS) -> Any:
        """Yield the samples of the next epoch in so many parts, each with its share of them."""
        images, labels = shuffled(self.images, self.labels, self.order)
        size = -(-self.steps_per_epoch // parts) * self.course.batch_size
        for part in zip(images.split(size), labels.split(size), strict=True):
            yield len(part[0]) / len(images), part

    def part(
        self,
        model: nn.Module,
        samples: tuple[torch.Tensor, torch.Tensor],
        selector: Selector | None = None,
        *,
        after_step: Callable[[], object] | None = None,
        penalty: Callable[[], torch.Tensor] | None = None,
    ) -> float:
        """Train on some samples and return their mean loss."""

        def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            value = self.course.loss(outputs, labels)
            return value if penalty is None else value + penalty()

        def stepped() -> None:
            self.step += 1
            self._set_rate()
            if after_step is not None:
                after_step()

        self._set_rate()
        images, labels = samples
        if self.spread:
            images = self._noisy(images)
        return train_epoch(
            model,
            images,
            labels,
            self.optimizer,
            selector,
            batch_size=self.course.batch_size,
            loss=loss,
            after_step=stepped,
        )

    def _noisy(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images of a part with noise on them."""
        spread = self.spread * self.course.rate(self.step, self.steps) / self.course.learning_rate
        return torch.empty_like(images).normal_(0.0, spread, generator=self.noise).add_(images)

    def _set_rate(self) -> None:
        part = self.course.rate(self.step, self.steps) / self.course.learning_rate
        for group, highest in zip(self.optimizer.param_groups, self._highest, strict=True):
            group["lr"] = highest * part
