"""Removal: from masses to a smaller network (Eq. 15), and what that saves."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evodyn.core import validation
from evodyn.core.atomic import replacing
from evodyn.core.extras import extra
from nn_bridge.layers import PopulationLayer, PopulationLinear, empty_linear, population_layers
from nn_bridge.modes import evaluation_mode

__all__ = [
    "Cost",
    "PruneReport",
    "compact",
    "cost",
    "export_onnx",
    "load_compact",
    "prune",
    "prune_to_sparsity",
    "save_compact",
]

# Modules that act on every number by itself, with the arguments that rebuild them.
_ELEMENTWISE: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Identity: (),
    nn.ReLU: (),
    nn.ReLU6: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.ELU: ("alpha",),
    nn.GELU: ("approximate",),
    nn.SiLU: (),
    nn.Tanh: (),
    nn.Sigmoid: (),
    nn.Softplus: ("beta", "threshold"),
    nn.Dropout: ("p",),
}


@dataclasses.dataclass(frozen=True)
class PruneReport:
    """What a removal did.

    Parameters
    ----------
    epsilon : float
        ε: the threshold that was given, or the empirical q-quantile of the masses (for removal layer by
        layer, NaN: there is one for each layer).
    groups : int
        Number of groups in all layers.
    removed : int
        Number of groups now at mass 0, those that were there before included.
    living : tuple of int
        Number of groups left in each layer.
    protected : tuple of str
        Layers whose last group was kept although it was due.
    """

    epsilon: float
    groups: int
    removed: int
    living: tuple[int, ...]
    protected: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """Fraction of groups removed."""
        return self.removed / self.groups


def prune(model: nn.Module, threshold: float, *, allow_empty: bool = False) -> PruneReport:
    """Set the mass of every group with p_i < ε to 0, in place (Eq. 15).

    Parameters
    ----------
    model : torch.nn.Module
        A network with population layers.
    threshold : float
        ε >= 0; a mass equal to it is kept.
    allow_empty : bool, optional
        Let a layer lose all its groups. By default its largest one (of equals the last) is kept.

    Returns
    -------
    PruneReport
        What was removed.

    Raises
    ------
    ValueError
        If the threshold or a mass is negative or not finite, or the model has no population layer.

    Warns
    -----
    UserWarning
        If a layer's last group was kept; the layer is named.

    Examples
    --------
    >>> from nn_bridge import population_layers, population_mlp
    >>> model = population_mlp((4, 3, 2))
    >>> population_layers(model)[0].masses[:] = torch.tensor([0.2, 0.5, 1.0])
    >>> prune(model, 0.5)
    PruneReport(epsilon=0.5, groups=3, removed=1, living=(2,), protected=())
    """
    threshold = validation.non_negative("threshold", threshold)
    parts = _masses(model)
    return _remove(model, [part < threshold for part in parts], threshold, allow_empty)


def prune_to_sparsity(
    model: nn.Module,
    sparsity: float,
    *,
    scope: Literal["global", "layer"] = "global",
    allow_empty: bool = False,
) -> PruneReport:
    """Set the round(qN) smallest masses to 0, in place; of equal masses those with lower index first.

    Parameters
    ----------
    model : torch.nn.Module
        A network with population layers.
    sparsity : float
        q in [0, 1], the fraction of all N groups.
    scope : {"global", "layer"}, optional
        Rank all groups together, or take the fraction from every layer.
    allow_empty : bool, optional
        Let a layer lose all its groups. By default its largest one is kept, and the next in rank goes
        in its place, as long as any other group is left.

    Returns
    -------
    PruneReport
        What was removed, and the q-quantile of the masses as ε.

    Raises
    ------
    ValueError
        If `sparsity` is outside [0, 1], a mass is negative or not finite, or the model has no population
        layer.

    Warns
    -----
    UserWarning
        If a layer's last group was kept; the layer is named.
    """
    sparsity = validation.non_negative("sparsity", sparsity)
    if sparsity > 1:
        raise ValueError(f"sparsity is {sparsity!r}; expected a fraction in [0, 1].")
    validation.choice("scope", scope, ("global", "layer"))
    parts = _masses(model)
    joint = np.concatenate(parts)
    if scope == "global":
        due = np.split(_smallest(joint, sparsity), np.cumsum([len(p) for p in parts])[:-1])
        epsilon = float(np.quantile(joint, sparsity))
    else:
        due = [_smallest(part, sparsity) for part in parts]
        epsilon = math.nan
    return _remove(model, due, epsilon, allow_empty, refill=scope == "global")


def _names(model: nn.Module) -> dict[nn.Module, str]:
    return {module: name or "model" for name, module in model.named_modules()}


def _masses(model: nn.Module) -> list[np.ndarray]:
    names = _names(model)
    return [_checked(names[layer], layer) for layer in population_layers(model)]


def _checked(name: str, layer: PopulationLayer) -> np.ndarray:
    """Return a copy of a layer's masses if they are masses."""
    return validation.finite_array(f"masses of {name}", layer.masses, ndim=1, least=0.0)


def _smallest(masses: np.ndarray, fraction: float) -> np.ndarray:
    """Return a mask of the round(fraction·N) smallest masses, ties by index."""
    mask = np.zeros(len(masses), dtype=bool)
    mask[np.argsort(masses, kind="stable")[: round(fraction * len(masses))]] = True
    return mask


def _remove(
    model: nn.Module, due: Sequence[np.ndarray], epsilon: float, allow_empty: bool, *, refill: bool = False
) -> PruneReport:
    layers, masses, names = population_layers(model), _masses(model), _names(model)
    protected = []
    for layer, mask, mass in zip(layers, due, masses, strict=True):
        if mask.all() and mass.any() and not allow_empty:
            mask[np.lexsort((np.arange(len(mass)), mass))[-1]] = False
            protected.append(names[layer])
    if refill and protected:
        _refill(due, masses, len(protected))
    for layer, mask in zip(layers, due, strict=True):
        layer.masses[torch.from_numpy(mask).to(layer.masses.device)] = 0.0
    if protected:
        warnings.warn(
            f"every group of {', '.join(protected)} was due for removal; the largest of each was kept: "
            "pass allow_empty=True to remove it too.",
            stacklevel=3,
        )
    living = tuple(int((layer.masses > 0).sum()) for layer in layers)
    groups = sum(layer.groups for layer in layers)
    return PruneReport(epsilon, groups, groups - sum(living), living, tuple(protected))


def _refill(due: Sequence[np.ndarray], masses: Sequence[np.ndarray], count: int) -> None:
    """Mark `count` further groups, smallest first, none the last of its layer."""
    ranked = sorted(
        (mass, layer, index) for layer, part in enumerate(masses) for index, mass in enumerate(part)
    )
    for _, layer, index in ranked:
        if not count:
            return
        if not due[layer][index] and (~due[layer]).sum() > 1:
            due[layer][index] = True
            count -= 1


# Physical removal

_Slices = dict[torch.Tensor, tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]]
"""Old parameter -> (new parameter, what slices a tensor of the old one's shape to the new one's)."""


def _flat(chain: list[tuple[str, nn.Module]]) -> list[str]:
    """Return names without the dots, which `nn.Sequential` does not allow, for the links of a chain."""
    names = [name.replace(".", "_") or "0" for name, _ in chain]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two modules would both be called {name}; expected distinct names: rename one.")
    return names


def _chain(module: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    """Return the named modules of a network in the order in which they act, nested containers opened."""
    if type(module) is nn.Sequential:
        # Not named_children, which leaves out a module's second appearance (one ReLU used throughout).
        parts = [(f"{name}.{key}".strip("."), part) for key, part in module._modules.items()]
        return [link for key, part in parts for link in _chain(part, key)]
    if type(module) in (PopulationLinear, nn.Linear, nn.Flatten) or type(module) in _ELEMENTWISE:
        return [(name, module)]
    raise ValueError(
        f"{name or 'model'} is a {type(module).__name__}; expected nn.Sequential of PopulationLinear, "
        f"nn.Linear, nn.Flatten and element-wise modules ({', '.join(k.__name__ for k in _ELEMENTWISE)}): "
        "what its groups feed cannot be traced through it."
    )


@torch.no_grad()
def compact(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    *,
    round_to: int = 1,
) -> nn.Sequential:
    """Return a new, smaller network without the groups of mass 0, masses folded into plain layers.

    Its outputs are those of `model` up to rounding. Where the activation does not map 0 to 0, what the
    removed groups sent on is folded into the next bias.

    Parameters
    ----------
    model : torch.nn.Module
        A chain (`nn.Sequential`, nested or not) of population layers, plain linear layers and
        element-wise modules; it is left as it is.
    optimizer : torch.optim.Optimizer or sequence of them, optional
        The optimisers of `model`, all of them, to go on training with. They are *re-pointed*, in place
        (learning-rate schedulers hold on to them), to the parameters of the new network; their state,
        momentum say, is sliced to what is left, so that nothing of a removed group comes back. It is not
        rescaled by the masses.
    round_to : int, optional
        Keep each layer's width a multiple of this where possible, with groups of zero weights: some
        devices are slower at odd widths.

    Returns
    -------
    torch.nn.Sequential
        Layers with the names of the old ones, dots replaced by underscores.

    Raises
    ------
    ValueError
        If a module cannot be traced (named), or a layer has no living group or masses that are negative or
        not finite. If an optimiser holds parameters that are not the model's, or state that cannot be sliced
        (LBFGS, Adafactor), or a parameter that requires a gradient is in none of the optimisers: they are
        then as they were.
    """
    validation.count("round_to", round_to)
    given = [] if optimizer is None else optimizer
    optimizers = [given] if isinstance(given, torch.optim.Optimizer) else list(given)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    slices: _Slices = {}
    kept: torch.Tensor | None = None  # indices of the inputs that are left; None: all
    constant: torch.Tensor | None = None  # what the removed inputs send on, shape (inputs,)
    chain = _chain(model)
    for (name, module), flat in zip(chain, _flat(chain), strict=True):
        part: nn.Module
        if isinstance(module, PopulationLinear | nn.Linear):
            rows = _living(name, module, round_to)
            part, mapping = _smaller(module, rows, kept, constant)
            if optimizers and mapping.keys() & slices.keys():
                raise ValueError(
                    f"{name} shares parameters with a layer before; an optimiser cannot follow them."
                )
            slices.update(mapping)
            # At mass 0 a group puts out 0, whatever its bias.
            removed = rows is not None and len(rows) < module.out_features
            kept = rows if removed else None
            constant = torch.zeros(module.out_features, dtype=module.weight.dtype) if removed else None
        elif isinstance(module, nn.Flatten) and kept is not None:
            raise ValueError(
                f"{name} is a Flatten after a layer with absent groups; expected it before all population "
                "layers: where the groups end up depends on the shape of the input."
            )
        else:
            part = copy.deepcopy(module)
            if constant is not None and not isinstance(module, nn.Dropout):
                constant = module(constant)
        part.train(module.training)
        parts[flat] = part
    if kept is not None:
        raise ValueError(
            "the last layer is a population layer with absent groups; expected a plain layer after it: "
            "removing them would remove outputs of the network."
        )
    small = nn.Sequential(parts)
    small.training = model.training
    if optimizers:
        _repoint(model, small, optimizers, slices)
    return small


def _living(name: str, module: nn.Module, round_to: int) -> torch.Tensor | None:
    """Return the indices of the groups to keep, None for a layer without masses."""
    if not isinstance(module, PopulationLayer):
        return None
    _checked(name or "model", module)
    alive = module.masses > 0
    count = int(alive.sum())
    if not count:
        raise ValueError(
            f"{name or 'model'} has no living group; expected at least one: "
            "the network's output is a constant."
        )
    width = min(-(-count // round_to) * round_to, module.groups)
    # Living groups first, then as many absent ones as the width needs; their mass of 0 stays folded in.
    order = torch.argsort(alive.to(torch.int8), descending=True, stable=True)
    return order[:width].sort().values


def _smaller(
    module: PopulationLinear | nn.Linear,
    rows: torch.Tensor | None,
    columns: torch.Tensor | None,
    constant: torch.Tensor | None,
) -> tuple[nn.Linear, _Slices]:
    weight = module.weight

    def sliced(matrix: torch.Tensor) -> torch.Tensor:
        matrix = matrix if rows is None else matrix[rows]
        return matrix.clone() if columns is None else matrix[:, columns].contiguous()

    def sliced_bias(vector: torch.Tensor) -> torch.Tensor:
        return vector.clone() if rows is None else vector[rows]

    mass = module.masses if isinstance(module, PopulationLayer) else weight.new_ones((), dtype=torch.float64)
    new_weight = sliced((weight.double() * (mass[:, None] if mass.ndim else mass)).to(weight.dtype))
    # In double precision, so that folding costs one rounding.
    offset = weight.new_zeros(module.out_features, dtype=torch.float64)
    if module.bias is not None:
        offset = offset + module.bias.double()
    if constant is not None and columns is not None:
        sent = constant.to(weight.device).double()
        sent[columns] = 0.0
        offset = offset + weight.double() @ sent
    with_bias = module.bias is not None or bool((offset != 0).any())
    out_features, in_features = new_weight.shape
    part = empty_linear(in_features, out_features, with_bias, device=weight.device, dtype=weight.dtype)
    part.weight.copy_(new_weight)
    mapping: _Slices = {weight: (part.weight, sliced)}
    if with_bias:
        part.bias.copy_(sliced_bias((offset * mass).to(weight.dtype)))
        if module.bias is not None:
            mapping[module.bias] = (part.bias, sliced_bias)
    for old, (new, _) in mapping.items():
        new.requires_grad_(old.requires_grad)
    return part, mapping


def _repoint(
    model: nn.Module, small: nn.Module, optimizers: Sequence[torch.optim.Optimizer], slices: _Slices
) -> None:
    """Point the optimisers to the parameters of the new network, all of them or none."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    states = [_sliced_state(optimizer, slices, names) for optimizer in optimizers]
    held = {p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    left = [names[old] for old in slices if old.requires_grad and old not in held]
    if left:
        raise ValueError(
            f"optimizer does not hold {', '.join(left)}; expected every parameter that requires a gradient: "
            "pass all optimisers of the model as a list, and freeze what is not trained with "
            "requires_grad_(False)."
        )
    new_names: dict[torch.Tensor, str] = {p: name for name, p in small.named_parameters()}
    for optimizer, state in zip(optimizers, states, strict=True):
        for group in optimizer.param_groups:
            group["params"] = [slices[parameter][0] for parameter in group["params"]]
            if "param_names" in group:
                group["param_names"] = [new_names[parameter] for parameter in group["params"]]
        optimizer.state.clear()
        optimizer.state.update(state)


def _sliced_state(
    optimizer: torch.optim.Optimizer, slices: _Slices, names: Mapping[torch.Tensor, str]
) -> dict[torch.Tensor, dict[str, Any]]:
    """Return an optimiser's state for the new parameters; refuse by name what cannot be carried over."""
    kind = type(optimizer).__name__
    remedy = "make a new optimiser of the compacted network."
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if not (held | optimizer.state.keys()) <= slices.keys():
        raise ValueError(
            "optimizer holds parameters that are not the model's; expected an optimiser of this model alone."
        )
    for name, value in vars(optimizer).items():
        if name not in ("param_groups", "state", "defaults") and _refers_to(value, held):
            raise ValueError(
                f"optimizer is {kind}, which refers to the parameters in {name} as well; expected parameter "
                f"groups and state alone: {remedy}"
            )

    def carried(old: torch.Tensor, key: str, value: Any) -> Any:
        if torch.is_tensor(value) and value.shape == old.shape:
            return slices[old][1](value)
        if (
            value is None
            or isinstance(value, int | float | str)
            or (torch.is_tensor(value) and not value.ndim)
        ):
            return value
        shape = f"of shape {tuple(value.shape)}" if torch.is_tensor(value) else f"a {type(value).__name__}"
        raise ValueError(
            f"optimizer is {kind}, which keeps {key!r} of {names[old]}, {shape}; expected a number or the "
            f"parameter's shape, {tuple(old.shape)}, of which the part that is left is known: {remedy}"
        )

    return {
        slices[old][0]: {key: carried(old, key, value) for key, value in state.items()}
        for old, state in optimizer.state.items()
    }


def _refers_to(value: object, parameters: Collection[torch.Tensor]) -> bool:
    """Tell whether an attribute is another optimiser, or parameters in a container or by themselves."""
    if isinstance(value, Mapping):
        return any(_refers_to(item, parameters) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set):
        return any(_refers_to(item, parameters) for item in value)
    return isinstance(value, torch.optim.Optimizer) or (torch.is_tensor(value) and value in parameters)


# Saving

_LINEAR, _FLATTEN = ("in_features", "out_features", "bias"), ("start_dim", "end_dim")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return (_is_whole(value) or isinstance(value, float)) and abs(value) <= sys.float_info.max


# What the arguments of modules in a file may be: a test, and the same in words.
_ARGUMENTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "in_features": (lambda v: _is_whole(v) and v > 0, "a whole number >= 1"),
    "out_features": (lambda v: _is_whole(v) and v > 0, "a whole number >= 1"),
    "bias": (lambda v: isinstance(v, bool), "true or false"),
    "start_dim": (_is_whole, "a whole number"),
    "end_dim": (_is_whole, "a whole number"),
    "negative_slope": (_is_real, "a finite number"),
    "alpha": (_is_real, "a finite number"),
    "approximate": (lambda v: v in ("none", "tanh"), "'none' or 'tanh'"),
    "beta": (lambda v: _is_real(v) and v != 0, "a finite number, not 0"),
    "threshold": (_is_real, "a finite number"),
    "p": (lambda v: _is_real(v) and 0 <= v <= 1, "a probability"),
}


def _architecture(model: nn.Module) -> list[dict[str, Any]]:
    description: list[dict[str, Any]] = []
    chain = _chain(model)
    for (name, module), flat in zip(chain, _flat(chain), strict=True):
        if isinstance(module, PopulationLayer):
            raise ValueError(
                f"{name or 'model'} still has masses; expected a compacted network: call compact first."
            )
        arguments: dict[str, Any]
        if isinstance(module, nn.Linear):
            arguments = {
                "in_features": module.in_features,
                "out_features": module.out_features,
                "bias": module.bias is not None,
            }
        elif isinstance(module, nn.Flatten):
            arguments = {"start_dim": module.start_dim, "end_dim": module.end_dim}
        else:
            arguments = {key: getattr(module, key) for key in _ELEMENTWISE[type(module)]}
        description.append({"name": flat, "type": type(module).__name__, "arguments": arguments})
    return description


def _digest(architecture: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of a file's content."""
    digest = hashlib.sha256(architecture.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_compact(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a compacted network to a safetensors file, its architecture as JSON in the metadata.

    Parameters
    ----------
    model : torch.nn.Module
        What `compact` returned.
    path : path
        The file; it is replaced atomically.

    Raises
    ------
    ValueError
        If the model still has population layers, modules that `compact` does not make, a weight that is
        not finite, or something else that could not be loaded again.
    OSError
        If the file cannot be written, on a full disk say. An older file stays as it is.

    Notes
    -----
    Equal networks give equal bytes. Weights that layers share are written, and loaded, once for each.
    """
    with extra("nn", user="save_compact"):
        from safetensors.torch import save

    described = _architecture(model)
    tensors = {
        f"{entry['name']}.{key}": value.detach().cpu().contiguous().clone()
        for (_, module), entry in zip(_chain(model), described, strict=True)
        for key, value in module.state_dict().items()
    }
    try:
        architecture = json.dumps(described)
        _built(json.loads(architecture), tensors)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the network could not be loaded again: {error}; nothing was saved.") from error
    metadata = {
        "format": "nn_bridge compact",
        "version": "1",
        "architecture": architecture,
        "sha256": _digest(architecture, tensors),
    }
    content = save(tensors, metadata=metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(_ordered(content))


def _ordered(content: bytes) -> bytes:
    """Return a safetensors file with its header in order: the library writes metadata in random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def load_compact(path: str | os.PathLike[str]) -> nn.Sequential:
    """Return the network that `save_compact` wrote. No code of the file is run.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    torch.nn.Sequential
        The network, on the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If the file is damaged, of another kind or version, or describes a network that `compact` does not
        make: an unknown module, an argument out of its range, a weight that is missing, of another shape
        or not finite.
    """
    with extra("nn", user="load_compact"):
        from safetensors import SafetensorError, safe_open

    with open(path, "rb"):  # Python's error names the path where no file can be opened
        pass
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); expected a file that save_compact wrote."
        ) from error
    if metadata.get("format") != "nn_bridge compact" or metadata.get("version") != "1":
        raise ValueError(
            f"{path} holds {metadata.get('format')!r}, version {metadata.get('version')!r}; expected "
            "'nn_bridge compact', version '1'."
        )
    architecture = metadata.get("architecture", "")
    if metadata.get("sha256") != _digest(architecture, tensors):
        raise ValueError(f"{path} is damaged: its checksum does not match; save the network again.")
    try:
        return _built(json.loads(architecture), tensors).eval()
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} holds no network that save_compact wrote: {error}; save the network again."
        ) from error


def _built(description: Any, tensors: Mapping[str, torch.Tensor]) -> nn.Sequential:
    """Return the network that a description and its weights make, both checked."""
    if not isinstance(description, list):
        raise ValueError("the architecture is no list; expected one entry for each module")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    used: set[str] = set()
    width: int | None = None  # of what the module before puts out, where that is known
    for k, entry in enumerate(description):
        name, kind, arguments = _entry(f"entry {k} of the architecture", entry)
        if name in parts:
            raise ValueError(f"two modules are called {name}; expected distinct names")
        if kind is nn.Linear:
            inputs, outputs = arguments["in_features"], arguments["out_features"]
            if width not in (None, inputs):
                raise ValueError(f"{name} takes {inputs} numbers; expected {width}, what it is given")
            width = outputs
            shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
            shapes |= {f"{name}.bias": (outputs,)} if arguments["bias"] else {}
            dtype = tensors[f"{name}.weight"].dtype if f"{name}.weight" in tensors else None
            for key, shape in shapes.items():
                _require_weight(key, tensors.get(key), shape, dtype)
            used |= shapes.keys()
            parts[name] = empty_linear(**arguments, dtype=dtype or torch.float32)
        else:
            width = None if kind is nn.Flatten else width
            parts[name] = kind(**arguments)
    if unused := tensors.keys() - used:
        raise ValueError(f"it holds {', '.join(sorted(unused))}; expected the weights of its modules alone")
    model = nn.Sequential(parts)
    model.load_state_dict(dict(tensors))
    return model


def _entry(where: str, entry: Any) -> tuple[str, type[nn.Module], dict[str, Any]]:
    """Return name, type and arguments of a module if `save_compact` writes such ones."""
    known: dict[str, type[nn.Module]] = {
        kind.__name__: kind for kind in (*_ELEMENTWISE, nn.Linear, nn.Flatten)
    }
    if not isinstance(entry, dict) or entry.keys() != {"name", "type", "arguments"}:
        raise ValueError(f"{where} is {entry!r:.80}; expected a name, a type and arguments")
    name, kind, arguments = entry["name"], entry["type"], entry["arguments"]
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.Sequential(), name):
        raise ValueError(f"{where} has the name {name!r:.80}; expected one that a module can have")
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"{name} is of the type {kind!r:.80}; expected one of {sorted(known)}")
    expected = {nn.Linear: _LINEAR, nn.Flatten: _FLATTEN}.get(known[kind]) or _ELEMENTWISE[known[kind]]
    if not isinstance(arguments, dict) or arguments.keys() != set(expected):
        raise ValueError(
            f"{name} has the arguments {arguments!r:.80}; expected {', '.join(expected) or 'none'}"
        )
    for key, value in arguments.items():
        fits, wanted = _ARGUMENTS[key]
        if not fits(value):
            raise ValueError(f"{key} of {name} is {value!r:.80}; expected {wanted}")
    return name, known[kind], arguments


def _require_weight(
    name: str, tensor: torch.Tensor | None, shape: tuple[int, ...], dtype: torch.dtype | None
) -> None:
    if tensor is None:
        raise ValueError(f"{name} is missing; expected a tensor of shape {shape}")
    if tuple(tensor.shape) != shape or tensor.dtype != dtype or not tensor.is_floating_point():
        raise ValueError(
            f"{name} is a tensor of shape {tuple(tensor.shape)} and type {tensor.dtype}; expected real "
            f"numbers of shape {shape}, of one type in each layer"
        )
    # Types of one byte have no test of their own.
    if not bool(torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float()).all()):
        raise ValueError(f"{name} is not finite; expected finite weights")


def export_onnx(model: nn.Module, path: str | os.PathLike[str], example: torch.Tensor) -> None:
    """Write the network to an ONNX file with a free batch size (needs the extra "onnx").

    Parameters
    ----------
    model : torch.nn.Module
        A network, compacted or not.
    path : path
        The file; it is replaced atomically.
    example : Tensor, shape (samples, ...)
        An input, whose shape after the first axis and dtype the file keeps.

    Raises
    ------
    ImportError
        If the extra "onnx" is not installed.
    """
    with extra("onnx", user="export_onnx"):
        for library in ("onnx", "onnxscript"):
            importlib.import_module(library)
    with evaluation_mode(model), warnings.catch_warnings(), replacing(path) as temporary:
        # Of the exporter's own making, about its internals.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            os.fspath(temporary),
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


# Cost


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network costs.

    Parameters
    ----------
    parameters : int
        Number of weights and biases.
    macs : int
        Multiply-accumulates of its matrix products for one sample.
    file_bytes : int
        Size of its weights in a file; shared ones count once, as in `parameters`.
    latency : float
        Median time of one forward pass of the sample batch, in seconds.
    """

    parameters: int
    macs: int
    file_bytes: int
    latency: float


@torch.no_grad()
def cost(model: nn.Module, example: torch.Tensor, *, repeats: int = 50) -> Cost:
    """Return parameters, multiply-accumulates, file size and latency of a network.

    Parameters
    ----------
    model : torch.nn.Module
        A network.
    example : Tensor, shape (samples, ...)
        The batch for the latency.
    repeats : int, optional
        Number of timed forward passes, after three that are not.

    Returns
    -------
    Cost
        The four figures.

    Raises
    ------
    ValueError
        If `repeats` is not a positive whole number.
    """
    with extra("nn", user="cost"):
        from safetensors.torch import save

    validation.count("repeats", repeats)
    waits = example.device.type == "cuda"
    times = []
    with evaluation_mode(model):
        with FlopCounterMode(display=False) as counter:
            model(example[:1])
        for _ in range(repeats + 3):
            start = time.perf_counter()
            model(example)
            if waits:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=counter.get_total_flops() // 2,
        file_bytes=len(save(_weights(model))),
        latency=statistics.median(times[3:]),
    )


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what a file of the network's weights holds; what two modules share is there once."""
    once = {id(value): (name, value) for name, value in model.state_dict(keep_vars=True).items()}
    return {name: _stored(value) for name, value in once.values()}


def _stored(value: torch.Tensor) -> torch.Tensor:
    """Return a copy for a file: safetensors refuses tensors that lie in the same memory."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)
