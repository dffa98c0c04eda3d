"""Whole residual blocks: where their branches end, and networks without them."""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from nn_bridge.population import population_of
from nn_bridge.removal.record import Recording, record

__all__ = ["Branch", "branches", "without_branches", "without_dead_blocks"]

_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
_LAST = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)


@dataclasses.dataclass(frozen=True)
class Branch:
    """What is added to a link: the module that ends it, the one whose code adds it, and its parameters."""

    name: str
    owner: str
    axis: int
    size: int
    parameters: tuple[str, ...]


def branches(recording: Recording, modules: dict[str, nn.Module]) -> Iterator[Branch]:
    """Yield the residual branches of a network: of the two terms of a sum, what takes more operations.

    Such a branch ends with a linear layer, a convolution or a batch normalisation that is called once.
    """
    makers = {value: node for node in recording.nodes for value in node.outputs}
    uses = [value for node in recording.nodes for value in node.inputs]

    def above(value: int) -> set[int]:
        """Return the operations that a value depends on."""
        found: set[int] = set()
        queue = [value]
        while queue:
            node = makers.get(queue.pop())
            if node is not None and node.index not in found:
                found.add(node.index)
                queue += node.inputs
        return found

    for node in recording.nodes:
        terms = node.inputs
        if node.name != "add" or len(terms) != 2 or node.argument("alpha", 1) != 1:
            continue
        if recording.shape(terms[0]) != recording.shape(terms[1]) or len(recording.shape(terms[0])) < 2:
            continue
        first, second = (above(value) for value in terms)
        if not first & second and not recording.inputs & set(terms):
            continue  # nothing that both depend on: no link
        own, value = (first - second, terms[0]) if len(first) > len(second) else (second - first, terms[1])
        last = makers.get(value)
        if last is None or not isinstance(modules.get(last.owner), _LAST) or uses.count(value) != 1:
            continue
        if len(recording.calls.get(last.owner, ())) != 1:
            continue
        axis = -1 if isinstance(modules[last.owner], nn.Linear) else 1 - len(recording.shape(value))
        inside = [v for k in sorted(own) for v in recording.nodes[k].inputs if v in recording.names]
        names = tuple(dict.fromkeys(recording.names[v][0] for v in inside))
        yield Branch(last.owner, node.owner, axis, recording.shape(value)[axis], names)


class _Calls(fx.Tracer):
    """Traces a module's own code, and no module's inside of it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def without_branches(module: nn.Module, names: list[str]) -> nn.Module | None:
    """Return a module without the branches that end in the named parts of it, None if that cannot be done."""
    training, graphs = module.training, []
    try:
        for mode in (True, False):
            module.training = mode
            graphs.append(_Calls().trace(module))
    except Exception:  # whatever the code does with what stands for its tensors
        return None
    finally:
        module.training = training
    graph = graphs[0]
    if str(graph) != str(graphs[1]):
        return None
    for name in names:
        if not _cut(graph, name, module):
            return None
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    (output,) = (node for node in graph.nodes if node.op == "output")
    if len(inputs) == 1 and output.args[0] is inputs[0]:
        return nn.Identity().train(module.training)
    made = fx.GraphModule(module, graph, type(module).__name__)
    made.training = module.training
    return made


def _cut(graph: fx.Graph, name: str, module: nn.Module) -> bool:
    """Put the link in the place of the sum of it and of what the named part computes."""
    for call in graph.nodes:
        if call.op != "call_module" or not f"{name}.".startswith(f"{call.target}."):
            continue
        end = call
        while len(end.users) == 1:
            (user,) = end.users
            if user.target in _ADDS and len(user.args) == 2:
                link: Any = user.args[1] if user.args[0] is end else user.args[0]
                if not isinstance(link, fx.Node):
                    return False
                if any(_writes(other, module) for other in user.users):
                    with graph.inserting_before(user):
                        link = graph.call_method("clone", (link,))
                user.replace_all_uses_with(link)
                graph.erase_node(user)
                return True
            if user.op != "call_module":  # a dropout, say
                return False
            end = user
    return False


def _writes(node: fx.Node, module: nn.Module) -> bool:
    """Tell whether an operation writes into what it is given, which the sum was and its link may not be."""
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.endswith("_") or name in ("iadd", "imul", "isub") or bool(node.kwargs.get("inplace"))


def without_dead_blocks(model: nn.Module, example_inputs: Any) -> nn.Module:
    """Return the model without the residual branches of mass 0: a copy, or the model if there are none.

    Raises
    ------
    ValueError
        If the code that adds a branch cannot be followed.
    """
    dead = [
        name
        for name, module in model.named_modules()
        if (population := population_of(module)) and population.may_vanish and not population.masses.any()
    ]
    if not dead:
        return model
    found = {
        part.name: part.owner for part in branches(record(model, example_inputs), dict(model.named_modules()))
    }
    owners: dict[str, list[str]] = {}
    for name in dead:
        owners.setdefault(found.get(name, name), []).append(name)
    small = copy.deepcopy(model)
    for owner, names in sorted(owners.items(), key=lambda item: -item[0].count(".")):
        inside = [name.removeprefix(owner).strip(".") for name in names]
        made = without_branches(small.get_submodule(owner), inside)
        if made is None:
            raise ValueError(
                f"{owner or 'model'} adds the block that ends in {names[0]} in code that torch.fx cannot "
                "trace; expected a sum of two tensors in its forward: write it so, or set the mass above 0."
            )
        if not owner:
            return made
        place, _, key = owner.rpartition(".")
        small.get_submodule(place)._modules[key] = made
    return small
