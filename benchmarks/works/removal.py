"""What halving a network takes: `compact` beside Torch-Pruning on the same plain modules, one thread.

Here from masses to the verified smaller network (and, apart, `populate`, once before training); for
Torch-Pruning from the plain network to the smaller one, less the copy that it spoils.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torchvision.models.mobilenetv3 import mobilenet_v3_small
from torchvision.models.resnet import resnet18 as resnet

import nn_bridge as nb
from benchmarks.contest import Options
from benchmarks.rows import Outcome, Row, Verdict
from benchmarks.timing import in_turns

__all__ = ["measured"]

LIMIT = 2.0


class Attention(nn.Module):
    """Attention with one packed projection, as it is usually written."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> Any:
        """Return what the heads make of a sequence."""
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """A hidden layer beside a link."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> Any:
        """Return the sum of both."""
        return x + self.down(torch.relu(self.up(x)))


def lenet() -> tuple[nn.Module, torch.Tensor]:
    """Return LeNet-5."""
    parts = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()]
    parts += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(84, 10)), torch.randn(2, 1, 28, 28)


def mlp() -> tuple[nn.Module, torch.Tensor]:
    """Return the paper's network, without masses."""
    parts = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*parts), torch.randn(2, 784)


def residual_mlp() -> tuple[nn.Module, torch.Tensor]:
    """Return three residual blocks between two layers."""
    blocks = (Residual(128, 256) for _ in range(3))
    return nn.Sequential(nn.Linear(64, 128), *blocks, nn.Linear(128, 10)), torch.randn(2, 64)


def encoder() -> tuple[nn.Module, torch.Tensor]:
    """Return two layers of `nn.TransformerEncoderLayer`."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(layers, nn.Linear(64, 10)), torch.randn(2, 16, 64)


def packed() -> tuple[nn.Module, torch.Tensor]:
    """Return hand-written attention with packed projections, and a layer after it."""
    return nn.Sequential(Attention(64, 4), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), torch.randn(
        2, 16, 64
    )


def resnet18() -> tuple[nn.Module, torch.Tensor]:
    """Return ResNet-18."""
    return resnet(num_classes=10), torch.randn(2, 3, 64, 64)


def mobilenet() -> tuple[nn.Module, torch.Tensor]:
    """Return MobileNetV3 in its small form."""
    return mobilenet_v3_small(num_classes=10), torch.randn(2, 3, 64, 64)


NETWORKS: list[Callable[[], tuple[nn.Module, torch.Tensor]]] = [
    mlp, residual_mlp, lenet, resnet18, encoder, packed, mobilenet
]  # fmt: skip


def halved_by_torch_pruning(tp: Any, model: nn.Module, x: torch.Tensor) -> None:
    """Halve a network with Torch-Pruning, its last layer left alone, its heads as a whole."""
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    heads: dict[nn.Module, int] = {
        part: part.num_heads for part in model.modules() if isinstance(part, nn.MultiheadAttention)
    }
    heads |= {part.qkv: part.heads for part in model.modules() if isinstance(part, Attention)}
    tp.pruner.BasePruner(
        model,
        x,
        importance=tp.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=linear[-1:],
        num_heads=heads,
        prune_num_heads=bool(heads),
        head_pruning_ratio=0.5,
    ).step()


def measured(options: Options) -> Iterator[Outcome]:
    """Yield for each network what its halving takes, here and by Torch-Pruning."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for make in NETWORKS[::3] if options.quick else NETWORKS:
                torch.manual_seed(0)
                yield _outcome(make.__name__.replace("_", " "), *make(), options)
    finally:
        torch.set_num_threads(threads)


def _outcome(name: str, model: nn.Module, x: torch.Tensor, options: Options) -> Outcome:
    work = f"half of every layer of a network removed: {name}"
    model.eval()
    masses = nb.populate(copy.deepcopy(model), x)
    nb.prune_to_sparsity(masses, 0.5, scope="layer")
    calls: dict[str, Callable[[], object]] = {
        "copy, alone": lambda: copy.deepcopy(model),
        "evodyn populate, with a copy": lambda: nb.populate(copy.deepcopy(model), x),
        "evodyn compact": lambda: nb.compact(masses, x),
    }
    notes, peer = [], "Torch-Pruning, with a copy"
    try:
        tp = importlib.import_module("torch_pruning")
        halved_by_torch_pruning(tp, copy.deepcopy(model), x)
        calls[peer] = lambda: halved_by_torch_pruning(tp, copy.deepcopy(model), x)
    except Exception as error:  # whatever its tracing comes upon
        notes = [f"Torch-Pruning fails ({type(error).__name__}: {error})"]
    times = in_turns(calls, options.rounds)
    rows = {
        name: Row(work, name, name.partition(" ")[0].strip(",")).timed(each) for name, each in times.items()
    }
    if peer not in rows:
        return Outcome(work, list(rows.values()), notes=notes)
    # One thread works, so that processor time is what it takes whatever else the machine does.
    theirs = rows[peer].processor - rows["copy, alone"].processor
    ours = rows["evodyn compact"].processor
    verdict = Verdict(
        work, "evodyn / Torch-Pruning", ours / theirs, LIMIT, note=f"{ours:.1f} / {theirs:.1f} ms"
    )
    return Outcome(work, list(rows.values()), [verdict])
