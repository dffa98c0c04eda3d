"""Random generators of members: one seed for all of them, and a spawn key for each."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from evodyn.core.specifications import Specification

__all__ = ["Seed", "member_rng", "seed_of"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Seed(Specification):
    """What an ensemble's members draw from, as it was given or drawn.

    Parameters
    ----------
    entropy : tuple of int
        As `numpy.random.SeedSequence` takes it.
    spawn_key : tuple of int, optional
        The key of a sequence that was itself spawned.

    Examples
    --------
    >>> Seed((7,)).sequence().generate_state(1) == np.random.SeedSequence(7).generate_state(1)
    array([ True])
    """

    entropy: tuple[int, ...]
    spawn_key: tuple[int, ...] = ()

    def sequence(self) -> np.random.SeedSequence:
        """Return the seed as a `numpy.random.SeedSequence`."""
        return np.random.SeedSequence(list(self.entropy), spawn_key=self.spawn_key)


def seed_of(rng: Any) -> Seed:
    """Return the seed that `rng` stands for; a generator is advanced by the 128 bits that are drawn from it.

    Parameters
    ----------
    rng : int, sequence of int, SeedSequence, BitGenerator, Generator or None
        Anything that `numpy.random.default_rng` takes.

    Examples
    --------
    >>> seed_of(7)
    Seed(entropy=(7,), spawn_key=())
    >>> generator = np.random.default_rng(7)
    >>> seed_of(generator).same_as(seed_of(generator))
    False
    """
    if isinstance(rng, np.random.Generator | np.random.BitGenerator):
        words = np.random.default_rng(rng).integers(2**32, size=4, dtype=np.uint32)
        return Seed(tuple(map(int, words)))
    sequence = rng if isinstance(rng, np.random.SeedSequence) else np.random.SeedSequence(rng)
    return Seed(tuple(map(int, np.atleast_1d(np.array(sequence.entropy, dtype=object)))), sequence.spawn_key)


def member_rng(seed: Seed, member: int) -> np.random.Generator:
    """Return the generator of one member: spawn key `member` of the seed, whatever else is drawn.

    Examples
    --------
    >>> member_rng(seed_of(7), 3).random() == member_rng(seed_of(7), 3).random()
    True
    """
    child = np.random.SeedSequence(list(seed.entropy), spawn_key=(*seed.spawn_key, member))
    return np.random.default_rng(child)
