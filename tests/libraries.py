"""The array libraries on which one implementation must give one answer."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import array_api_strict
import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import Array, FloatArray


@dataclasses.dataclass(frozen=True)
class Library:
    """How to make an array of a library, and how to read it back."""

    name: str
    array: Callable[[npt.ArrayLike], Array]
    read: Callable[[Array], FloatArray]


# A device that is not the host: anything that reads values back raises.
_DEVICE = array_api_strict.Device("device1")
_HOST = array_api_strict.Device("CPU_DEVICE")

LIBRARIES = [
    Library("numpy", np.asarray, np.asarray),
    Library(
        "strict",
        lambda values: array_api_strict.asarray(np.asarray(values), device=_DEVICE),
        lambda array: np.asarray(array.to_device(_HOST)),
    ),
]

if importlib.util.find_spec("torch"):

    def _tensor(values: npt.ArrayLike) -> Any:
        import torch

        return torch.as_tensor(np.array(values))

    LIBRARIES.append(Library("torch", _tensor, lambda tensor: np.asarray(tensor.numpy())))
