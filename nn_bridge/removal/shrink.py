"""A smaller network by its graph: what is coupled is removed together, and the outputs are compared."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from nn_bridge.layers import PopulationLayer, PopulationLinear, empty_linear, has_masses
from nn_bridge.modes import evaluation_mode
from nn_bridge.population import detach, population_of
from nn_bridge.removal.blocks import without_dead_blocks
from nn_bridge.removal.coupling import Coupling, Masks
from nn_bridge.removal.decision import Facts, foldable, removable
from nn_bridge.removal.heads import RemainingHeads
from nn_bridge.removal.moves import Axis
from nn_bridge.removal.optimizers import Slices, repoint
from nn_bridge.removal.prune import checked_masses
from nn_bridge.removal.record import Recording, called, exact, plain_model, record
from nn_bridge.removal.retrace import retraced

__all__ = ["shrink"]

TOLERANCE = 1e-5  # or 16 units of rounding, where those are larger
MOST_SETTINGS = 6  # that are changed together


@torch.no_grad()
def shrink(
    model: nn.Module, example_inputs: Any, optimizers: Sequence[torch.optim.Optimizer], round_to: int
) -> nn.Module:
    """Return a smaller copy of a model with masses, see `compact`."""
    plain_model(model)
    whole, model = model, without_dead_blocks(model, example_inputs)
    if model is not whole and (wrong := _difference(model, example_inputs, record(whole, example_inputs))):
        raise ValueError(
            f"blocks of mass 0 cannot be taken out ({wrong}); expected branches that are added to their link "
            "and used for nothing else: set their masses above 0."
        )
    layers = _checked(model)
    recording = record(model, example_inputs)
    coupling = Coupling(recording)
    facts = Facts(coupling)
    masks, kept = removable(coupling, facts, _seeds(coupling, layers, round_to))
    for axis, reasons in kept.items():
        name = recording.names[axis[0]][0].rpartition(".")[0] or "model"
        for reason in reasons:
            if not reason.alone:
                raise ValueError(
                    f"{name} has groups of mass 0 that cannot be {reason.reason}; expected groups that can "
                    "be removed: set their masses above 0, or leave the module without masses."
                )
    small = copy.deepcopy(model)
    given = _fold_constants(small, coupling, facts, masks)
    _fold_masses(small, recording.names)
    keep = _kept_slots(coupling, masks)
    _slice(small, recording.names, keep)
    _slice_given(small, recording.names, keep, given)
    _resize(small, coupling, masks, recording)
    slices = _slices(whole, small, recording.names, keep)

    def decide(coupling: Coupling) -> Masks:
        return removable(coupling, Facts(coupling), _seeds(coupling, layers, round_to))[0]

    small = _verified(model, small, example_inputs, recording, coupling, masks, decide)
    if optimizers:
        repoint(whole, small, optimizers, slices, set(whole.parameters()) - slices.keys())
    return small


def _checked(model: nn.Module) -> dict[str, Any]:
    """Return the modules with masses by name, all of them such that their masses can be folded."""
    layers: dict[str, Any] = {name: part for name, part in model.named_modules() if has_masses(part)}
    for name, layer in layers.items():
        checked_masses(name or "model", layer)
        if isinstance(layer, PopulationLayer) and type(layer) is not PopulationLinear:
            raise ValueError(
                f"{name or 'model'} is a {type(layer).__name__}; expected PopulationLinear, or modules that "
                "populate gave masses: how those of another layer become part of its weights is not known."
            )
        if not bool((layer.masses > 0).any()):
            raise ValueError(
                f"{name or 'model'} has no living group; expected at least one: it computes a constant."
            )
    return layers


def _seeds(coupling: Coupling, layers: dict[str, Any], round_to: int) -> dict[Axis, np.ndarray]:
    """Return the groups that are to go: those of mass 0, but for those that round a width up."""
    numbers = {name: n for n, names in coupling.recording.names.items() for name in names}
    seeds = {}
    for name, layer in layers.items():
        dead = (layer.masses == 0).cpu().numpy()
        unit = getattr(layer.population, "unit", 1)
        living = len(dead) - int(dead.sum())
        width = -(-living * unit // round_to) * round_to
        spare = np.flatnonzero(dead)[: max(-(-width // unit) - living, 0)]
        dead[spare] = False
        seeds[numbers[f"{name}.masses".strip(".")], 0] = dead
    return seeds


def _fold_constants(small: nn.Module, coupling: Coupling, facts: Facts, masks: Masks) -> set[str]:
    """Make what removed slots send on, where that is not 0, part of the biases; return who got one for it."""
    given = set()
    for part in coupling.contractions:
        mask = masks.get(coupling.find(part.left))
        if mask is None or not foldable(coupling, part.node):
            continue
        values = coupling.recording.values[part.left[0]].movedim(part.left[1], 0).flatten(1)[:, 0]
        sent = mask & ~facts.zero(part.left) & facts.uniform(part.left)
        if not sent.any():
            continue
        module: Any = small.get_submodule(part.node.owner)
        slots = torch.from_numpy(np.flatnonzero(sent)).to(module.weight.device)
        weight = module.weight[:, slots].double()
        weight = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
        offset = weight @ values[slots].double()
        if module.bias is None:
            module.bias = nn.Parameter(torch.zeros_like(offset, dtype=module.weight.dtype))
            given.add(part.node.owner)
        module.bias.copy_((module.bias.double() + offset).to(module.bias.dtype))
    return given


def _fold_masses(small: nn.Module, shared: dict[int, list[str]]) -> None:
    """Make the masses part of plain modules."""
    several = {name for names in shared.values() if len(names) > 1 for name in names}
    for name, module in list(small.named_modules()):
        target: Any = module
        if not has_masses(module):
            continue
        masses: torch.Tensor = target.masses
        population = population_of(module)
        if isinstance(module, PopulationLinear):
            target = _plain(module)
            _put(small, name, target)
            axis, parts = 0, ["weight", "bias"]
        elif population is None:
            continue
        else:
            masses = masses.repeat_interleave(population.unit)
            at, place = population.at, name
            detach(module)
            axis, parts = (1, ["weight"]) if at != "output" else (0, ["weight", "bias"])
            if at == "heads":
                target, place = target.out_proj, f"{name}.out_proj"
            if target.weight is None:  # a normalisation without a scale of its own
                target.weight = nn.Parameter(torch.ones_like(masses, dtype=torch.get_default_dtype()))
                target.bias, target.affine = nn.Parameter(torch.zeros_like(target.weight)), True
            held = [key for part in parts if (key := f"{place}.{part}".strip(".")) in several]
            if held and bool((masses != 1).any()):
                raise ValueError(
                    f"{held[0]} is shared with another module, which the masses of {name} do not scale; "
                    "expected masses of modules with weights of their own: exclude it."
                )
        for part in parts:
            parameter = getattr(target, part)
            if parameter is not None:
                scale = masses.view([-1 if k == axis else 1 for k in range(parameter.ndim)])
                parameter.copy_((parameter.double() * scale).to(parameter.dtype))


def _plain(module: PopulationLinear) -> nn.Linear:
    """Return a linear layer with the weights of a population layer."""
    weight, bias = module.weight, module.bias
    plain = empty_linear(
        module.in_features, module.out_features, bias is not None, device=weight.device, dtype=weight.dtype
    )
    plain.weight = weight
    plain.bias = bias  # type: ignore[assignment]
    return plain.train(module.training)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another, which may appear under several names."""
    old = model.get_submodule(name)
    for part in model.modules():
        for key, child in part._modules.items():
            if child is old:
                part._modules[key] = module


def _kept_slots(coupling: Coupling, masks: Masks) -> dict[int, dict[int, torch.Tensor]]:
    """Return, for the parameters and buffers that shrink, the slots that are left along their axes."""
    keep: dict[int, dict[int, torch.Tensor]] = {}
    for value in coupling.recording.names:
        for axis in range(len(coupling.recording.shape(value))):
            mask = masks.get(coupling.find((value, axis)))
            if mask is not None:
                keep.setdefault(value, {})[axis] = torch.from_numpy(np.flatnonzero(~mask))
    return keep


def _sliced(slots: dict[int, torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def sliced(tensor: torch.Tensor) -> torch.Tensor:
        for axis, left in slots.items():
            tensor = tensor.index_select(axis, left.to(tensor.device))
        return tensor.clone() if not slots else tensor

    return sliced


def _slice(small: nn.Module, names: dict[int, list[str]], keep: dict[int, dict[int, torch.Tensor]]) -> None:
    """Put the smaller parameters and buffers in the place of the old ones, shared ones as one."""
    for value, slots in keep.items():
        new: torch.Tensor | None = None
        for name in names[value]:
            place, _, key = name.rpartition(".")
            module = small.get_submodule(place)
            own: dict[str, Any] = module._parameters if key in module._parameters else module._buffers
            if key not in own:
                continue  # masses, which are gone
            if new is None:
                new = _sliced(slots)(own[key])
                if isinstance(own[key], nn.Parameter):
                    new = nn.Parameter(new, requires_grad=own[key].requires_grad)
            own[key] = new


def _slice_given(
    small: nn.Module, names: dict[int, list[str]], keep: dict[int, dict[int, torch.Tensor]], given: set[str]
) -> None:
    """Make biases smaller that the recording does not know: they lie along the outputs of their weights."""
    for value, slots in keep.items():
        for name in names[value]:
            place, _, key = name.rpartition(".")
            if place in given and key == "weight" and 0 in slots:
                module: Any = small.get_submodule(place)
                module.bias = nn.Parameter(module.bias[slots[0].to(module.bias.device)])


def _resize(small: nn.Module, coupling: Coupling, masks: Masks, recording: Recording) -> None:
    """Let modules say the sizes that they have."""
    for name, module in list(small.named_modules()):
        part: Any = module
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.modules.conv._ConvNd):
            for node in recording.nodes:
                if node.name == "convolution" and node.owner == name and module.groups > 1:
                    channels = coupling.size((node.inputs[0], 1))
                    gone = masks.get(coupling.find((node.inputs[0], 1)))
                    left = channels - (0 if gone is None else int(gone.sum()))
                    part.groups = left // (channels // node.argument("groups"))
                    break
            first, second = module.weight.shape[:2]
            sizes = (second, first) if not module.transposed else (first, second)
            part.in_channels = sizes[0] * (1 if module.transposed else module.groups)
            part.out_channels = sizes[1] * (module.groups if module.transposed else 1)
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            for tensor in (module.weight, module.running_mean):
                if tensor is not None:
                    module.num_features = len(tensor)
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = module.weight.shape
        elif isinstance(module, nn.PReLU):
            module.num_parameters = len(module.weight)
        elif isinstance(module, nn.MultiheadAttention):
            heads = module.out_proj.weight.shape[1] // module.head_dim
            module.out_proj.in_features = module.out_proj.weight.shape[1]
            if heads != module.num_heads:
                _put(small, name, RemainingHeads(module, heads))


def _slices(
    model: nn.Module, small: nn.Module, names: dict[int, list[str]], keep: dict[int, dict[int, torch.Tensor]]
) -> Slices:
    """Return which parameter of the smaller model each of the old ones has become."""
    new = dict(small.named_parameters(remove_duplicate=False))
    numbers = {name: value for value, several in names.items() for name in several}
    return {
        parameter: (new[name], _sliced(keep.get(numbers[name], {})))
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name in new
    }


def _verified(
    model: nn.Module,
    small: nn.Module,
    example_inputs: Any,
    recording: Recording,
    coupling: Coupling,
    masks: Masks,
    decide: Callable[[Coupling], Masks],
) -> nn.Module:
    """Return the smaller model if it computes what it should, if needed with other sizes in its code."""
    wrong = _difference(small, example_inputs, recording)
    if not wrong:
        return small
    settings = _settings(small, coupling, masks, recording)
    for count in range(min(len(settings), MOST_SETTINGS), 0, -1):
        for chosen in itertools.combinations(settings, count):
            changes = [change for parts in chosen for change in parts]
            before = [(module, key, getattr(module, key)) for module, key, _ in changes]
            _set(changes)
            if not _difference(small, example_inputs, recording):
                return small
            _set(before)
    owners = _owners(small, coupling, masks, recording)
    for name in owners:
        part = retraced(model, small, name, example_inputs, decide)
        if part is not None:
            _put(small, name, part)
    if wrong := _difference(small, example_inputs, recording):
        raise ValueError(
            f"{' or '.join(owners) or 'model'} computes with sizes that have changed ({wrong}); expected the "
            "number of heads or channels in an attribute of the module, or code that torch.fx can trace: "
            "write it so, or give the module no masses."
        )
    return small


def _set(changes: Sequence[tuple[nn.Module, str, int]]) -> None:
    for module, key, value in changes:
        setattr(module, key, value)


def _difference(small: nn.Module, example_inputs: Any, recording: Recording) -> str:
    """Return what is wrong with the smaller model, as a sentence; empty if nothing is."""
    args, kwargs = called(example_inputs)
    try:
        with evaluation_mode(small), exact():
            results = [leaf for leaf in tree_flatten(small(*args, **kwargs))[0] if torch.is_tensor(leaf)]
    except Exception as error:
        return f"the smaller model does not run: {error}"
    for new, old in zip(results, recording.results, strict=True):
        if new.shape != old.shape:
            return "the smaller model has outputs of another shape"
        if not old.is_floating_point() or not old.numel():
            continue
        scale = max(1.0, float(old.abs().max()))
        tolerance = scale * max(TOLERANCE, 16 * torch.finfo(old.dtype).eps)
        if not bool(((new - old).abs() <= tolerance).all()):
            return f"the smaller model's outputs differ by {float((new - old).abs().max()):.2g}"
    return ""


def _owners(small: nn.Module, coupling: Coupling, masks: Masks, recording: Recording) -> list[str]:
    """Return the modules in whose own code numbers are moved along axes that have changed."""
    modules = dict(small.named_modules())
    owners = {
        node.owner
        for node in coupling.moving
        if any(
            coupling.find((value, axis)) in masks
            for value in (*node.inputs, *node.outputs)
            for axis in range(len(recording.shape(value)))
        )
    }
    own = [
        name for name in owners if name in modules and not type(modules[name]).__module__.startswith("torch.")
    ]
    return sorted(own, key=lambda name: (-name.count("."), name))


def _settings(
    small: nn.Module, coupling: Coupling, masks: Masks, recording: Recording
) -> list[list[tuple[nn.Module, str, int]]]:
    """Return the whole numbers in modules that are sizes which have changed, those of one name together."""
    found: dict[tuple[type, str], dict[int, tuple[nn.Module, str, int]]] = {}
    modules = dict(small.named_modules())
    for name in _owners(small, coupling, masks, recording):
        module = modules[name]
        for node in coupling.moving:
            if node.owner != name:
                continue
            for value in (*node.inputs, *node.outputs):
                for axis in range(len(recording.shape(value))):
                    gone = masks.get(coupling.find((value, axis)))
                    for key, number in vars(module).items():
                        if gone is not None and type(number) is int and number == len(gone):
                            change = (module, key, len(gone) - int(gone.sum()))
                            found.setdefault((type(module), key), {})[id(module)] = change
    return [list(parts.values()) for parts in found.values()]
