"""What a network computes on an example, operation by operation."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from nn_bridge.modes import evaluation_mode

_NEW = re.compile(r"new_\w+|(zeros|ones|full|empty|rand|randn)_like$")

__all__ = ["Call", "Node", "Recording", "Ref", "called", "exact", "plain_model", "record"]


@dataclasses.dataclass(frozen=True)
class Ref:
    """A tensor among the arguments of an operation: which value of the recording it is."""

    value: int


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation: its function, its arguments with tensors as `Ref`, and the module that ran it."""

    index: int
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    owner: str

    @property
    def name(self) -> str:
        """The name without its overload, and without the underscore of operations in place."""
        name: str = self.function.overloadpacket.__name__
        return name.rstrip("_") if not name.startswith("_") else name

    def argument(self, name: str, default: Any = None) -> Any:
        """Return an argument by the name that the operation's schema gives it."""
        for k, argument in enumerate(self.function._schema.arguments):
            if argument.name == name:
                if k < len(self.args):
                    return self.args[k]
                return self.kwargs.get(name, argument.default_value if argument.has_default_value() else None)
        return default

    def run(self, *tensors: torch.Tensor) -> Any:
        """Return the operation's results on other tensors in place of its inputs, in their order."""
        left = iter(tensors)
        args, kwargs = tree_map_only(Ref, lambda _: next(left), (self.args, self.kwargs))
        return self.function(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a module: shapes and numbers of its first input and of its output, where they are tensors.

    Otherwise the shapes are empty, and the numbers -1.
    """

    input: tuple[int, ...]
    output: tuple[int, ...]
    given: int = -1
    made: int = -1


@dataclasses.dataclass(frozen=True)
class Recording:
    """Operations in their order, values by number, and what of them is the model's own.

    Parameters
    ----------
    nodes : list of Node
        The operations.
    values : list of Tensor
        What they computed on the example.
    names : dict
        Number of a parameter or buffer -> its names; more than one where it is shared.
    inputs, outputs : set of int
        The model's.
    first : int
        The first of the inputs, -1 if there is none.
    made : set of int
        What an operation computed.
    results : list of Tensor
        The tensors that the model returned.
    calls : dict
        Name of a module -> its calls.
    """

    nodes: list[Node]
    values: list[torch.Tensor]
    names: dict[int, list[str]]
    inputs: set[int]
    outputs: set[int]
    calls: dict[str, list[Call]]
    made: set[int]
    results: list[torch.Tensor]
    first: int

    def shape(self, value: int) -> tuple[int, ...]:
        """Return the shape of a value."""
        return tuple(self.values[value].shape)


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stack: list[str] = [""]
        self.nodes: list[Node] = []
        self.values: list[torch.Tensor] = []
        self.kept: list[torch.Tensor] = []  # so that no identity is used twice
        self.numbers: dict[int, int] = {}
        self.storages: dict[int, list[int]] = {}
        self.stale: dict[int, str] = {}  # what was written into by way of another tensor, and by which module
        self.names: dict[int, list[str]] = {}
        for part in (model.named_parameters, model.named_buffers):
            for name, tensor in part(remove_duplicate=False):
                self.names.setdefault(self.number(tensor), []).append(name)

    def number(self, tensor: torch.Tensor) -> int:
        if id(tensor) not in self.numbers:
            self._add(tensor)
        number = self.numbers[id(tensor)]
        if number in self.stale:
            # Something wrote into a part of the tensor: what it is now comes from all that shares its memory.
            shared = self.storages[tensor.untyped_storage().data_ptr()]
            self._add(tensor)
            new = self.numbers[id(tensor)]
            parts = tuple(other for other in shared if other != new)
            function = torch.ops.aten.slice_scatter.default
            self.nodes.append(Node(len(self.nodes), function, (), {}, parts, (new,), self.stale[number]))
            number = new
        return number

    def _add(self, tensor: torch.Tensor) -> None:
        self.kept.append(tensor)
        self.numbers[id(tensor)] = len(self.values)
        if tensor.layout == torch.strided and tensor.numel():
            self.storages.setdefault(tensor.untyped_storage().data_ptr(), []).append(len(self.values))
        self.values.append(tensor)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        refs, named = tree_map_only(torch.Tensor, lambda t: Ref(self.number(t)), (tuple(args), kwargs))
        inputs = tuple(leaf.value for leaf in tree_flatten((refs, named))[0] if isinstance(leaf, Ref))
        if _NEW.match(function.overloadpacket.__name__):
            inputs = ()  # of which the operation takes the shape alone
        written = [
            argument
            for spec, argument in zip(function._schema.arguments, args, strict=False)
            if spec.alias_info is not None and spec.alias_info.is_write and torch.is_tensor(argument)
        ]
        for tensor in written:
            self.values[self.numbers[id(tensor)]] = tensor.clone()
        result = function(*args, **kwargs)
        for tensor in written:
            before = self.numbers[id(tensor)]
            shared = self.storages.get(tensor.untyped_storage().data_ptr(), ())
            self.stale |= {number: self.stack[-1] for number in shared if number != before}
            self._add(tensor)
        outputs = tuple(self.number(t) for t in tree_flatten(result)[0] if torch.is_tensor(t))
        self.nodes.append(Node(len(self.nodes), function, refs, named, inputs, outputs, self.stack[-1]))
        return result


def plain_model(model: nn.Module) -> None:
    """Refuse what wraps a model, with the name under which the model itself is found."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}; expected a torch.nn.Module.")
    for wrapper, attribute in (("_orig_mod", "_orig_mod"), ("device_ids", "module")):
        if hasattr(model, wrapper) and isinstance(getattr(model, attribute, None), nn.Module):
            raise ValueError(
                f"model is a {type(model).__name__}, which wraps the network; expected the network itself: "
                f"pass model.{attribute}, and wrap it afterwards."
            )

    for name, parameter in model.named_parameters():
        if hasattr(parameter, "full_tensor"):
            raise ValueError(
                f"{name} is sharded over the ranks by fully_shard; expected whole weights: pass the network "
                "before it is sharded, or a plain copy that has loaded get_model_state_dict(model, "
                "options=StateDictOptions(full_state_dict=True)) of torch.distributed.checkpoint."
            )


def called(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and named arguments of an example."""
    if isinstance(example_inputs, dict):
        return (), example_inputs
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    if torch.is_tensor(example_inputs):
        return (example_inputs,), {}
    raise ValueError(
        f"example_inputs is {type(example_inputs).__name__}; expected a tensor, a tuple of arguments or a "
        "dict of named ones, as the model is called with."
    )


def record(model: nn.Module, example_inputs: Any) -> Recording:
    """Run a model on an example, in evaluation mode, and return what it computed.

    Raises
    ------
    ValueError
        If the model cannot be run on the example; the module that failed is named.
    """
    args, kwargs = called(example_inputs)
    recorder = _Recorder(model)
    calls: dict[str, list[Call]] = {}
    given = [leaf for leaf in tree_flatten((args, kwargs))[0] if torch.is_tensor(leaf)]
    inputs = {recorder.number(tensor) for tensor in given}
    with evaluation_mode(model), _watched(model, recorder, calls), exact():
        try:
            with torch.no_grad(), recorder:
                result = model(*args, **kwargs)
        except Exception as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in given)
            raise ValueError(
                f"{recorder.stack[-1] or 'model'} cannot be run on example_inputs of shape {shapes} "
                f"({(str(error).strip() or type(error).__name__).splitlines()[0]}); expected an example as "
                "the model is called with."
            ) from error
    found = [leaf for leaf in tree_flatten(result)[0] if torch.is_tensor(leaf)]
    if not found:
        raise ValueError(f"model returns {type(result).__name__} without tensors; expected tensors.")
    outputs = {recorder.number(tensor) for tensor in found}
    made = {number for node in recorder.nodes for number in node.outputs}
    first = recorder.number(given[0]) if given else -1
    return Recording(
        recorder.nodes, recorder.values, recorder.names, inputs, outputs, calls, made, found, first
    )


@contextlib.contextmanager
def _watched(model: nn.Module, recorder: _Recorder, calls: dict[str, list[Call]]) -> Iterator[None]:
    """Keep the stack of modules that are running, and the list of their calls."""
    stack = recorder.stack

    def plain(value: Any) -> bool:
        return torch.is_tensor(value) and not value.is_nested

    def shape(value: Any) -> tuple[int, ...]:
        return tuple(value.shape) if plain(value) else ()

    def number(value: Any) -> int:
        return recorder.number(value) if plain(value) else -1

    handles = []
    for name, module in model.named_modules():

        def enter(module: nn.Module, inputs: Any, name: str = name) -> None:
            stack.append(name)

        def leave(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            first = inputs[0] if inputs else None
            call = Call(shape(first), shape(output), number(first), number(output))
            calls.setdefault(name, []).append(call)
            stack.pop()

        handles.append(module.register_forward_pre_hook(enter, prepend=True))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Have `nn.MultiheadAttention` compute in operations that are known, and devices in full precision.

    In TF32, which convolutions on a GPU use otherwise, other widths round otherwise.
    """
    attention, before = torch.backends.mha.get_fastpath_enabled(), None
    if torch.cuda.is_available():
        before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
        if before is not None:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
