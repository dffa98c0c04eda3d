"""The methods of all peers that are installed."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.methods import Method
from benchmarks.peers import cyrk, diffrax, game_theory, heyoka, scipy_methods, sundae, torchdiffeq

__all__ = ["ensemble_methods", "methods"]


def methods() -> Iterator[Method]:
    """Yield all methods for one flow, libraries that are fast first: they bound the patience with others."""
    for peer in (cyrk, scipy_methods, heyoka, sundae, diffrax, torchdiffeq, game_theory):
        yield from peer.methods()


def ensemble_methods() -> Iterator[Method]:
    """Yield all methods for many flows that differ in their contributions."""
    yield from cyrk.loops()
    yield from heyoka.batches()
    yield from diffrax.vectorised()
