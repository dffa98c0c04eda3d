"""What can be traced: which module feeds which, and of what kind they are."""

from __future__ import annotations

from torch import nn

from nn_bridge.layers import PopulationLinear

__all__ = ["ELEMENTWISE", "chain", "flat_names"]

# Modules that act on every number by itself, with the arguments that rebuild them.
ELEMENTWISE: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Identity: (),
    nn.ReLU: (),
    nn.ReLU6: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.ELU: ("alpha",),
    nn.CELU: ("alpha",),
    nn.SELU: (),
    nn.GELU: ("approximate",),
    nn.SiLU: (),
    nn.Mish: (),
    nn.Tanh: (),
    nn.Sigmoid: (),
    nn.LogSigmoid: (),
    nn.Softplus: ("beta", "threshold"),
    nn.Softsign: (),
    nn.Hardtanh: ("min_val", "max_val"),
    nn.Hardsigmoid: (),
    nn.Hardswish: (),
    nn.Hardshrink: ("lambd",),
    nn.Softshrink: ("lambd",),
    nn.Tanhshrink: (),
    nn.Threshold: ("threshold", "value"),
    nn.Dropout: ("p",),
    nn.AlphaDropout: ("p",),
}


def chain(module: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    """Return the named modules of a network in the order in which they act, nested containers opened."""
    if type(module) is nn.Sequential:
        # Not named_children, which leaves out a module's second appearance (one ReLU used throughout).
        parts = [(f"{name}.{key}".strip("."), part) for key, part in module._modules.items()]
        return [link for key, part in parts for link in chain(part, key)]
    if type(module) in (PopulationLinear, nn.Linear, nn.Flatten) or type(module) in ELEMENTWISE:
        return [(name, module)]
    raise ValueError(
        f"{name or 'model'} is a {type(module).__name__}; expected nn.Sequential of PopulationLinear, "
        f"nn.Linear, nn.Flatten and element-wise modules ({', '.join(k.__name__ for k in ELEMENTWISE)}): "
        "what its groups feed cannot be traced through it without example_inputs."
    )


def flat_names(links: list[tuple[str, nn.Module]]) -> list[str]:
    """Return names without the dots, which `nn.Sequential` does not allow, for the links of a chain."""
    names = [name.replace(".", "_") or "0" for name, _ in links]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two modules would both be called {name}; expected distinct names: rename one.")
    return names
