"""What the studies sweep: a frozen point of a parameter space, and the function that computes it.

One module for the study of the same name. They are here, not in `studies`, because the processes and
clusters that carry out a sweep find its function by name in an installed package.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

__all__ = ["specification"]

SCHEMA = 1


def specification(point: Any) -> str:
    """Return a point, a frozen dataclass, as the JSON text that its result carries."""
    return json.dumps({"schema": SCHEMA, "point": dataclasses.asdict(point)}, sort_keys=True)
