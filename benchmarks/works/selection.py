"""What selection adds to a step of training the paper's network, on one thread."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

import nn_bridge as nb
from benchmarks.contest import Options
from benchmarks.rows import OURS, Outcome, Row, Verdict
from benchmarks.timing import Times, in_turns
from nn_bridge.datasets import cache_directory
from nn_bridge.paper.experiment import Experiment

__all__ = ["measured"]

LIMIT = 0.03
STEPS, BATCH = 40, 128


def measured(options: Options) -> Iterator[Outcome]:
    """Yield one outcome: training without masses, with masses, and with selection, in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield _outcome(10 if options.quick else 30)
    finally:
        torch.set_num_threads(threads)


def _outcome(rounds: int) -> Outcome:
    work = "a step of training, 768 groups, minibatches of 128"
    times = in_turns(_loops(), rounds, short=0.0, long=math.inf)
    rows = {
        name: Row(work, name, OURS if "selection" in name else "PyTorch").timed(each, STEPS)
        for name, each in times.items()
    }
    selected, masses = times["with masses and selection"], times["with masses, no selection"]
    # One thread works, so that processor time is what a step takes whatever else the machine does.
    added = _added(selected, masses)
    note = f"{added * rows['with masses, no selection'].processor * 1e3:.0f} µs"
    verdict = Verdict(work, "selection / training without it", added, LIMIT, note=note)
    return Outcome(work, list(rows.values()), [verdict])


def _added(selected: Times, masses: Times) -> float:
    """Return what selection adds, as a fraction: the median over rounds."""
    rounds = zip(selected.processors, masses.processors, strict=True)
    return statistics.median(a / b for a, b in rounds) - 1.0


def _loops() -> dict[str, Callable[[], object]]:
    """Return what trains for so many steps, each loop with a network of its own."""
    experiment, data = Experiment(), nb.load_mnist()
    images, labels = data.train_images[: STEPS * BATCH], data.train_labels[: STEPS * BATCH]
    flat = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(0.1307, 0.3081), transforms.Lambda(torch.flatten)]  # type: ignore[no-untyped-call]
    )
    files = datasets.MNIST(cache_directory(), train=True, transform=flat)
    loader = DataLoader(Subset(files, range(len(images))), batch_size=BATCH, shuffle=True)

    def trained(model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
        return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)

    bare, bare_optimizer = trained(_plain(experiment.widths))
    masses, masses_optimizer = trained(nb.population_mlp(experiment.widths))
    selected, selected_optimizer = trained(nb.population_mlp(experiment.widths))
    loaded, loaded_optimizer = trained(_plain(experiment.widths))
    selector = experiment.selector(selected)

    def from_loader() -> None:
        for x, y in loader:
            loaded_optimizer.zero_grad()
            nn.functional.cross_entropy(loaded(x), y).backward()  # type: ignore[no-untyped-call]
            loaded_optimizer.step()

    return {
        "plain network": lambda: nb.train_epoch(bare, images, labels, bare_optimizer),
        "with masses, no selection": lambda: nb.train_epoch(masses, images, labels, masses_optimizer),
        "with masses and selection": lambda: nb.train_epoch(
            selected, images, labels, selected_optimizer, selector
        ),
        "plain network, DataLoader": from_loader,
    }


def _plain(widths: tuple[int, ...]) -> nn.Sequential:
    """Return the same network without masses."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
