"""How the operations of a network couple the axes of its values, slot by slot.

A sum removes a slot in both terms or in none, a matrix product couples columns with rows, a reshape couples a
head with its numbers.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable

import numpy as np
import torch

from nn_bridge.removal.moves import MOVES, Axis, Keyed, Move, layout
from nn_bridge.removal.record import Node, Recording, Ref

__all__ = ["Contraction", "Relations"]

POINTWISE = frozenset(
    {
        "_prelu_kernel", "_to_copy", "celu", "clone", "contiguous", "copy", "dropout", "elu",
        "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_sigmoid_forward", "masked_fill",
        "native_dropout", "prelu", "rrelu_with_noise", "selu", "softplus", "where",
    }
)  # fmt: skip


REDUCTIONS = frozenset(
    {"mean", "sum", "amax", "amin", "var", "var_mean", "std", "argmax", "linalg_vector_norm"}
)
POOLS = re.compile(r"(?:_?adaptive_|fractional_)?(?:max|avg)_pool(\d)d|upsample_\w+?(\d)d|\w+_pad(\d)d")


@dataclasses.dataclass(frozen=True)
class Contraction:
    """A sum over the slots of two axes, of products: a matrix product or a convolution."""

    node: Node
    left: Axis
    right: Axis


class Relations:
    """The relations between the axes of a recording's values.

    Parameters
    ----------
    recording : Recording
        Operations and values.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._parent: dict[Axis, Axis] = {}
        self.moves: list[Move] = []
        self.moving: list[Node] = []  # all operations that move numbers
        self.keyed: list[Keyed] = []
        self.contractions: list[Contraction] = []
        self.mixed: list[tuple[Axis, Node | None, str]] = []
        self.preserved: dict[int, list[tuple[Axis, Axis]]] = collections.defaultdict(list)  # by node
        self._data = set(recording.inputs)  # values that depend on the inputs
        for node in recording.nodes:
            if self._data & set(node.inputs):
                self._data |= set(node.outputs)
        for node in _used(recording):
            self._relate(node)
        own = recording.made | recording.names.keys()
        for values, reason in (
            (recording.outputs, "removed from the outputs of the model"),
            (recording.inputs, "removed from the inputs of the model"),
            (
                set(range(len(recording.values))) - own - recording.inputs,
                "removed from a constant of its code",
            ),
        ):
            self.mixed += [((v, a), None, reason) for v in values for a in range(self._ndim(v))]

    # Axes

    def _ndim(self, value: int) -> int:
        return len(self.recording.shape(value))

    def size(self, axis: Axis) -> int:
        """Return the number of slots of an axis."""
        return self.recording.shape(axis[0])[axis[1]]

    def find(self, axis: Axis) -> Axis:
        """Return the representative of the axes that are coupled with this one slot by slot."""
        root = axis
        while (parent := self._parent.get(root, root)) != root:
            root = parent
        while self._parent.get(axis, axis) != root:
            self._parent[axis], axis = root, self._parent.get(axis, axis)
        return root

    def _same(self, first: Axis, second: Axis) -> None:
        if self.size(first) == self.size(second):
            self._parent[self.find(first)] = self.find(second)

    # Operations

    def _relate(self, node: Node) -> None:
        name = node.name
        if not node.inputs:
            return
        if name in MOVES and (name in ("cat", "stack") or not self._data & set(node.inputs[1:])):
            self._move(node)
        elif handler := getattr(self, f"_of_{name}", None):
            handler(node)
        elif "batch_norm" in name:
            self._batch_norm(node)
        elif name.startswith("_scaled_dot_product") and "backward" not in name:
            self._attention(node)
        elif match := POOLS.fullmatch(name.removesuffix("_with_indices")):
            spatial = int(next(group for group in match.groups() if group))
            self._keep(node, lambda axis, ndim: axis < ndim - spatial)
        elif name in POINTWISE or torch.Tag.pointwise in node.function.tags:
            self._pointwise(node)
        elif name in ("_softmax", "_log_softmax", "_safe_softmax", "cumsum"):
            dim = node.argument("dim")
            self._keep(node, lambda axis, ndim: axis != dim % ndim)
        elif name in REDUCTIONS:
            self._reduce(node)
        else:
            self._opaque(node)

    def _opaque(self, node: Node) -> None:
        for value in (*node.inputs, *node.outputs):
            for axis in range(self._ndim(value)):
                reason = f"traced through {node.name} in {node.owner or 'the model'}"
                self.mixed.append(((value, axis), node, reason))

    def _mix(self, node: Node, axis: Axis) -> None:
        self.mixed.append(
            (axis, node, f"left out of {node.name} in {node.owner or 'the model'}, which mixes them")
        )

    def _pointwise(self, node: Node) -> None:
        for output in node.outputs:
            for value in node.inputs:
                for k in range(1, min(self._ndim(value), self._ndim(output)) + 1):
                    axes = (value, self._ndim(value) - k), (output, self._ndim(output) - k)
                    if self.size(axes[0]) > 1:
                        self._same(*axes)

    def _keep(self, node: Node, keeps: Callable[[int, int], bool]) -> None:
        value = node.inputs[0]
        for output in node.outputs:
            for axis in range(self._ndim(value)):
                if axis >= self._ndim(output):
                    continue
                if keeps(axis, self._ndim(value)):
                    self._preserve(node, (value, axis), (output, axis))
                else:
                    self._mix(node, (value, axis))
                    self._mix(node, (output, axis))

    def _preserve(self, node: Node, first: Axis, second: Axis) -> None:
        self._same(first, second)
        self.preserved[node.index].append((first, second))

    def _reduce(self, node: Node) -> None:
        value, ndim = node.inputs[0], self._ndim(node.inputs[0])
        dims = node.argument("dim")
        dims = range(ndim) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        gone = {dim % ndim for dim in dims} if ndim else set()
        for output in node.outputs:
            keepdim = self._ndim(output) == ndim
            kept = [axis for axis in range(ndim) if axis not in gone]
            for k, axis in enumerate(kept):
                self._preserve(node, (value, axis), (output, axis if keepdim else k))
        for axis in gone:
            self._mix(node, (value, axis))

    def _tensor(self, node: Node, name: str) -> int | None:
        argument = node.argument(name)
        return argument.value if isinstance(argument, Ref) else None

    def _batch_norm(self, node: Node) -> None:
        value, output = node.inputs[0], node.outputs[0]
        for axis in range(self._ndim(value)):
            self._preserve(node, (value, axis), (output, axis))
        for name in ("weight", "bias", "running_mean", "running_var"):
            if (part := self._tensor(node, name)) is not None:
                self._same((part, 0), (value, 1))

    def _of_native_layer_norm(self, node: Node) -> None:
        count = len(node.argument("normalized_shape"))
        self._keep(node, lambda axis, ndim: axis < ndim - count)

    _of__fused_rms_norm = _of_native_layer_norm

    def _of_native_group_norm(self, node: Node) -> None:
        self._keep(node, lambda axis, ndim: axis != 1)

    def _of_glu(self, node: Node) -> None:
        value, output = node.inputs[0], node.outputs[0]
        dim = node.argument("dim") % self._ndim(value)
        for axis in range(self._ndim(value)):
            if axis != dim:
                self._preserve(node, (value, axis), (output, axis))
        n = self.size((output, dim))
        self.keyed.append(Keyed(node, (value, dim), np.arange(2 * n) % n, (output, dim), np.arange(n)))

    def _of_embedding(self, node: Node) -> None:
        output = node.outputs[0]
        self._mix(node, (node.inputs[0], 0))
        self._same((node.inputs[0], 1), (output, self._ndim(output) - 1))

    def _product(self, node: Node, left: int, right: int, batch: int = 0) -> None:
        """Relate the axes of a matrix product with its first `batch` axes in common."""
        output = node.outputs[0]
        for axis in range(batch):
            self._same((left, axis), (output, axis))
            self._same((right, axis), (output, axis))
        self._same((left, batch), (output, batch))
        self._same((right, batch + 1), (output, batch + 1))
        self._same((left, batch + 1), (right, batch))
        self.contractions.append(Contraction(node, (left, batch + 1), (right, batch)))

    def _of_mm(self, node: Node) -> None:
        self._product(node, node.inputs[0], node.inputs[1])

    def _of_bmm(self, node: Node) -> None:
        self._product(node, node.inputs[0], node.inputs[1], batch=1)

    def _of_addmm(self, node: Node, batch: int = 0) -> None:
        bias, left, right = node.inputs
        self._product(node, left, right, batch)
        output = node.outputs[0]
        for k in range(1, self._ndim(bias) + 1):
            if self.size((bias, self._ndim(bias) - k)) > 1:
                self._same((bias, self._ndim(bias) - k), (output, self._ndim(output) - k))

    def _of_baddbmm(self, node: Node) -> None:
        self._of_addmm(node, batch=1)

    def _of_linear(self, node: Node) -> None:
        value, weight, *bias = node.inputs
        output, last = node.outputs[0], self._ndim(value) - 1
        for axis in range(last):
            self._preserve(node, (value, axis), (output, axis))
        self._same((weight, 0), (output, last))
        self._same((weight, 1), (value, last))
        for part in bias:
            self._same((part, 0), (output, last))
        self.contractions.append(Contraction(node, (value, last), (weight, 1)))

    def _of_convolution(self, node: Node) -> None:
        value, weight, *bias = node.inputs
        output, groups = node.outputs[0], node.argument("groups")
        self._preserve(node, (value, 0), (output, 0))
        for axis in range(2, self._ndim(value)):
            self._mix(node, (value, axis))
            self._mix(node, (output, axis))
        out_axis, in_axis = (1, 0) if node.argument("transposed") else (0, 1)
        for part in bias:
            self._same((part, 0), (output, 1))
        if groups == 1:
            self._same((weight, out_axis), (output, 1))
            self._same((weight, in_axis), (value, 1))
            self.contractions.append(Contraction(node, (value, 1), (weight, in_axis)))
        elif node.argument("transposed"):
            self._opaque(node)
        else:
            self._same((weight, 0), (output, 1))
            self._mix(node, (weight, 1))
            inputs, outputs = self.size((value, 1)), self.size((output, 1))
            keys = np.arange(inputs) // (inputs // groups), np.arange(outputs) // (outputs // groups)
            self.keyed.append(Keyed(node, (value, 1), keys[0], (output, 1), keys[1]))

    def _attention(self, node: Node) -> None:
        (q, k, v), output, last = node.inputs[:3], node.outputs[0], self._ndim(node.inputs[0]) - 1
        for axis in range(last - 1):
            self._preserve(node, (v, axis), (output, axis))
            for value in (q, k):
                self._same((value, axis), (output, axis))
        heads, fewer = self.size((q, last - 2)), self.size((k, last - 2))
        if heads != fewer:
            keys = np.arange(heads) // (heads // fewer), np.arange(fewer)
            for value in (k, v):
                self.keyed.append(Keyed(node, (q, last - 2), keys[0], (value, last - 2), keys[1]))
            self._same((q, last - 2), (output, last - 2))
        for value in (q, k):
            self._mix(node, (value, last))
            self._mix(node, (value, last - 1))
        self._same((v, last), (output, last))
        for name in ("attn_mask", "attn_bias"):
            mask = self._tensor(node, name)
            if mask is not None and self._ndim(mask) > 2 and self.size((mask, self._ndim(mask) - 3)) > 1:
                self._same((mask, self._ndim(mask) - 3), (q, last - 2))

    def _move(self, node: Node) -> None:
        found = layout(node, self.recording)
        for first, second in found.same:
            self._preserve(node, first, second)
        self.keyed += found.keyed
        self.moves += found.moves
        self.moving.append(node)
        for axis in found.mixed:
            self._mix(node, axis)


def _used(recording: Recording) -> list[Node]:
    """Return the operations that the outputs depend on."""
    needed, used = set(recording.outputs), []
    for node in reversed(recording.nodes):
        if needed & set(node.outputs):
            needed |= set(node.inputs)
            used.append(node)
    return used[::-1]
