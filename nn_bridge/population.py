"""Masses on modules that exist: a population attached to a module, which keeps its class and its names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from nn_bridge.weighing import Form, columns, form_of, linear, measured

__all__ = [
    "Member",
    "Observer",
    "Population",
    "attach",
    "detach",
    "population_of",
    "probe",
    "scaled",
    "whole",
]

Observer = Callable[[torch.Tensor, torch.Tensor], None]
"""Receives (∂L/∂y, z) of a layer with output y = p·z, during the backward pass."""

ATTRIBUTES = ("masses", "kind", "population")


def probe(like: torch.Tensor) -> torch.Tensor:
    """Return zeros whose gradient is that of the loss by the masses, at least in single precision."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.zeros_like(like, dtype=dtype, requires_grad=True)


def scaled(population: Any, z: torch.Tensor) -> torch.Tensor:
    """Return y = p·z in the dtype of `z`, with the masses of a population or population layer.

    The product is formed at least in single precision.
    """
    observed = population.observer is not None and torch.is_grad_enabled()
    if z.is_nested and not observed:  # as nn.TransformerEncoder makes padded sequences
        return torch.nested.as_nested_tensor([scaled(population, part[None])[0] for part in z.unbind()])
    dtype = z.dtype if z.itemsize >= 4 else torch.float32
    if observed and population.probe is not None:
        masses = measured(population, dtype)
    else:
        # A copy in double precision too, so that a step of the masses spoils no backward pass to come.
        masses = population.masses.to(dtype, copy=True)
        if observed and not z.requires_grad:
            masses.requires_grad_()  # the weights are frozen, the masses are not
    if not observed or population.group_axis != -1:  # `compact` wants axes for axes in what it sees
        shape = [1] * z.ndim
        shape[population.group_axis] = -1
        masses = masses.view(shape)
    y: torch.Tensor = z * masses
    if y.dtype != z.dtype:
        y = y.to(z.dtype)
    if observed and population.probe is None and y.requires_grad:
        observer, unit, samples = population.observer, z.detach(), population.samples or 0
        y.register_hook(lambda gradient: observer(gradient.movedim(samples, 0), unit.movedim(samples, 0)))
    return y


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """Return a parameter, put together where `fully_shard` has spread it over the ranks."""
    together: torch.Tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return together


@dataclasses.dataclass(frozen=True)
class Member:
    """A parameter of the groups themselves: which axis they lie along, and in which order."""

    module: nn.Module
    name: str
    axis: int
    order: torch.Tensor | None = None

    def rows(self, groups: int) -> torch.Tensor:
        """Return the parameter's numbers, shape (groups, ...)."""
        rows = whole(getattr(self.module, self.name)).movedim(self.axis, 0)
        rows = rows if self.order is None else rows[self.order.to(rows.device)]
        return rows.reshape(groups, -1)

    @torch.no_grad()
    def scale(self, factors: torch.Tensor) -> None:
        """Multiply the numbers of every group by a factor of its own, shape (groups,)."""
        parameter: torch.Tensor = getattr(self.module, self.name)
        size = parameter.shape[self.axis]
        spread = factors.repeat_interleave(size // len(factors))
        if self.order is not None:
            order = self.order.to(spread.device)
            spread = torch.ones_like(spread).scatter(0, order, spread)
        shape = [-1 if k == self.axis % parameter.ndim else 1 for k in range(parameter.ndim)]
        parameter.mul_(spread.to(parameter.dtype).view(shape))


class Population:
    """The groups of a module that `populate` gave masses, ``module.population``.

    It answers what a selector or a signal asks of a `PopulationLayer`.

    Parameters
    ----------
    module : torch.nn.Module
        The module, whose buffer ``masses`` are the masses.
    kind : str
        "neuron", "filter", "head", "unit" or "block".
    axis : int
        The axis of what is scaled, counted from the end.
    unit : int
        How many neighbouring numbers along the axis are one group: a head's dimension, say.
    members : sequence of Member, optional
        The groups' own parameters.

    Attributes
    ----------
    group_axis : int
        The axis of the groups after the axis is split into groups and their units.
    observer, probe, revives
        As of a `PopulationLayer`. Not copied or pickled.
    readers : tuple of Member
        The weights that read what the groups put out, if what lies between makes twice as much of twice as
        much; otherwise none.
    samples : int or None
        The axis of what is scaled along which the samples lie, if there is one.
    """

    def __init__(
        self, module: nn.Module, kind: str, axis: int, unit: int, members: tuple[Member, ...] = ()
    ) -> None:
        self.module, self.kind, self.axis, self.unit, self.members = module, kind, axis, unit, members
        self.readers: tuple[Member, ...] = ()
        self.group_axis = axis if unit == 1 else axis - 1
        self.observer: Observer | None = None
        self.probe: torch.Tensor | None = None
        self.revives = False
        self.samples: int | None = 0
        self.at = "output"
        self.handles: tuple[int, ...] = ()  # of the module's hooks

    @property
    def masses(self) -> torch.Tensor:
        """p_i >= 0, shape (groups,): the module's buffer."""
        masses: torch.Tensor = vars(self.module)["_buffers"]["masses"]
        return masses

    @masses.setter
    def masses(self, masses: torch.Tensor) -> None:
        self.module.masses = masses

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.masses.shape[0]

    @property
    def may_vanish(self) -> bool:
        """Whether the last group can go: a residual block, which leaves its link."""
        return self.kind == "block"

    def parameters(self) -> Iterator[torch.Tensor]:
        """Yield the groups' own parameters, each with the groups in front."""
        return (member.rows(self.groups) for member in self.members)

    def scaled(self, z: torch.Tensor) -> torch.Tensor:
        """Return p·z, where each mass scales its unit of the axis."""
        if self.unit == 1:
            return scaled(self, z)
        split = z.unflatten(self.axis, (-1, self.unit))
        return scaled(self, split).flatten(self.group_axis, self.axis)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "observer": None, "probe": None, "revives": False}


def population_of(module: nn.Module) -> Population | None:
    """Return what `attach` put on a module, if anything."""
    population = module.__dict__.get("population")
    return population if isinstance(population, Population) else None


def attach(population: Population, groups: int, device: torch.device, *, at: str = "output") -> None:
    """Put a population on its module: masses of 1 that scale its "output", its "input", or "heads" inside.

    The module keeps its class: the masses act by hooks of its own, and what cannot be a hook (that a change
    of precision leaves the masses alone, attention that scales its heads) is an attribute of the instance.
    """
    module: Any = population.module
    module.register_buffer("masses", torch.ones(groups, dtype=torch.float64, device=device))
    module.kind, module.population, population.at = population.kind, population, at
    handles = [
        module._register_load_state_dict_pre_hook(_with_masses, with_module=True),
        module.register_load_state_dict_post_hook(_in_double),
    ]
    form: Any = form_of(module)
    if at == "output" and (form is None or population.unit > 1):
        handles.append(module.register_forward_hook(_scale_output))
    elif at == "input" and form is not linear:
        handles.append(module.register_forward_pre_hook(_scale_input))
    else:
        # That `nn.TransformerEncoderLayer` does not compute with its weights by itself: see there.
        handles.append(module.register_forward_pre_hook(_must_be_called))
        if at == "heads":
            module.forward = functools.partial(attention, module)
        else:
            code = _with_masses_out if at == "output" else _with_masses_in
            module.forward = functools.partial(code, module, form)
    module._apply = functools.partial(_apply, module)
    population.handles = tuple(handle.id for handle in handles)


def detach(module: Any) -> None:
    """Take off what `attach` put on a module."""
    for hooks in (
        module._load_state_dict_pre_hooks,
        module._load_state_dict_post_hooks,
        module._forward_hooks,
        module._forward_pre_hooks,
    ):
        for key in module.population.handles:
            hooks.pop(key, None)
    del module.masses
    for name in ("population", "kind", "_apply"):
        module.__dict__.pop(name, None)
    if getattr(module.__dict__.get("forward"), "func", None) in (
        attention,
        _with_masses_out,
        _with_masses_in,
    ):
        del module.forward


def _scale_output(module: Any, inputs: object, output: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = module.population.scaled(output)
    return y


def _scale_input(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (module.population.scaled(inputs[0]), *inputs[1:])


def _with_masses_out(module: Any, form: Form, input: torch.Tensor) -> torch.Tensor:
    y = form(module.population, module, input)
    if y is None:
        y = module.population.scaled(type(module).forward(module, input))
    return y


def _with_masses_in(module: Any, form: Form, input: torch.Tensor) -> torch.Tensor:
    y = columns(module.population, module, input)
    if y is None:
        y = type(module).forward(module, module.population.scaled(input))
    return y


def _must_be_called(module: nn.Module, inputs: object) -> None:
    """Do nothing: a module with a hook is called."""


def _apply(module: Any, fn: Any, recurse: bool = True) -> Any:
    masses = module.masses
    type(module)._apply(module, fn, recurse)
    if module.masses.dtype != torch.float64:
        module.masses = masses.to(module.masses.device)
    population = module.population
    if population.probe is not None:
        population.probe = probe(fn(population.probe.detach()))
    return module


def _with_masses(module: Any, state: dict[str, Any], prefix: str, *others: object) -> None:
    """Let the state of a plain model be loaded: absent masses are 1."""
    state.setdefault(f"{prefix}masses", torch.ones_like(module.masses))


def _in_double(module: Any, keys: object) -> None:
    module.masses = module.masses.double()  # with assign=True they have the state's dtype


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what `nn.MultiheadAttention` returns, with heads that have masses or are fewer.

    Parameters
    ----------
    module : torch.nn.Module
        Weights and settings under the names of `nn.MultiheadAttention`.
    query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
        As there.
    """
    if query.is_nested:
        parts = [
            attention(module, q[None], k[None], v[None], need_weights=False)[0][0]
            for q, k, v in zip(query.unbind(), key.unbind(), value.unbind(), strict=True)
        ]
        return torch.nested.as_nested_tensor(parts), None
    batched = query.dim() == 3
    if not batched:
        query, key, value = query[None], key[None], value[None]
        key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
    elif not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    q, k, v = (
        nn.functional.linear(x, weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    mask = _additive(attn_mask, q.dtype)
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (q.shape[0], -1))
    padding = _additive(key_padding_mask, q.dtype)
    if padding is not None:
        padding = padding[:, None, None]
        mask = padding if mask is None else mask + padding
    dropout = module.dropout if module.training else 0.0
    shares = None
    if need_weights:
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        scores = scores if mask is None else scores + mask
        shares = nn.functional.dropout(scores.softmax(-1), dropout, training=module.training)
        z = shares @ v
        shares = shares.mean(1) if average_attn_weights else shares
        shares = shares if batched else shares[0]
    else:
        z = nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout)
    z = z.transpose(1, 2).flatten(2)
    population = population_of(module)
    y = None if population is None else columns(population, module.out_proj, z)
    if y is None:
        z = z if population is None else population.scaled(z)
        y = nn.functional.linear(z, module.out_proj.weight, module.out_proj.bias)
    if not batched:
        return y[0], shares
    return (y if module.batch_first else y.transpose(0, 1)), shares


def _additive(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Return a mask as what is added to the scores: True means that a position is left out."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
