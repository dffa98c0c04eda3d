"""What selection adds to training the paper's network, and what a DataLoader does: paired runs.

Run with ``make bench`` on a machine that does nothing else. Times are CPU seconds of one thread; the four
loops take turns in one process, a stretch of minibatches each, and ratios are medians over the turns.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

import nn_bridge as nb
from nn_bridge.datasets import cache_directory
from nn_bridge.paper.experiment import Experiment

TURNS, STEPS, BATCH = 30, 40, 128


def plain(widths: tuple[int, ...]) -> nn.Sequential:
    """Return the same network without masses."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def main() -> None:
    """Print the time of a step of every loop and its ratio to that of the plain network."""
    torch.set_num_threads(1)
    experiment, data = Experiment(), nb.load_mnist()
    images, labels = data.train_images[: STEPS * BATCH], data.train_labels[: STEPS * BATCH]
    flat = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(0.1307, 0.3081), transforms.Lambda(torch.flatten)]  # type: ignore[no-untyped-call]
    )
    files = datasets.MNIST(cache_directory(), train=True, transform=flat)
    loader = DataLoader(Subset(files, range(len(images))), batch_size=BATCH, shuffle=True)

    def trained(model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
        return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)

    bare, bare_optimizer = trained(plain(experiment.widths))
    masses, masses_optimizer = trained(nb.population_mlp(experiment.widths))
    selected, selected_optimizer = trained(nb.population_mlp(experiment.widths))
    loaded, loaded_optimizer = trained(plain(experiment.widths))
    selector = experiment.selector(selected)

    def from_loader() -> None:
        for x, y in loader:
            loaded_optimizer.zero_grad()
            nn.functional.cross_entropy(loaded(x), y).backward()  # type: ignore[no-untyped-call]
            loaded_optimizer.step()

    loops: dict[str, Callable[[], object]] = {
        "plain network": lambda: nb.train_epoch(bare, images, labels, bare_optimizer),
        "with masses, no selection": lambda: nb.train_epoch(masses, images, labels, masses_optimizer),
        "with masses and selection": lambda: nb.train_epoch(
            selected, images, labels, selected_optimizer, selector
        ),
        "plain network, DataLoader": from_loader,
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(TURNS):
        for name, loop in loops.items():
            start = time.process_time()
            loop()
            times[name].append((time.process_time() - start) / STEPS)
    print(f"One step of the 784-512-256-10 network, batch {BATCH}, one thread (medians of {TURNS} turns)")
    base = times["plain network"]
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
        print(f"  {name:26} {1e3 * statistics.median(found):6.2f} ms, ratio {ratio:.3f}")
    pairs = zip(times["with masses and selection"], times["with masses, no selection"], strict=True)
    print(f"  selection alone adds {100 * (statistics.median(a / b for a, b in pairs) - 1):.1f} %")


if __name__ == "__main__":
    main()
