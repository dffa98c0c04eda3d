"""Optional libraries: whoever lacks one learns which extra of this package brings it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["extra"]


@contextlib.contextmanager
def extra(name: str, *, user: str) -> Iterator[None]:
    """Name the extra to install where a block fails to import a library.

    Parameters
    ----------
    name : str
        The extra, see pyproject.toml.
    user : str
        Who needs the library.

    Raises
    ------
    ImportError
        If a library imported in the block, or one that it needs itself, is not installed.

    Examples
    --------
    >>> with extra("studies", user="this example"):
    ...     import no_such_library
    Traceback (most recent call last):
    ImportError: this example needs no_such_library, which is not installed: pip install "evodyn[studies]".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "evodyn", "nn_bridge"):
            raise
        raise ImportError(
            f'{user} needs {missing}, which is not installed: pip install "evodyn[{name}]".', name=missing
        ) from None
