"""The mode of a network while it is measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

__all__ = ["evaluation_mode"]


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode, and every module of it back into its own mode afterwards.

    Parameters
    ----------
    model : torch.nn.Module
        The network. Its parts may be in different modes, a frozen normalisation say.

    Examples
    --------
    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluation_mode(model):
    ...     model.training, model[0].training
    (False, False)
    >>> model.training, model[0].training, model[1].training
    (True, True, False)
    """
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
