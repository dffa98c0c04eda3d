"""What every variable of a saved dataset says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["MASS", "TIME", "about", "coordinates", "labelled"]

MASS = "arbitrary unit"
"""Unit of masses: that of the initial masses, whatever it is."""
TIME = "1/fitness"
"""Unit of times, in which axes are labelled: "time [1/fitness]"."""


def about(long_name: str, units: str = "1") -> dict[str, str]:
    """Return the attributes of a variable.

    Examples
    --------
    >>> about("total mass", MASS)
    {'long_name': 'total mass', 'units': 'arbitrary unit'}
    """
    return {"long_name": long_name, "units": units}


def labelled(
    dims: str | tuple[str, ...], described: Mapping[str, tuple[Any, ...]]
) -> dict[str, tuple[str | tuple[str, ...], Any, dict[str, str]]]:
    """Return variables along the same dimensions, as an `xarray.Dataset` takes them.

    Parameters
    ----------
    dims : str or tuple of str
        The dimensions.
    described : mapping
        Name -> (values, long name) or (values, long name, units).

    Examples
    --------
    >>> labelled("group", {"final": ([1.0, 2.0], "mass at the end", MASS)})
    {'final': ('group', [1.0, 2.0], {'long_name': 'mass at the end', 'units': 'arbitrary unit'})}
    """
    return {name: (dims, values, about(*label)) for name, (values, *label) in described.items()}


def coordinates(**described: tuple[Any, ...]) -> dict[str, tuple[str, Any, dict[str, str]]]:
    """Return variables along dimensions of their own names, as an `xarray.Dataset` takes them.

    Parameters
    ----------
    described
        Name -> (values, long name) or (values, long name, units).

    Examples
    --------
    >>> coordinates(time=([0.0, 1.0], "time", TIME))
    {'time': ('time', [0.0, 1.0], {'long_name': 'time', 'units': '1/fitness'})}
    """
    return {name: (name, values, about(*label)) for name, (values, *label) in described.items()}
