"""What every variable of a saved dataset says of itself."""

from __future__ import annotations

__all__ = ["about"]


def about(long_name: str, units: str = "1") -> dict[str, str]:
    """Return the attributes of a variable.

    Examples
    --------
    >>> about("total mass", "mass")
    {'long_name': 'total mass', 'units': 'mass'}
    """
    return {"long_name": long_name, "units": units}
