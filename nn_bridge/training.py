"""Algorithm 1: weights and masses co-evolve, one minibatch after another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch
from torch import nn

from evodyn.core import validation
from nn_bridge.modes import evaluation_mode
from nn_bridge.selector import Selector

__all__ = ["accuracy", "loader_generator", "shuffled", "train_epoch"]

_log = logging.getLogger(__name__)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def train_epoch(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    selector: Selector | None = None,
    *,
    batch_size: int = 128,
    loss: Loss = nn.functional.cross_entropy,
    fresh_gradients: bool = False,
    after_step: Callable[[], object] | None = None,
) -> float:
    """Train for one epoch, in the order in which the samples come (see `shuffled`).

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    images : Tensor, shape (samples, ...)
        Inputs, in memory on the model's device; minibatches are views of it.
    labels : Tensor, shape (samples,)
        Class numbers.
    optimizer : torch.optim.Optimizer
        Updates the weights.
    selector : Selector, optional
        Updates the masses; None trains the weights alone.
    batch_size : int, optional
        Samples per minibatch; the last one may be smaller.
    loss : callable, optional
        ``loss(outputs, labels)``, a mean over the samples.
    fresh_gradients : bool, optional
        Measure the fitness with a second backward pass at the updated weights. Algorithm 1 can be read so;
        by default both updates use the same gradients.
    after_step : callable, optional
        ``after_step()``, called after every minibatch: a learning-rate scheduler's ``step``, say.

    Returns
    -------
    float
        Mean loss over the samples, each measured before the update that it took part in.

    Raises
    ------
    ValueError
        Before the first step, if there are not as many labels as images, at least one, or `batch_size` is
        not positive.

    Notes
    -----
    At the end the logger ``nn_bridge.training`` warns if the selector skipped steps: what it measured was not
    finite.
    """
    minibatches = _minibatches(images, labels, batch_size)
    skipped = None if selector is None else selector.skipped
    model.train()
    total = torch.zeros((), device=images.device)
    for x, y in minibatches:
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()  # Eq. 11
        if selector is not None:
            if fresh_gradients:
                selector.clear()
                loss(model(x), y).backward()
            selector.step()  # Eqs. 9, 10 and 12, 13 or 14
        total += value.detach() * len(x)
        if after_step is not None:
            after_step()
    if selector is not None and skipped is not None and (lost := int(selector.skipped - skipped)):
        steps = -(-len(images) // batch_size)
        _log.warning(
            "%d of %d steps of the selector were skipped, since the signal, fitness or a mass was not "
            "finite: masses stayed as they were. Look at the loss, or take smaller steps.",
            lost,
            steps,
        )
    return float(total) / len(images)


def shuffled(
    images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the samples in random order: one gather for the whole epoch instead of one for each step.

    The order depends on the generator alone, not on the device of the samples.

    Raises
    ------
    ValueError
        If there are not as many labels as images, at least one.
    """
    _check_pairs(images, labels)
    order = torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)
    return images[order], labels[order]


def loader_generator(generator: torch.Generator) -> torch.Generator:
    """Return the generator of the order in which a shuffling `DataLoader` goes through one more epoch.

    Parameters
    ----------
    generator : torch.Generator
        In the place of torch's global one, from which such a loader draws; it advances as that would.
    """
    torch.empty((), dtype=torch.int64).random_(generator=generator)  # the seed of the loader's workers
    seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def accuracy(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, batch_size: int = 2048
) -> float:
    """Return the fraction of samples whose largest output is that of their label.

    Raises
    ------
    ValueError
        If there are not as many labels as images, at least one, or `batch_size` is not positive.
    """
    with evaluation_mode(model):
        right = sum((model(x).argmax(dim=1) == y).sum() for x, y in _minibatches(images, labels, batch_size))
    return float(right) / len(images)


def _minibatches(
    images: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Return the samples in minibatches, views of what is given, once it is known to fit together."""
    _check_pairs(images, labels)
    size = validation.count("batch_size", batch_size)
    return zip(images.split(size), labels.split(size), strict=True)


def _check_pairs(images: torch.Tensor, labels: torch.Tensor) -> None:
    """Raise `ValueError` unless there is one label for each image."""
    there = [len(tensor) if tensor.ndim else 0 for tensor in (images, labels)]
    if there[0] != there[1] or not there[0]:
        raise ValueError(
            f"images holds {there[0]} samples and labels {there[1]}; expected as many labels as images, "
            "at least one."
        )
