"""torchdiffeq: explicit pairs in eager torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from benchmarks import fields
from benchmarks.libraries import installed, library
from benchmarks.methods import Method, Solve, absolute
from benchmarks.problems import Flow
from evodyn.core.arrays import FloatArray

__all__ = ["methods"]


def methods() -> Iterator[Method]:
    """Yield two pairs, on logarithms."""
    if not installed("torchdiffeq"):
        return
    for name in ("dopri5", "dopri8"):

        def start(flow: Flow, name: str = name) -> Solve:
            torch: Any = importlib.import_module("torch")
            right_hand_side = fields.field(flow, "log", torch, torch.as_tensor)
            y0, times = torch.as_tensor(fields.start(flow, "log")), torch.as_tensor(flow.times)

            def solve(rtol: float, atol: float) -> FloatArray:
                with torch.no_grad():
                    values = library("torchdiffeq").odeint(
                        right_hand_side,
                        y0,
                        times,
                        rtol=rtol,
                        atol=atol,
                        method=name,
                        options={"max_num_steps": 100_000},
                    )
                found: FloatArray = values.numpy()
                return found

            return solve

        yield Method(f"torchdiffeq {name}, log", "torchdiffeq", "log", start, (absolute(0.0),), _too_large)


def _too_large(flow: Flow) -> str:
    return "" if flow.n <= 10_000 else "it is ten times slower than others for fewer groups"
