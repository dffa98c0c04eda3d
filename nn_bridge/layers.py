"""Population layers: networks whose groups of parameters have masses (Eq. 3)."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from evodyn.core import validation
from nn_bridge.population import Observer, population_of, probe, scaled
from nn_bridge.weighing import linear

__all__ = [
    "PopulationLayer",
    "PopulationLinear",
    "PopulationWeights",
    "population_layers",
    "population_mlp",
    "populations",
]


class PopulationLayer(nn.Module):
    """Base of the layers with one mass per group of parameters.

    A subclass computes what its groups put out at unit mass, z, and returns ``self.scaled(z)``.

    Parameters
    ----------
    groups : int
        Number of groups.
    group_axis : int
        The axis of the output along which the groups lie.
    device : device, optional
        Where the masses are.

    Attributes
    ----------
    masses : Tensor, shape (groups,)
        p_i >= 0, initially 1. A float64 buffer: no optimiser sees it, and changing the precision of the
        model (``.half()``, ``.to(torch.bfloat16)``) leaves it alone, since increments of 5e-8 a step
        would vanish in float32.
    kind : str
        What a group is: "neuron" in the layers of this package, and what `populate` found ("filter", "head",
        "unit", "block") in a module that it gave masses. A class of one's own says "group" unless it says
        something else. Groups of one kind are of one size, so that they may compete.
    observer : callable or None
        Called in every backward pass with the gradient ∂L/∂y and z, from which
        ∂L/∂p_i = Σ (∂L/∂y_i)·z_i follows, exactly and at p_i = 0 as well. Not copied or pickled.
    probe : Tensor or None
        Zeros that are added to the masses in place of a call of the observer, so that autograd itself sums
        ∂L/∂p_i in ``probe.grad`` over all backward passes. Not copied or pickled.
    revives : bool
        Whether a selector's mutation brings groups of mass 0 back. Not copied or pickled.
    """

    kind: str = "group"
    may_vanish = False  # whether the last group can go
    samples = 0  # the axis along which samples lie
    masses: torch.Tensor

    def __init__(self, groups: int, *, group_axis: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.group_axis = group_axis
        self.observer: Observer | None = None
        self.probe: torch.Tensor | None = None
        self.revives = False
        self.register_buffer("masses", torch.ones(groups, dtype=torch.float64, device=device))
        self.register_forward_pre_hook(_must_be_called)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.masses.shape[0]

    @property
    def population(self) -> PopulationLayer:
        """What is asked about the groups: the layer itself."""
        return self

    def scaled(self, z: torch.Tensor) -> torch.Tensor:
        """Return y = p·z in the dtype of `z`; the product is formed at least in single precision."""
        return scaled(self, z)

    def _apply(self, fn: Any, recurse: bool = True) -> PopulationLayer:
        masses = self.masses
        super()._apply(fn, recurse)
        if self.masses.dtype != torch.float64:
            self.masses = masses.to(self.masses.device)
        if self.probe is not None:
            self.probe = probe(fn(self.probe.detach()))
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.masses = self.masses.double()  # with assign=True they have the dtype of the state

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "observer": None, "probe": None, "revives": False}


def _must_be_called(layer: nn.Module, inputs: object) -> None:
    """Do nothing, as a hook of every population layer.

    `nn.TransformerEncoderLayer` in evaluation mode takes the weights of its linear layers and computes with
    them itself, without masses, unless a module in it has a hook: then it calls them.
    """


class PopulationLinear(PopulationLayer):
    """A linear layer whose output neurons have masses (Eq. 3): y_i = p_i (w_i·x + b_i).

    Parameters
    ----------
    in_features, out_features : int
        Sizes; there is one group per output neuron.
    bias : bool, optional
        Whether there is a bias, which the mass scales too.
    generator : torch.Generator, optional
        Source of the initial weights, which have the law of `torch.nn.Linear`:
        uniform in ±1/√in_features. None draws from torch's default generator, as that layer does.
    device, dtype : optional
        Of weight and bias.

    Raises
    ------
    ValueError
        If a size is not a positive whole number.

    Examples
    --------
    >>> layer = PopulationLinear(2, 3, generator=torch.Generator().manual_seed(0))
    >>> layer.masses[:] = torch.tensor([1.0, 0.5, 0.0])
    >>> layer(torch.ones(1, 2)).shape, layer.half().masses.dtype
    (torch.Size([1, 3]), torch.float64)
    """

    kind = "neuron"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        validation.count("in_features", in_features)
        super().__init__(validation.count("out_features", out_features), group_axis=-1, device=device)
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        _initialise(self.weight, self.bias, generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return y, shape (..., out_features), for x of shape (..., in_features)."""
        y = linear(self, self, x)
        return self.scaled(nn.functional.linear(x, self.weight, self.bias)) if y is None else y

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


class PopulationWeights(PopulationLinear):
    """A linear layer whose masses scale the weights but not the bias: y_i = p_i w_i·x + b_i.

    Another reading of Eq. 3. A neuron at mass 0 goes on sending its bias through the activation, so
    `compact` refuses such layers.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return y, shape (..., out_features), for x of shape (..., in_features)."""
        y = self.scaled(nn.functional.linear(x, self.weight))
        return y if self.bias is None else y + self.bias


@torch.no_grad()
def _initialise(weight: torch.Tensor, bias: torch.Tensor | None, generator: torch.Generator | None) -> None:
    bound = 1 / math.sqrt(weight.shape[1])
    for parameter in (weight,) if bias is None else (weight, bias):
        # Drawn on the generator's device, in float32: the same values whatever the model's own.
        device = generator.device if generator is not None else "cpu"
        draw = torch.empty(parameter.shape, device=device, dtype=torch.float32)
        parameter.copy_(draw.uniform_(-bound, bound, generator=generator))


def empty_linear(
    in_features: int,
    out_features: int,
    bias: bool = True,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Linear:
    """Return a plain linear layer with weights yet to be set: no random number is drawn for them."""
    layer: nn.Linear = nn.utils.skip_init(
        nn.Linear, in_features, out_features, bias=bias, device=device, dtype=dtype
    )
    return layer


def population_mlp(
    widths: Sequence[int] = (784, 512, 256, 10), *, seed: int = 0, scaled_bias: bool = True
) -> nn.Sequential:
    """Return the paper's network: population-scaled hidden layers with ReLU, and a plain output layer.

    Parameters
    ----------
    widths : sequence of int
        Inputs, hidden layers, outputs.
    seed : int, optional
        Of the initial weights; no global generator is touched.
    scaled_bias : bool, optional
        Whether the masses scale the biases too (`PopulationLinear`) or not (`PopulationWeights`).

    Returns
    -------
    torch.nn.Sequential
        Layers "hidden1", "relu1", ..., "output".

    Raises
    ------
    ValueError
        If there is no hidden layer or a width is not a positive whole number.

    Examples
    --------
    >>> model = population_mlp()
    >>> [layer.groups for layer in population_layers(model)]
    [512, 256]
    """
    widths = [validation.count(f"widths[{k}]", width) for k, width in enumerate(widths)]
    if len(widths) < 3:
        raise ValueError(f"widths is {widths}; expected inputs, at least one hidden layer, and outputs.")
    generator = torch.Generator().manual_seed(validation.count("seed", seed, least=0))
    layer = PopulationLinear if scaled_bias else PopulationWeights
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(widths[:-1]), start=1):
        parts[f"hidden{k}"] = layer(fan_in, fan_out, generator=generator)
        parts[f"relu{k}"] = nn.ReLU()
    device, dtype = torch.get_default_device(), torch.get_default_dtype()
    output = empty_linear(widths[-2], widths[-1], device=device, dtype=dtype)
    _initialise(output.weight, output.bias, generator)
    return nn.Sequential(OrderedDict(parts, output=output))


def population_layers(model: nn.Module) -> list[PopulationLayer]:
    """Return the modules of `model` that have masses, in the order of its modules.

    These are its population layers and the modules that `populate` gave masses. Each has the tensor
    ``masses``, the string ``kind``, and ``population``, which says more (see `populations`).

    Raises
    ------
    ValueError
        If there is none, or one is the output projection of `nn.MultiheadAttention`, which reads the weights
        of that layer and never calls it.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and isinstance(module.out_proj, PopulationLayer):
            raise ValueError(
                f"{name}.out_proj".strip(".") + f" is a {type(module.out_proj).__name__}; expected a plain "
                "linear layer there: nn.MultiheadAttention reads its weights and ignores the masses."
            )
    layers = [module for module in model.modules() if has_masses(module)]
    if not layers:
        raise ValueError(
            f"model is {type(model).__name__} without a population layer; expected at least one: "
            "build it with PopulationLinear or population_mlp, or call populate."
        )
    return layers  # type: ignore[return-value]


def has_masses(module: nn.Module) -> bool:
    """Tell whether a module is a population layer, or one that `populate` gave masses."""
    return isinstance(module, PopulationLayer) or population_of(module) is not None


def populations(model: nn.Module) -> dict[PopulationLayer, str]:
    """Return what is asked about the groups of each module with masses, and the module's name.

    A population layer answers itself; for another module ``module.population`` does: masses, groups,
    group_axis, kind, observer and the groups' own parameters.

    Raises
    ------
    ValueError
        As `population_layers`.
    """
    names = {module: name or "model" for name, module in model.named_modules()}
    return {layer.population: names[layer] for layer in population_layers(model)}
