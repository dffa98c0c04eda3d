"""Operations that only move numbers: which slots of their outputs are which of their inputs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from nn_bridge.removal.record import Node, Recording

__all__ = ["MOVES", "Axis", "Keyed", "Layout", "Move", "layout"]

Axis = tuple[int, int]
"""Value and axis of it."""

MOVES = frozenset(
    {
        "_reshape_alias", "_unsafe_view", "alias", "cat", "channel_shuffle", "chunk", "constant_pad_nd",
        "detach", "expand", "flip", "index", "index_select", "lift_fresh", "movedim", "narrow",
        "native_channel_shuffle", "permute", "pixel_shuffle", "pixel_unshuffle", "repeat", "reshape",
        "roll", "select", "slice", "split", "split_with_sizes", "squeeze", "stack", "t", "transpose",
        "unbind", "unfold", "unsqueeze", "view",
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Keyed:
    """Two axes whose slots belong together where their keys are equal: channels of one group, say.

    A key of -1 belongs to nothing.
    """

    node: Node
    first: Axis
    first_keys: np.ndarray
    second: Axis
    second_keys: np.ndarray

    def other(self, axis: Axis, mask: np.ndarray) -> Iterable[tuple[Axis, np.ndarray]]:
        """Yield the slots of both axes that belong to the slots of one."""
        keys = np.unique((self.first_keys if axis == self.first else self.second_keys)[mask])
        keys = keys[keys >= 0]
        yield self.first, np.isin(self.first_keys, keys)
        yield self.second, np.isin(self.second_keys, keys)


@dataclasses.dataclass(frozen=True, eq=False)
class Move:
    """A move for which there is no simpler relation: where each number of its output comes from.

    Parameters
    ----------
    node : Node
        The operation.
    inputs : tuple of tuple of Axis
        The axes of each input among which numbers are moved; the others are passed on as they are.
    output : tuple of Axis
        The same of the output.
    origin : callable
        Returns, in the output's shape along its axes, the place among the numbers of all inputs; -1 for a new
        number, a pad say.
    """

    node: Node
    inputs: tuple[tuple[Axis, ...], ...]
    output: tuple[Axis, ...]
    origin: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What an operation does: axes that are passed on, slots that belong together, moves, axes that stay."""

    same: list[tuple[Axis, Axis]] = dataclasses.field(default_factory=list)
    keyed: list[Keyed] = dataclasses.field(default_factory=list)
    moves: list[Move] = dataclasses.field(default_factory=list)
    mixed: list[Axis] = dataclasses.field(default_factory=list)


def layout(node: Node, recording: Recording) -> Layout:
    """Return what an operation among `MOVES` does."""
    value, shape = node.inputs[0], recording.shape(node.inputs[0])
    ndim, name = len(shape), node.name
    output = node.outputs[0]
    after = recording.shape(output)
    if name in ("view", "_unsafe_view", "reshape", "_reshape_alias", "alias", "detach", "lift_fresh"):
        return _reshaped(node, value, shape, output, after)
    if name in ("t", "transpose", "permute", "movedim"):
        order = torch.empty([k + 1 for k in range(ndim)], device="meta")  # each size says which axis it is
        return Layout(same=[((value, size - 1), (output, k)) for k, size in enumerate(node.run(order).shape)])
    if name in ("unsqueeze", "squeeze", "expand"):
        return _resized(node, value, shape, output, after)
    if name in ("select", "unbind"):
        dim = node.argument("dim") % ndim
        kept = [axis for axis in range(ndim) if axis != dim]
        same = [((value, axis), (out, k)) for out in node.outputs for k, axis in enumerate(kept)]
        return Layout(same=same, mixed=[(value, dim)])
    if name in ("slice", "split", "split_with_sizes", "chunk", "narrow", "cat"):
        return _pieces(node, recording)
    return _moved(node, recording)


def _reshaped(node: Node, value: int, shape: tuple[int, ...], output: int, after: tuple[int, ...]) -> Layout:
    """Pass on the axes in front and at the end that stay, and move the numbers of those between."""
    front = 0
    while front < min(len(shape), len(after)) and shape[front] == after[front]:
        front += 1
    back = 0
    while back < min(len(shape), len(after)) - front and shape[-1 - back] == after[-1 - back]:
        back += 1
    same = [((value, k), (output, k)) for k in range(front)]
    same += [((value, len(shape) - k), (output, len(after) - k)) for k in range(1, back + 1)]
    inner, outer = range(front, len(shape) - back), range(front, len(after) - back)
    if not inner and not outer:
        return Layout(same=same)
    sizes = [after[k] for k in outer]
    move = Move(
        node,
        (tuple((value, k) for k in inner),),
        tuple((output, k) for k in outer),
        lambda: np.arange(math.prod(sizes)).reshape(sizes),
    )
    return Layout(same=same, moves=[move])


def _resized(node: Node, value: int, shape: tuple[int, ...], output: int, after: tuple[int, ...]) -> Layout:
    """Pass on axes around those of one slot that appear, vanish or are repeated."""
    if node.name == "expand":
        shift = len(after) - len(shape)
        pairs = [((value, k), (output, k + shift)) for k in range(len(shape)) if shape[k] == after[k + shift]]
        kept = {axis for _, (_, axis) in pairs}
        return Layout(same=pairs, mixed=[(output, k) for k in range(len(after)) if k not in kept])
    if node.name == "unsqueeze":
        new = node.argument("dim") % len(after)
        left = [k for k in range(len(after)) if k != new]
        return Layout(same=[((value, k), (output, other)) for k, other in enumerate(left)])
    dims = node.argument("dim", range(len(shape)))
    gone = {dim % len(shape) for dim in ([dims] if isinstance(dims, int) else dims) if shape[dim] == 1}
    left = [k for k in range(len(shape)) if k not in gone]
    return Layout(same=[((value, axis), (output, k)) for k, axis in enumerate(left)])


def _pieces(node: Node, recording: Recording) -> Layout:
    """Relate the slots of a whole with those of its pieces, along the axis that is cut or joined."""
    found, joined = Layout(), node.name == "cat"
    whole = node.outputs[0] if joined else node.inputs[0]
    pieces = node.inputs if joined else node.outputs
    ndim = len(recording.shape(whole))
    dim = node.argument("dim") % ndim
    length, start = recording.shape(whole)[dim], 0
    for piece in pieces:
        if len(recording.shape(piece)) != ndim:
            continue  # an empty tensor, which cat leaves out
        count = recording.shape(piece)[dim]
        places = np.arange(start, start + count)
        if node.name == "slice":
            bounds = slice(node.argument("start"), node.argument("end"), node.argument("step"))
            places = np.arange(length)[bounds]
        elif node.name == "narrow":
            places = places + node.argument("start") % length
        start += count
        keys = np.full(length, -1)
        keys[places] = np.arange(count)
        first, second = ((piece, dim), np.arange(count)), ((whole, dim), keys)
        if not joined:
            first, second = second, first
        if count == length:
            found.same.append((first[0], second[0]))
        else:
            found.keyed.append(Keyed(node, *first, *second))
        others = [((piece, k), (whole, k)) for k in range(ndim) if k != dim]
        found.same.extend(others if joined else [(second, first) for first, second in others])
    return found


def _moved(node: Node, recording: Recording) -> Layout:
    """Let the operation itself say what goes where, by moving the numbers of places."""
    moved = node.inputs if node.name == "stack" else node.inputs[:1]

    @functools.cache
    def origins() -> list[np.ndarray]:
        parts, start = [], 0
        for value in moved:
            shape = recording.shape(value)
            parts.append(torch.arange(start, start + math.prod(shape)).reshape(shape))
            start += math.prod(shape)
        others = [recording.values[value].cpu() for value in node.inputs[len(moved) :]]
        if node.name == "constant_pad_nd":
            result: Any = node.function(parts[0], node.args[1], -1)
        else:
            result = node.run(*parts, *others)
        results = [result] if torch.is_tensor(result) else result
        return [part.numpy() for part in results]

    def axes(value: int) -> tuple[Axis, ...]:
        return tuple((value, k) for k in range(len(recording.shape(value))))

    inputs = tuple(axes(value) for value in moved)
    return Layout(
        moves=[
            Move(node, inputs, axes(output), functools.partial(lambda k: origins()[k], k))
            for k, output in enumerate(node.outputs)
        ]
    )
