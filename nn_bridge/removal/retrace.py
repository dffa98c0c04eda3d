"""Code that computes with sizes that have changed, written down again with the new ones."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from nn_bridge.removal.coupling import Coupling, Masks
from nn_bridge.removal.record import Recording, record

__all__ = ["retraced"]

_SHAPED = ("view", "reshape", "expand")


class _Watching(fx.Interpreter):
    """Runs the graph of a module, and remembers what each of its nodes computed."""

    def __init__(self, graph: fx.GraphModule, seen: dict[str, Any]) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.seen = seen

    def run_node(self, n: fx.Node) -> Any:
        self.seen[n.name] = result = super().run_node(n)
        return result


def retraced(
    model: nn.Module,
    small: nn.Module,
    owner: str,
    example_inputs: Any,
    decide: Callable[[Coupling], Masks],
) -> nn.Module | None:
    """Return a module of the smaller model as a graph with the sizes that are left, None if it cannot be one.

    Parameters
    ----------
    model, small : torch.nn.Module
        The model with masses, and the smaller one.
    owner : str
        Name of the module whose code computes with sizes.
    example_inputs : Tensor, tuple or dict
        What the model is called with.
    decide : callable
        Returns the slots that are removed from a recording's values.
    """
    twin = copy.deepcopy(model)
    module, new = twin.get_submodule(owner), small.get_submodule(owner)
    graphs, seen = (_traced(module), _traced(new)), {}  # type: tuple[Any, Any], dict[str, Any]
    if None in graphs:
        return None

    def forward(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
        bound.apply_defaults()
        return _Watching(graphs[0], seen).run(*list(bound.arguments.values())[1:])

    module.forward = forward
    try:
        recording = record(twin, example_inputs)
    except ValueError:
        return None
    coupling = Coupling(recording)
    sizes = _Sizes(recording, coupling, decide(coupling))
    for node in graphs[1].graph.nodes:
        _rewrite(node, seen, sizes)
    graphs[1].recompile()
    graphs[1].train(new.training)
    return graphs[1]  # type: ignore[no-any-return]


def _traced(module: nn.Module) -> fx.GraphModule | None:
    """Return the graph of a module if it has one, the same in training and in evaluation."""
    training, found = module.training, []
    try:
        for mode in (True, False):
            module.training = mode
            found.append(fx.symbolic_trace(module))
    except Exception:  # whatever the code does with what stands for its tensors
        return None
    finally:
        module.training = training
    return found[0] if found[0].code == found[1].code else None


class _Sizes:
    """Old and new sizes of the axes of tensors that a recording has seen."""

    def __init__(self, recording: Recording, coupling: Coupling, masks: Masks) -> None:
        self._numbers = {id(value): number for number, value in enumerate(recording.values)}
        self._coupling, self._masks = coupling, masks

    def mask(self, tensor: torch.Tensor, axis: int) -> Any:
        """Return the slots of an axis that are gone, None if all are left."""
        number = self._numbers.get(id(tensor))
        return None if number is None else self._masks.get(self._coupling.find((number, axis % tensor.ndim)))

    def left(self, tensor: torch.Tensor, axis: int) -> int | None:
        """Return how many slots of an axis are left, None if all are."""
        mask = self.mask(tensor, axis)
        return None if mask is None else int((~mask).sum())


def _rewrite(node: fx.Node, seen: dict[str, Any], sizes: _Sizes) -> None:
    """Put the sizes that are left into the arguments of a node."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    source = node.args[0] if node.args else None
    before = seen.get(source.name) if isinstance(source, fx.Node) else None
    after = seen.get(node.name)
    if node.op not in ("call_method", "call_function") or not torch.is_tensor(before):
        return
    if name in _SHAPED and torch.is_tensor(after):
        packed = isinstance(node.args[1], tuple | list)
        shape: list[Any] = list(node.args[1] if packed else node.args[1:])  # type: ignore[arg-type]
        new = [_changed(old, sizes.left(after, axis)) for axis, old in enumerate(shape)]
        node.args = (source, tuple(new)) if packed else (source, *new)
    elif name == "unflatten" and torch.is_tensor(after):
        axis = int(_value(node.args[1], seen)) % before.ndim
        parts: Any = node.args[2]
        node.args = (
            source, axis, tuple(_changed(old, sizes.left(after, axis + k)) for k, old in enumerate(parts))
        )  # fmt: skip
    elif name == "split" and isinstance(after, tuple | list):
        axis = int(_value(node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0), seen))
        if sizes.left(before, axis) is not None:
            lengths = [part.shape[axis] if (n := sizes.left(part, axis)) is None else n for part in after]
            node.args, node.kwargs = (source, lengths, axis), {}
    elif name == "getitem" and torch.is_tensor(after):
        index: Any = node.args[1]
        _shift(node, index if isinstance(index, tuple) else (index,), before, seen, sizes)


def _shift(node: fx.Node, index: tuple[Any, ...], before: torch.Tensor, seen: Any, sizes: _Sizes) -> None:
    """Move the ends of slices to where they are among the slots that are left."""
    if any(item is None for item in index):
        return
    ahead = list(itertools.takewhile(lambda item: item is not Ellipsis, index))
    axes = [*range(len(ahead)), *range(before.ndim - (len(index) - len(ahead) - 1), before.ndim)]
    items = [item for item in index if item is not Ellipsis]
    new: list[Any] = []
    for axis, item in zip(axes, items, strict=False):
        mask = sizes.mask(before, axis)
        if mask is None or not isinstance(item, slice):
            new.append(item)
            continue
        start, stop, step = slice(*(_value(e, seen) for e in (item.start, item.stop, item.step))).indices(
            len(mask)
        )
        new.append(slice(int((~mask[:start]).sum()), int((~mask[:stop]).sum()), step))
    if len(ahead) < len(index):
        new.insert(len(ahead), Ellipsis)
    node.args = (node.args[0], tuple(new))


def _changed(old: Any, left: int | None) -> Any:
    """Return the new argument for an axis: -1 stays, and so does what has not changed."""
    return old if left is None or old == -1 else left


def _value(argument: Any, seen: dict[str, Any]) -> Any:
    return seen[argument.name] if isinstance(argument, fx.Node) else argument
