"""Peers are optional: one that is not installed is named, and its methods are left out."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import Any

__all__ = ["PEERS", "absent", "installed", "library", "versions"]

PEERS = {
    "numba": "numba",
    "CyRK": "CyRK",
    "heyoka": "heyoka",
    "diffrax": "diffrax",
    "scikit-sundae": "sksundae.cvode",
    "torchdiffeq": "torchdiffeq",
    "egttools": "egttools",
    "nashpy": "nashpy",
    "popgames": "popgames",
}
"""The distribution of every peer, and the module that is used of it. (numba compiles what CyRK calls.)"""


def installed(name: str) -> bool:
    """Tell whether a peer is installed."""
    return importlib.util.find_spec(PEERS[name].split(".")[0]) is not None


def library(name: str) -> Any:
    """Return the module of a peer."""
    return importlib.import_module(PEERS[name])


def absent() -> list[str]:
    """Return the peers that are not installed."""
    return [name for name in PEERS if not installed(name)]


def versions() -> dict[str, str]:
    """Return the versions of all libraries that are compared."""
    others = ("evodyn", "numpy", "scipy", "jax", "torch")
    return {name: _version(name) for name in (*others, *PEERS)}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
