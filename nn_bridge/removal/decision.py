"""Which groups of mass 0 can go: those whose outputs the data do not change, with nothing living."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nn_bridge.removal.coupling import Coupling, Masks, Stuck
from nn_bridge.removal.moves import MOVES, Axis, Keyed
from nn_bridge.removal.record import Node

__all__ = ["Facts", "foldable", "removable"]

_LINEAR = ("mm", "addmm", "linear")


class Facts:
    """Slots of values that the data do not change: those behind a mass of 0.

    Parameters
    ----------
    coupling : Coupling
        Of the recording.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling, self.recording = coupling, coupling.recording
        self.slots: Masks = {}
        self.whole = set(range(len(self.recording.values))) - self.recording.made - self.recording.inputs
        # Weights that happen to be 0 are not dead: they may be about to learn.
        self._of_masses = {
            value
            for value, names in self.recording.names.items()
            if any(name.rpartition(".")[2] == "masses" for name in names)
        }
        self._observed: dict[tuple[Axis, bool], np.ndarray] = {}
        moves: dict[int, list[int]] = {}
        for k, move in enumerate(coupling.moves):
            moves.setdefault(move.node.index, []).append(k)
        mixing = {node.index for _, node, _ in coupling.mixed if node is not None}
        keyed: dict[int, list[Keyed]] = {}
        for relation in coupling.keyed:
            keyed.setdefault(relation.node.index, []).append(relation)
        for node in self.recording.nodes:
            if all(value in self.whole for value in node.inputs):
                self.whole |= set(node.outputs)
                if node.inputs and self._of_masses.issuperset(node.inputs):
                    self._of_masses |= set(node.outputs)
            elif node.name == "cat":
                self._pointwise(node)  # along the other axes
                self._belonging(keyed.get(node.index, []))
            elif (
                node.name in MOVES
                or node.name == "glu"
                or (node.index in keyed and node.name == "convolution")
            ):
                self._belonging(keyed.get(node.index, []))
                self._preserved(node)
                for k in moves.get(node.index, []):
                    self._moved(k)
            elif node.name in ("mm", "bmm", "addmm", "baddbmm", "linear", "convolution"):
                self._product(node)
                self._preserved(node)
            elif node.name.startswith("_scaled_dot_product"):
                for first, second in coupling.preserved[node.index]:
                    self._learn(second, self.zero(first))
            elif coupling.preserved[node.index]:
                self._preserved(node)
            elif node.index not in mixing:
                self._pointwise(node)

    def fixed(self, axis: Axis) -> np.ndarray:
        """Return which slots the data do not change."""
        if axis[0] in self.whole:
            return np.ones(self.coupling.size(axis), dtype=bool)
        return self.slots.get(axis, np.zeros(self.coupling.size(axis), dtype=bool))

    def zero(self, axis: Axis) -> np.ndarray:
        """Return which slots are 0, whatever the data are, because a mass is 0."""
        fixed = self.fixed(axis)
        if axis[0] in self.whole and axis[0] not in self._of_masses:
            return np.zeros_like(fixed)
        return fixed & self._seen(axis, zero=True) if fixed.any() else fixed

    def uniform(self, axis: Axis) -> np.ndarray:
        """Return which slots are one number throughout, whatever the data are."""
        fixed = self.fixed(axis)
        return fixed & self._seen(axis, zero=False) if fixed.any() else fixed

    def _seen(self, axis: Axis, *, zero: bool) -> np.ndarray:
        if (axis, zero) not in self._observed:
            rows = self.recording.values[axis[0]].movedim(axis[1], 0).flatten(1)
            seen = (rows == (0 if zero else rows[:, :1])).all(1)
            self._observed[axis, zero] = seen.cpu().numpy()
        return self._observed[axis, zero]

    def _learn(self, axis: Axis, mask: np.ndarray) -> None:
        if mask.any():
            self.slots[axis] = self.slots[axis] | mask if axis in self.slots else mask

    def _belonging(self, relations: list[Keyed]) -> None:
        """Learn slots that are made of fixed ones alone."""
        for relation in relations:
            unknown = np.unique(relation.first_keys[~self.fixed(relation.first)])
            keys = relation.second_keys
            self._learn(relation.second, (keys >= 0) & ~np.isin(keys, unknown))

    def _preserved(self, node: Node) -> None:
        for first, second in self.coupling.preserved[node.index]:
            if all(value in self.whole or value == first[0] for value in node.inputs):
                self._learn(second, self.fixed(first))

    def _product(self, node: Node) -> None:
        for contraction in self.coupling.contractions:
            if contraction.node is node:
                left, right, output = contraction.left, contraction.right, node.outputs[0]
                if node.name in ("linear", "convolution"):
                    rows, last = 1 - right[1], 1 if node.name == "convolution" else left[1]
                    self._learn((output, last), self.zero((right[0], rows)))
                else:
                    batch = right[1]
                    self._learn((output, batch), self.zero((left[0], batch)))
                    self._learn((output, batch + 1), self.zero((right[0], batch + 1)))
                    for axis in range(batch):
                        self._learn((output, axis), self.zero((left[0], axis)) | self.zero((right[0], axis)))

    def _pointwise(self, node: Node) -> None:
        for output in node.outputs:
            ndim = len(self.recording.shape(output))
            for axis in range(ndim):
                size = self.coupling.size((output, axis))
                if size == 1:
                    continue
                fixed, zero = np.ones(size, dtype=bool), np.zeros(size, dtype=bool)
                for value in node.inputs:
                    own = (value, axis - ndim + len(self.recording.shape(value)))
                    if own[1] >= 0 and self.coupling.size(own) == size:
                        fixed &= self.fixed(own)
                        if node.name == "mul":
                            zero |= self.zero(own)
                    elif value not in self.whole:
                        fixed[:] = False
                self._learn((output, axis), fixed | zero)

    def _moved(self, index: int) -> None:
        move = self.coupling.moves[index]
        parts = []
        for axes in move.inputs:
            shape = tuple(self.coupling.size(axis) for axis in axes)
            known = np.full(shape, axes[0][0] in self.whole if axes else False)
            for k, axis in enumerate(axes):
                if axis in self.slots:
                    known = known | self.slots[axis].reshape([-1 if j == k else 1 for j in range(len(shape))])
            parts.append(known.ravel())
        if not any(part.any() for part in parts):
            return
        origin = move.origin()
        known = np.where(origin < 0, True, np.concatenate(parts)[origin])
        for k, axis in enumerate(move.output):
            others = tuple(j for j in range(origin.ndim) if j != k)
            self._learn(axis, np.asarray(known.all(axis=others)))


def removable(
    coupling: Coupling, facts: Facts, seeds: Mapping[Axis, np.ndarray]
) -> tuple[Masks, dict[Axis, list[Stuck]]]:
    """Return the slots that can go with those of the seeds that can go, and why the others cannot.

    Parameters
    ----------
    coupling : Coupling
        What has to be removed together.
    facts : Facts
        What is known without the data.
    seeds : mapping
        Axes, those of masses, and their slots that are to go.
    """
    left = {axis: mask.copy() for axis, mask in seeds.items()}
    kept: dict[Axis, list[Stuck]] = {}
    while True:
        masks, stuck = coupling.closure({axis: mask for axis, mask in left.items() if mask.any()})
        stuck += _living(coupling, facts, masks)
        stuck += [
            Stuck(root, mask, None, "removed: nothing would be left of what they are part of")
            for root, mask in masks.items()
            if mask.all()
        ]
        if not stuck:
            return masks, kept
        for part in stuck:
            keep, _ = coupling.closure({part.axis: part.mask})
            for axis, mask in left.items():
                held = keep.get(coupling.find(axis))
                if held is not None and (mask & held).any():
                    kept.setdefault(axis, []).append(part)
                    mask &= ~held


def _living(coupling: Coupling, facts: Facts, masks: Masks) -> list[Stuck]:
    """Return the slots that send on what the data change: something living goes with them."""
    found = []
    for contraction in coupling.contractions:
        root = coupling.find(contraction.left)
        if root not in masks:
            continue
        dead = facts.zero(contraction.left) | facts.zero(contraction.right)
        if foldable(coupling, contraction.node):
            dead |= facts.uniform(contraction.left)
        if (bad := masks[root] & ~dead).any():
            owner = contraction.node.owner or "the model"
            found.append(
                Stuck(root, bad, contraction.node, f"taken from {owner}, which others feed", alone=True)
            )
    return found


def foldable(coupling: Coupling, node: Node) -> bool:
    """Tell whether a constant input of the operation can become part of the bias of its module."""
    recording = coupling.recording
    if len(recording.calls.get(node.owner, [])) != 1 or node.name not in (*_LINEAR, "convolution"):
        return False
    if node.name == "convolution":
        return not any(node.argument("padding")) and not node.argument("transposed")
    return any(f"{node.owner}.weight".strip(".") in names for names in recording.names.values())
