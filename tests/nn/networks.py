"""Small networks of the kinds that people train, for the tests of populations on models that exist."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """A hidden layer beside a link that leaves it out."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.down(torch.tanh(self.up(x)))


class BasicBlock(nn.Module):
    """Two convolutions beside a link, which samples down where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> Any:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.downsample(x)
        return self.relu(out)


class InvertedResidual(nn.Module):
    """A block of MobileNet: channels are made, convolved one by one, weighted as a whole, and reduced."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(
            nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(hidden, 2, 1),
            nn.ReLU(),
            nn.Conv2d(2, hidden, 1),
            nn.Hardsigmoid(),
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> Any:
        z = self.depthwise(self.expand(x))
        return x + self.project(z * self.squeeze(z))


class PackedAttention(nn.Module):
    """Attention with one projection for queries, keys and values, as it is usually written."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> Any:
        b, t, c = x.shape
        q, k, v = self.qkv(x).split(c, dim=2)
        q, k, v = (part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) / (c // self.heads) ** 0.5
        out = scores.softmax(-1) @ v
        return self.proj(out.transpose(1, 2).contiguous().view(b, t, c))


class GroupedAttention(nn.Module):
    """Attention in which several heads of queries share one of keys and values."""

    def __init__(self, width: int, heads: int, shared: int, size: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.size = heads, shared, size
        self.wq, self.wo = (
            nn.Linear(width, heads * size, bias=False),
            nn.Linear(heads * size, width, bias=False),
        )
        self.wk, self.wv = (nn.Linear(width, shared * size, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> Any:
        b, t, _ = x.shape
        q = self.wq(x).view(b, t, self.n_heads, self.size).transpose(1, 2)
        k, v = (w(x).view(b, t, self.n_kv_heads, self.size).transpose(1, 2) for w in (self.wk, self.wv))
        k, v = (part.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for part in (k, v))
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.wo(out.transpose(1, 2).reshape(b, t, -1))


class Block(nn.Module):
    """A block of a transformer with a gated feed-forward layer, around an attention."""

    def __init__(self, width: int, hidden: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn = nn.LayerNorm(width), nn.LayerNorm(width), attention
        self.gate, self.up, self.down = (
            nn.Linear(width, hidden),
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
        )

    def forward(self, x: torch.Tensor) -> Any:
        x = x + self.attn(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


class Mean(nn.Module):
    """The mean over a sequence."""

    def forward(self, x: torch.Tensor) -> Any:
        return x.mean(1)


def _mlp() -> tuple[nn.Module, torch.Tensor]:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    return model, torch.randn(6, 1, 4, 4)


def _residual_mlp() -> tuple[nn.Module, torch.Tensor]:
    blocks = [nn.Linear(6, 8), *(ResidualBlock(8, 10) for _ in range(2)), nn.LayerNorm(8), nn.Linear(8, 3)]
    return nn.Sequential(*blocks), torch.randn(6, 6)


def _lenet() -> tuple[nn.Module, torch.Tensor]:
    parts = OrderedDict(
        conv1=nn.Conv2d(1, 6, 3, padding=1), act1=nn.ReLU(), pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 8, 3), act2=nn.Sigmoid(), pool2=nn.AvgPool2d(2), flat=nn.Flatten(),
        fc1=nn.Linear(32, 12), act3=nn.ReLU(), fc2=nn.Linear(12, 10), act4=nn.ReLU(), fc3=nn.Linear(10, 3),
    )  # fmt: skip
    return nn.Sequential(parts), torch.randn(4, 1, 12, 12)


def _resnet() -> tuple[nn.Module, torch.Tensor]:
    stem = (nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    blocks = (BasicBlock(4, 4, 1), BasicBlock(4, 6, 2))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)), torch.randn(
        4, 1, 8, 8
    )


def _mobilenet() -> tuple[nn.Module, torch.Tensor]:
    parts = (
        nn.Conv2d(1, 4, 3, 2, 1),
        InvertedResidual(4, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    return nn.Sequential(*parts), torch.randn(4, 1, 8, 8)


def _encoder() -> tuple[nn.Module, torch.Tensor]:
    layer = nn.TransformerEncoderLayer(8, 4, 12, dropout=0.0, batch_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(encoder, Mean(), nn.Linear(8, 3)), torch.randn(4, 5, 8)


def _packed() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(Block(8, 12, PackedAttention(8, 4)), Mean(), nn.Linear(8, 3)), torch.randn(4, 5, 8)


def _grouped() -> tuple[nn.Module, torch.Tensor]:
    block = Block(8, 12, GroupedAttention(8, 8, 4, 3))
    return nn.Sequential(block, Mean(), nn.Linear(8, 3)), torch.randn(4, 5, 8)


NETWORKS: dict[str, Any] = {
    "mlp": _mlp,
    "residual mlp": _residual_mlp,
    "lenet": _lenet,
    "resnet": _resnet,
    "mobilenet": _mobilenet,
    "encoder": _encoder,
    "packed attention": _packed,
    "grouped attention": _grouped,
}


def network(name: str, seed: int = 0) -> tuple[Any, torch.Tensor]:
    """Return a network with statistics of some data, in training mode, and inputs for it."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    model, x = NETWORKS[name]()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
                part.weight.uniform_(0.5, 2.0)
                part.bias.normal_()
        for _ in range(2):
            model.train()(x)
    torch.set_rng_state(before)
    return model, x
