"""What has to be removed together: slots of the axes of all values of a network.

A slot is one index along one axis of a value, a channel say.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nn_bridge.removal.record import Node, Recording
from nn_bridge.removal.relations import Axis, Keyed, Move, Relations

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
            axes = {self.find((v, a)) for v in (*move.inputs, move.output) for a in range(self._ndim(v))}
            for root in axes:
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
        for value in move.inputs:
            shape = self.recording.shape(value)
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
            for axis in range(len(shape)):
                if self.find((value, axis)) == root:
                    elements = _along(shape, axis, mask) & used
                    self._arrive(
                        (value, axis), mask, move, elements, ahead, back, move.output, derived, add, stuck
                    )
            for axis in range(origin.ndim):
                if self.find((move.output, axis)) == root:
                    elements = _along(origin.shape, axis, mask) & derived
                    everywhere = np.ones(shape, dtype=bool)
                    self._arrive(
                        (move.output, axis), mask, move, elements, back, ahead, value, everywhere, add, stuck
                    )
        for axis in range(origin.ndim):
            if self.find((move.output, axis)) == root and (origin < 0).any():
                new = mask & _slots(origin < 0, axis, np.all)
                if new.any():
                    stuck.append(
                        Stuck(root, new, move.node, f"left out of {move.node.name}, which makes them")
                    )

    def _arrive(
        self,
        source: Axis,
        mask: np.ndarray,
        move: Move,
        elements: np.ndarray,
        there: Callable[[np.ndarray], np.ndarray],
        return_: Callable[[np.ndarray], np.ndarray],
        value: int,
        possible: np.ndarray,
        add: Callable[[Axis, np.ndarray], None],
        stuck: list[Stuck],
    ) -> None:
        """Find the axis of `value` whose slots are what these elements become."""
        if not elements.any():
            return
        shape, arrived = self.recording.shape(value), there(elements)
        candidates = []
        for axis in range(len(shape)):
            slots = _slots(arrived, axis, np.any)
            if slots.all():
                continue
            removed = return_(_along(shape, axis, slots) & possible)
            if (removed == elements).all():
                add((value, axis), slots)
                return
            if not self._mixed[self.find((value, axis))]:
                candidates.append((axis, slots))
        if len(candidates) == 1:  # more has to go with them, all repetitions of a number say
            axis, slots = candidates[0]
            add((value, axis), slots)
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
