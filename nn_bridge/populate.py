"""Masses for the groups of a model that exists: neurons, filters, attention heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from nn_bridge.layers import has_masses
from nn_bridge.modes import evaluation_mode
from nn_bridge.population import ATTRIBUTES, Member, Population, attach, detach
from nn_bridge.removal.blocks import branches, without_branches
from nn_bridge.removal.coupling import Coupling, Masks
from nn_bridge.removal.decision import Facts, removable
from nn_bridge.removal.heads import RemainingHeads
from nn_bridge.removal.moves import Axis
from nn_bridge.removal.record import Node, Recording, called, exact, plain_model, record

__all__ = ["populate"]

LOUDER = 256.0  # by how much groups put out more where it is tried whether they are read in proportion


@dataclasses.dataclass(frozen=True)
class _Site:
    """Where a population would sit: its module, and whether it scales its "output", "input" or "heads"."""

    names: tuple[str, ...]  # the module's, then the others that its groups are found under
    at: str
    kind: str
    axis: int
    unit: int
    groups: int
    members: tuple[Member, ...]
    readers: tuple[Member, ...] = ()

    @property
    def name(self) -> str:
        return self.names[0]


def populate(
    model: nn.Module,
    example_inputs: Any,
    groups: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    *,
    blocks: bool = False,
) -> nn.Module:
    """Give the groups of a model masses of 1, in place, and return the model.

    Groups are the hidden neurons of linear layers, the filters of convolutions and the heads of attention:
    all that can be removed without removing anything else that is alive. The model computes what it did. Its
    class, its parameters and their names stay, so that optimisers and files of weights fit as before; its
    ``state_dict`` has one entry more for each module with masses, ``<module>.masses``, and the state of the
    plain model can be loaded (the masses are then 1).

    Parameters
    ----------
    model : torch.nn.Module
        Any network that runs on the example, trained or not.
    example_inputs : Tensor, tuple or dict
        What the model is called with: a tensor, a tuple of arguments, or a dict of named ones.
    groups : iterable of str, optional
        Names of modules whose groups get masses, or of modules that contain them; all by default.
    exclude : iterable of str, optional
        Names of modules whose groups do not, or of modules that contain them.
    blocks : bool, optional
        Give whole residual blocks a mass each, too: it scales all that the branch adds to the link, and at 0
        `compact` takes the branch out. It sits on the last module of the branch.

    Returns
    -------
    torch.nn.Module
        `model` itself. Each module with masses has ``masses``, ``kind`` ("neuron", "unit" for a neuron that
        acts on every element of a sequence, "filter", "head" or "block") and ``population``.

    Raises
    ------
    ValueError
        If the model does not run on the example, a name is none of its modules or has no groups that can go
        (with the reason), or there are none at all. The model is as it was then.

    Notes
    -----
    A filter's mass acts after the normalisation of its channel, which would cancel a scale in front of it,
    and is found there: in the batch normalisation that follows a convolution. Channels that a residual link
    carries, and what enters a layer normalisation, are no groups of their own: they cannot go without others.
    With fewer heads for keys than for queries, a group is the queries' heads that share one key. The masses
    of hand-written attention sit on its output projection, whose input they scale.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    >>> images = torch.ones(1, 1, 6, 6)
    >>> before = model.eval()(images)
    >>> populate(model, images)[1].kind
    'filter'
    >>> model.state_dict()["1.masses"]
    tensor([1., 1., 1., 1.], dtype=torch.float64)
    >>> bool((model(images) == before).all())
    True
    """
    plain_model(model)
    wanted = None if groups is None else _names("groups", groups, model)
    excluded = _names("exclude", exclude, model)
    recording = record(model, example_inputs)
    search = _Search(model, recording)
    attached: list[_Site] = []
    try:
        _attach(model, search, search.sites(), wanted, excluded, attached)
        useless = _useless(model, example_inputs, attached) if attached else {}
        for name in useless:
            detach(model.get_submodule(name))
        _check_readers(model, example_inputs, [site for site in attached if site.name not in useless])
        attached = [site for site in attached if site.name not in useless]
        if blocks:
            _attach(model, search, search.blocks(), wanted, excluded, attached)
        _require(wanted, attached, search.reasons | useless)
    except BaseException:
        for site in attached:
            if has_masses(model.get_submodule(site.name)):
                detach(model.get_submodule(site.name))
        raise
    return model


def _attach(
    model: nn.Module,
    search: _Search,
    sites: Iterable[_Site],
    wanted: tuple[str, ...] | None,
    excluded: tuple[str, ...],
    attached: list[_Site],
) -> None:
    """Put populations on the modules of those sites that are asked for."""
    chosen: dict[str, _Site] = {}
    for site in sites:
        if (wanted is None or _within(site, wanted)) and not _within(site, excluded):
            if site.name in chosen or has_masses(model.get_submodule(site.name)):
                search.reasons.setdefault(site.name, "it has masses for other groups")
            else:
                chosen[site.name] = site
    for site in chosen.values():
        module = model.get_submodule(site.name)
        if taken := [name for name in ATTRIBUTES if hasattr(module, name)]:
            raise ValueError(
                f"{site.name} has an attribute {taken[0]!r} already; expected the name to be free: leave "
                "the module out with exclude, or rename the attribute."
            )
        population = Population(module, site.kind, site.axis, site.unit, site.members)
        population.samples, population.readers = search.samples(site, module), site.readers
        attach(population, site.groups, _device(module), at=site.at)
        attached.append(site)


def _names(argument: str, names: Iterable[str], model: nn.Module) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else tuple(names)
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            raise ValueError(
                f"{argument} holds {name!r}; expected names of the model's modules, such as "
                f"{', '.join(list(known)[1:4])}: see model.named_modules()."
            )
    return names


def _within(site: _Site, names: Iterable[str]) -> bool:
    """Tell whether a site belongs to one of the named modules, or to a module inside of one."""
    return any(own == name or not name or own.startswith(f"{name}.") for name in names for own in site.names)


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _useless(model: nn.Module, example_inputs: Any, sites: list[_Site]) -> dict[str, str]:
    """Return the sites whose groups could not be removed at mass 0, and why."""
    modules: dict[str, Any] = {site.name: model.get_submodule(site.name) for site in sites}
    try:
        for module in modules.values():
            module.masses[0] = 0.0
        coupling = Coupling(record(model, example_inputs))
        numbers = {name: n for n, names in coupling.recording.names.items() for name in names}
        axes: dict[str, Axis] = {name: (numbers[f"{name}.masses".strip(".")], 0) for name in modules}
        first = {axes[name]: _first(len(module.masses)) for name, module in modules.items()}
        _, kept = removable(coupling, Facts(coupling), first)
    finally:
        for module in modules.values():
            module.masses.fill_(1.0)
    return {name: f"they cannot be {kept[axis][0].reason}" for name, axis in axes.items() if axis in kept}


@torch.no_grad()
def _check_readers(model: nn.Module, example_inputs: Any, sites: list[_Site]) -> None:
    """Forget what reads groups where twice as much of them is not read as twice as much."""
    args, kwargs = called(example_inputs)

    def outputs() -> list[torch.Tensor]:
        with evaluation_mode(model), exact():
            found = tree_flatten(model(*args, **kwargs))[0]
        return [leaf for leaf in found if torch.is_tensor(leaf) and not leaf.is_nested]

    def same(modules: list[Any]) -> bool:
        members = [member for module in modules for member in module.population.readers]
        before = [getattr(member.module, member.name).clone() for member in members]
        try:
            for module in modules:
                module.masses.fill_(LOUDER)
                for member in module.population.readers:
                    member.scale(1 / module.masses)
            pairs = zip(outputs(), expected, strict=True)
            return all(torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max())) for a, b in pairs)
        finally:
            for module in modules:
                module.masses.fill_(1.0)
            for member, value in zip(members, before, strict=True):
                getattr(member.module, member.name).copy_(value)

    modules: list[Any] = [model.get_submodule(site.name) for site in sites if site.readers]
    if not modules:
        return
    expected = outputs()
    if not same(modules):  # all at once, and only then one after another
        for module in modules:
            if not same([module]):
                module.population.readers = ()


def _require(wanted: tuple[str, ...] | None, sites: list[_Site], reasons: dict[str, str]) -> None:
    """Refuse a name under which no group was found, or a model without any."""
    for name in ("",) if wanted is None else wanted:
        if any(_within(site, (name,)) for site in sites):
            continue
        inside = [part for part in reasons if not name or part == name or part.startswith(f"{name}.")]
        why = [f"{part or 'model'}: {reasons[part]}" for part in inside] or ["it has no weights for them"]
        raise ValueError(
            f"{name or 'model'} has no groups that could be removed ({'; '.join(why[:3])}); "
            "expected neurons, filters or heads whose outputs are hidden, after their normalisation and "
            "outside of residual links: leave it out of groups, or name others."
        )


class _Search:
    """Finds the groups of a model in what it computed."""

    def __init__(self, model: nn.Module, recording: Recording) -> None:
        self.recording, self.coupling = recording, Coupling(recording)
        self.modules = dict(model.named_modules())
        self.reasons: dict[str, str] = {}
        self.taken: set[Axis] = set()
        self.owned = {
            name: nodes
            for name in self.modules
            if (nodes := [node for node in recording.nodes if node.owner == name])
        }

    def sites(self) -> Iterator[_Site]:
        """Yield the sites, heads first: what is a head is not several neurons."""
        for name, module in self.modules.items():
            if isinstance(module, nn.RNNBase | nn.RNNCellBase | nn.modules.conv._ConvTransposeNd):
                self.reasons[name] = f"groups of {type(module).__name__} are not supported"
            if isinstance(module, nn.MultiheadAttention) and name in self.owned and not has_masses(module):
                yield from self._heads_of_module(name, module)
        for node in self.recording.nodes:
            yield from self._heads_of_code(node)
        for node in self.recording.nodes:
            module = self.modules.get(node.owner)
            if node.name in ("mm", "addmm", "linear", "convolution") and isinstance(
                module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
            ):
                yield from self._channels(node, module)

    def samples(self, site: _Site, module: Any) -> int | None:
        """Return the axis of what is scaled along which the model's samples lie, None if there is none.

        The samples are those along the first axis of the model's first input.
        """
        first, call = self.recording.first, self.recording.calls[site.name][0]
        value = call.made if site.at == "output" else call.given
        if first < 0 or value < 0 or not self.recording.shape(first):
            return None
        size = self.recording.shape(first)[0]
        if size == 1:
            found = 0 if self.recording.shape(value)[0] == 1 else None
        else:
            masks, _ = self.coupling.closure({(first, 0): _first(size)})
            along = [
                masks.get(self.coupling.find((value, k))) for k in range(len(self.recording.shape(value)))
            ]
            axes = [
                k
                for k, mask in enumerate(along)
                if mask is not None and mask.tolist() == _first(size).tolist()
            ]
            found = axes[0] if len(axes) == 1 else None
        if site.at != "heads":
            return found
        # Attention itself puts the samples first, wherever its input has them.
        return 0 if found == (0 if module.batch_first else 1) else None

    def blocks(self) -> Iterator[_Site]:
        """Yield the residual blocks."""
        for branch in branches(self.recording, self.modules):
            inside = branch.name.removeprefix(branch.owner).strip(".")
            if without_branches(self.modules[branch.owner], [inside]) is None:
                self.reasons[branch.name] = f"torch.fx cannot trace the code of {branch.owner or 'the model'}"
                continue
            parts = (name.rpartition(".") for name in branch.parameters)
            members = tuple(Member(self.modules[place], key, 0) for place, _, key in parts)
            yield _Site((branch.name, branch.owner), "output", "block", branch.axis, branch.size, 1, members)

    def _heads_of_module(self, name: str, module: Any) -> Iterator[_Site]:
        if "forward" in vars(type(module)) and type(module) not in (nn.MultiheadAttention, RemainingHeads):
            self.reasons[name] = f"it is a {type(module).__name__} with a forward of its own"
        elif module.bias_k is not None or module.add_zero_attn:
            self.reasons[name] = "attention with bias_k or add_zero_attn is not supported"
        else:
            heads, size = module.num_heads, module.head_dim
            order = torch.arange(3 * heads * size).unflatten(0, (3, heads, size)).transpose(0, 1).flatten()
            projections = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
            if module.in_proj_weight is not None:
                members = [Member(module, "in_proj_weight", 0, order)]
            else:
                members = [Member(module, part, 0) for part in projections]
            if module.in_proj_bias is not None:
                members.append(Member(module, "in_proj_bias", 0, order))
            self.reasons.setdefault(f"{name}.out_proj", "its outputs are those of the attention")
            readers = (Member(module.out_proj, "weight", 1),)
            yield _Site((name,), "heads", "head", -1, size, heads, tuple(members), readers)

    def _heads_of_code(self, node: Node) -> Iterator[_Site]:
        """Yield the heads of attention that is written out: the axes in front of those of softmax."""
        if isinstance(self.modules.get(node.owner), nn.MultiheadAttention):
            return
        value = node.inputs[0] if node.inputs else -1
        if node.name.startswith("_scaled_dot_product") or (
            node.name in ("_softmax", "_safe_softmax") and len(self.recording.shape(value)) > 3
        ):
            for axis in range(1, len(self.recording.shape(value)) - 2):
                if self.coupling.size((value, axis)) > 1:
                    yield from self._heads_on((value, axis), node)

    def _heads_on(self, axis: Axis, node: Node) -> Iterator[_Site]:
        masks, stuck = self.coupling.closure({axis: _first(self.coupling.size(axis))})
        if stuck or self.taken & masks.keys():
            if stuck:
                self.reasons[node.owner] = f"heads cannot be {stuck[0].reason}"
            return
        if owner := self._with_masses(masks):
            self.reasons[node.owner] = f"{owner} has masses for its heads already"
            return
        for contraction in self.coupling.contractions:
            if (mask := masks.get(self.coupling.find(contraction.left))) is None:
                continue
            name = contraction.node.owner
            unit = _block(mask)
            if isinstance(self.modules.get(name), nn.Linear) and unit:
                self.taken |= masks.keys()
                groups = len(mask) // unit
                members = self._members(masks, axis, groups)
                yield _Site((name, node.owner), "input", "head", -1, unit, groups, members)
            return

    def _channels(self, node: Node, module: nn.Module) -> Iterator[_Site]:
        output = node.outputs[0]
        channel = (output, 1)
        size = self.coupling.size(channel)
        if self.coupling.find(channel) in self.taken:
            self.reasons.setdefault(node.owner, "they are groups of another layer already")
            return
        masks, stuck = self.coupling.closure({channel: _first(size)})
        if stuck:
            self.reasons[node.owner] = f"they cannot be {stuck[0].reason}"
            return
        if size == 1 or all(mask.all() for mask in masks.values()):
            self.reasons[node.owner] = "there is only one"
            return
        if owner := self._with_masses(masks):
            self.reasons[node.owner] = f"{owner} has masses for them already"
            return
        if not any(self.coupling.find(part.left) in masks for part in self.coupling.contractions):
            self.reasons[node.owner] = "nothing computes with them"
            return
        self.taken |= masks.keys()
        name, (value, place) = self._last(node, masks)
        unit = _block(masks[self.coupling.find((value, place))])
        if not unit:
            self.reasons[node.owner] = "those that go together are not neighbours"
            return
        call = self.recording.calls[name][0]
        # A linear layer's operation sees its inputs without their leading axes.
        axis = -1 if isinstance(module, nn.Linear) and name == node.owner else place - len(call.output)
        groups = self.coupling.size((value, place)) // unit
        if isinstance(module, nn.Linear):
            kind = "neuron" if len(self.recording.calls[node.owner][0].input) < 3 else "unit"
        else:
            kind = "filter"
        names = tuple(dict.fromkeys((name, node.owner)))
        own, readers = (self._members(masks, channel, groups, read=read) for read in (False, True))
        together, _ = self.coupling.closure({channel: np.ones(size, dtype=bool)})
        if not all(mask.all() for mask in together.values()):
            readers = ()  # they are read together with what is none of them
        yield _Site(names, "output", kind, axis, unit, groups, own, readers)

    def _with_masses(self, masks: Masks) -> str:
        """Return the module that has masses for these slots, if any."""
        for value, names in self.recording.names.items():
            place, _, name = names[0].rpartition(".")
            if (
                name == "masses"
                and has_masses(self.modules[place])
                and self.coupling.find((value, 0)) in masks
            ):
                return place or "model"
        return ""

    def _last(self, node: Node, masks: Masks) -> tuple[str, Axis]:
        """Return the module after which a mass is not cancelled: the last that normalises the channels."""
        found = node.owner, (node.outputs[0], 1)
        for other in self.recording.nodes[node.index :]:
            grouped = other.name == "convolution" and other.argument("groups") > 1
            norm = "batch_norm" in other.name or grouped
            if norm and self.coupling.find((other.outputs[0], 1)) in masks:
                found = other.owner, (other.outputs[0], 1)
        return found

    def _members(self, masks: Masks, axis: Axis, groups: int, *, read: bool = False) -> tuple[Member, ...]:
        """Return the parameters of the groups themselves, or those that read them."""
        members = []
        for value, names in self.recording.names.items():
            place, _, name = names[0].rpartition(".")
            module = self.modules[place]
            if not isinstance(getattr(module, name), nn.Parameter):
                continue
            for own in range(self.recording.values[value].ndim):
                mask = masks.get(self.coupling.find((value, own)))
                if mask is None or self._is_read(value, own) != read:
                    continue
                order = None if _block(mask) else self._order((value, own), axis, groups)
                members.append(Member(module, name, own, order))
        return tuple(members)

    def _is_read(self, value: int, axis: int) -> bool:
        """Tell whether an axis of a parameter is one that a product sums over."""
        weights = {(value, axis)}
        for node in self.recording.nodes:
            if node.name == "t" and node.inputs[0] == value:
                weights.add((node.outputs[0], 1 - axis))
        return any(part.right in weights or part.left in weights for part in self.coupling.contractions)

    def _order(self, own: Axis, axis: Axis, groups: int) -> torch.Tensor:
        """Return the slots of an axis, group by group."""
        root, size = self.coupling.find(own), self.coupling.size(axis)
        found = []
        for k in range(groups):
            seed = np.arange(size) // (size // groups) == k
            masks, _ = self.coupling.closure({axis: seed})
            found.append(np.flatnonzero(masks[root]))
        return torch.from_numpy(np.concatenate(found))


def _first(size: int) -> np.ndarray:
    mask: np.ndarray = np.arange(size) == 0
    return mask


def _block(mask: np.ndarray) -> int:
    """Return how many slots the first group has if they are neighbours that divide the axis, else 0."""
    count = int(mask.sum())
    return count if mask[:count].all() and len(mask) % count == 0 else 0
