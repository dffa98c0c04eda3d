"""``python -m evodyn.compile``: compile the methods of integration once, for all later runs of this user."""

from __future__ import annotations

import numpy as np

from evodyn.core.extras import extra
from evodyn.model.equations import Replicator
from evodyn.model.landscapes import LinearDecay
from evodyn.simulate.compiled_maps import load
from evodyn.simulate.iterate import iterate
from evodyn.simulate.method import Solver
from evodyn.simulate.solve import solve
from evodyn.solvers.compilation import folder, prepare, ready

__all__ = ["compile_methods"]


def compile_methods() -> None:
    """Compile the methods of integration and keep the result in the user's cache, unless that is done.

    Raises
    ------
    ImportError
        If numba is missing; it names the extra.
    OSError
        If the cache cannot be written to.

    Examples
    --------
    >>> compile_methods()    # doctest: +SKIP
    """
    with extra("fast", user="evodyn.compile"):
        import numba  # noqa: F401
    if not ready():
        prepare()


def compile_here() -> None:
    """Compile the methods in this process, into the cache that it was given; `prepare` calls it."""
    folder().mkdir(parents=True)
    start = Replicator(), LinearDecay([1.0, 0.0], 1.0), np.ones(2)
    solve(*start, (0.0, 1.0), solver=Solver(compiled=True))
    load()
    iterate(*start, 3, 0.1)


if __name__ == "__main__":
    try:
        compile_methods()
        print(f"The compiled methods are kept in {folder()}.")
    except OSError as error:
        print(f"Compiled methods cannot be kept in {folder()} ({error.strerror}), and will not be used.")
