"""What has to be removed together: slots of the axes of all values of a network.

A slot is one index along one axis of a value, a channel say.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nn_bridge.removal.moves import Axis, Keyed, Move
from nn_bridge.removal.record import Node, Recording
from nn_bridge.removal.relations import Relations

__all__ = ["Coupling", "Masks", "Stuck"]

Masks = dict[Axis, np.ndarray]
"""Slots, as a mask, for the representatives of axes that are coupled slot by slot."""


@dataclasses.dataclass(frozen=True)
class Stuck:
    """Slots that cannot be removed, and why: a reason that completes the sentence "they cannot be ...".

    `alone` says that the slots could go if others that they are coupled with went too.
    """

    axis: Axis
    mask: np.ndarray
    node: Node | None
    reason: str
    alone: bool = False


class Coupling(Relations):
    """What goes with what, through all operations.

    Parameters
    ----------
    recording : Recording
        Operations and values.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording)
        self._touching: dict[Axis, list[Move | Keyed]] = collections.defaultdict(list)
        for move in self.moves:
            for root in {self.find(axis) for axes in (*move.inputs, move.output) for axis in axes}:
                self._touching[root].append(move)
        for keyed in self.keyed:
            for root in {self.find(keyed.first), self.find(keyed.second)}:
                self._touching[root].append(keyed)
        self._mixed = collections.defaultdict(list)
        for axis, node, reason in self.mixed:
            self._mixed[self.find(axis)].append((node, reason))

    def closure(self, seeds: Mapping[Axis, np.ndarray]) -> tuple[Masks, list[Stuck]]:
        """Return all slots that go with the given ones, and those that cannot go."""
        masks: Masks = {}
        stuck: list[Stuck] = []
        queue: collections.deque[Axis] = collections.deque()

        def add(axis: Axis, mask: np.ndarray) -> None:
            root = self.find(axis)
            old = masks.get(root)
            new = mask if old is None else old | mask
            if mask.any() and (old is None or (new != old).any()):
                masks[root] = new
                queue.append(root)

        for axis, mask in seeds.items():
            add(axis, mask)
        while queue:
            root = queue.popleft()
            for relation in self._touching[root]:
                if isinstance(relation, Keyed):
                    for axis in (relation.first, relation.second):
                        if self.find(axis) == root:
                            for other, mask in relation.other(axis, masks[root]):
                                add(other, mask)
                else:
                    self._carry(relation, root, masks[root], add, stuck)
        for root, mask in masks.items():
            stuck += [Stuck(root, mask, node, reason) for node, reason in self._mixed[root]]
        return masks, stuck

    def _carry(
        self,
        move: Move,
        root: Axis,
        mask: np.ndarray,
        add: Callable[[Axis, np.ndarray], None],
        stuck: list[Stuck],
    ) -> None:
        """Carry slots through a move, from its inputs to its output and back."""
        origin, start = move.origin(), 0
        for axes in move.inputs:
            shape = tuple(self.size(axis) for axis in axes)
            ends = start, start + int(np.prod(shape))
            start = ends[1]
            derived = (origin >= ends[0]) & (origin < ends[1])
            where = np.where(derived, origin - ends[0], 0)

            def ahead(
                elements: np.ndarray, derived: np.ndarray = derived, where: np.ndarray = where
            ) -> np.ndarray:
                moved: np.ndarray = elements.ravel()[where] & derived
                return moved

            def back(
                elements: np.ndarray,
                derived: np.ndarray = derived,
                where: np.ndarray = where,
                shape: tuple[int, ...] = shape,
            ) -> np.ndarray:
                found = np.zeros(int(np.prod(shape)), dtype=bool)
                found[where[elements & derived]] = True
                return found.reshape(shape)

            used = back(np.ones_like(derived))
            for k, axis in enumerate(axes):
                if self.find(axis) == root:
                    elements = _along(shape, k, mask) & used
                    self._arrive(axis, mask, move, elements, ahead, back, move.output, derived, add, stuck)
            for k, axis in enumerate(move.output):
                if self.find(axis) == root:
                    elements = _along(origin.shape, k, mask) & derived
                    everywhere = np.ones(shape, dtype=bool)
                    self._arrive(axis, mask, move, elements, back, ahead, axes, everywhere, add, stuck)
        for k, axis in enumerate(move.output):
            if self.find(axis) == root and (origin < 0).any():
                new = mask & _slots(origin < 0, k, np.all)
                if new.any():
                    reason = f"left out of {move.node.name}, which makes them"
                    stuck.append(Stuck(root, new, move.node, reason))

    def _arrive(
        self,
        source: Axis,
        mask: np.ndarray,
        move: Move,
        elements: np.ndarray,
        there: Callable[[np.ndarray], np.ndarray],
        return_: Callable[[np.ndarray], np.ndarray],
        axes: tuple[Axis, ...],
        possible: np.ndarray,
        add: Callable[[Axis, np.ndarray], None],
        stuck: list[Stuck],
    ) -> None:
        """Find the one of the axes whose slots are what these elements become."""
        if not elements.any():
            return
        shape, arrived = tuple(self.size(axis) for axis in axes), there(elements)
        candidates = []
        for k, axis in enumerate(axes):
            slots = _slots(arrived, k, np.any)
            if slots.all():
                continue
            removed = return_(_along(shape, k, slots) & possible)
            if (removed == elements).all():
                add(axis, slots)
                return
            if not self._mixed[self.find(axis)]:
                candidates.append((axis, slots))
        if len(candidates) == 1:  # more has to go with them, all repetitions of a number say
            add(*candidates[0])
            return
        owner = move.node.owner or "the model"
        stuck.append(Stuck(self.find(source), mask, move.node, f"told apart in {move.node.name} of {owner}"))


def _along(shape: tuple[int, ...], axis: int, mask: np.ndarray) -> np.ndarray:
    """Return the elements of an array of this shape that lie in slots of an axis."""
    elements: np.ndarray = mask.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return np.broadcast_to(elements, shape)


def _slots(elements: np.ndarray, axis: int, reduction: Any) -> np.ndarray:
    """Return the slots of an axis of which any, or all, elements are marked."""
    found: np.ndarray = reduction(elements, axis=tuple(k for k in range(elements.ndim) if k != axis))
    return found
