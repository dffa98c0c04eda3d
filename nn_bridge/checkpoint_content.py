"""What a checkpoint must hold before a run may go on from it; nothing here changes the run."""

from __future__ import annotations

import copy
import inspect
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from nn_bridge.layers import has_masses

__all__ = [
    "require_finite",
    "require_fit",
    "require_generator",
    "require_global_generators",
    "require_keys",
    "require_like",
    "require_numbers",
    "require_optimizer",
    "require_progress",
    "require_selector",
    "require_weights",
]

_STATE_WORDS = 624  # of the Mersenne twister


def require_keys(name: str, content: Any, keys: set[str], *, optional: frozenset[str] = frozenset()) -> None:
    """Refuse what is no dict with exactly these keys."""
    if not isinstance(content, dict):
        raise ValueError(f"{name} is {_short(content)}; expected a dict with {_listed(keys)}")
    lacking, unknown = keys - content.keys(), content.keys() - keys - optional
    if lacking or unknown:
        faults = [f"lacks {_listed(lacking)}"] * bool(lacking)
        faults += [f"holds {', '.join(sorted(map(repr, unknown)))}"] * bool(unknown)
        raise ValueError(f"{name} {' and '.join(faults)}; expected {_listed(keys)}")


def _listed(keys: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, keys))) or "nothing"


def require_finite(name: str, content: Any) -> None:
    """Refuse a number that is not finite, however deep in the content, and tensors that are not dense."""
    for where, leaf in _leaves(name, content):
        if isinstance(leaf, torch.Tensor):
            _require_dense(where, leaf)
        finite = math.isfinite(leaf) if isinstance(leaf, float) else True
        if isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
            finite = bool(torch.isfinite(leaf if leaf.element_size() > 1 else leaf.float()).all())
        if not finite:
            raise ValueError(f"{where} is not finite; expected finite numbers")


def require_weights(content: Any, model: nn.Module) -> None:
    """Refuse weights that are not finite and masses that are negative."""
    masses = {f"{name}.masses".lstrip(".") for name, module in model.named_modules() if has_masses(module)}
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name} of the model is {_short(value)}; expected a tensor")
        try:
            require_finite(f"{name} of the model", value)
        except ValueError as error:
            raise ValueError(f"{str(error).partition(';')[0]}; expected finite weights and masses") from error
        if name in masses and bool((value < 0).any()):
            raise ValueError(f"{name} of the model is negative somewhere; expected masses >= 0")


def require_fit(content: Any, model: nn.Module) -> None:
    """Refuse the state of a model with other entries, shapes or types than `model`."""
    if not isinstance(content, dict):
        raise ValueError(f"model is {_short(content)}; expected a dict of tensors")
    current = model.state_dict()
    for form in (_shape, _form):  # the types matter only where the shapes agree
        there, here = ({name: form(value) for name, value in state.items()} for state in (content, current))
        differing = [
            f"{name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
            for name in sorted(there.keys() | here.keys(), key=str)
            if there.get(name) != here.get(name)
        ]
        if differing:
            raise ValueError(
                f"it belongs to another model ({'; '.join(differing)}); expected the one that it was saved "
                f"from{_wrapping(there.keys(), here.keys())}"
            )


def _wrapping(there: Iterable[str], here: Iterable[str]) -> str:
    """Return the remedy where one of the models is wrapped and the other is not, else nothing."""
    names = {"saved": set(there), "given": set(here)}
    for attribute in ("module", "_orig_mod"):
        for wrapped, plain in (("saved", "given"), ("given", "saved")):
            if names[wrapped] == {f"{attribute}.{name}" for name in names[plain]}:
                return f", wrapped or not as then: save and load model.{attribute}, the network itself"
    return ""


def require_progress(content: Any) -> None:
    """Refuse what `Progress` does not take."""
    require_keys("progress", content, {"epoch", "step", "history"})
    for name in ("epoch", "step"):
        _require_count(f"progress.{name}", content[name])
    history = content["history"]
    if not isinstance(history, dict) or not all(isinstance(key, str) for key in history):
        raise ValueError(f"progress.history is {_short(history)}; expected a dict whose keys are strings")


def require_selector(content: Any, current: Mapping[str, Any]) -> None:
    """Refuse numbers that are none of a selector's; whether they fit it is for the selector to say."""
    if not isinstance(content, dict):
        raise ValueError(f"selector is {_short(content)}; expected a dict with {', '.join(sorted(current))}")
    if unknown := content.keys() - current.keys():
        raise ValueError(
            f"selector holds {', '.join(sorted(map(repr, unknown)))}; expected {', '.join(sorted(current))}"
        )
    require_finite("selector", content)
    for name, value in content.items():
        if isinstance(current[name], int) and not isinstance(current[name], bool):
            _require_count(f"selector[{name!r}]", value)
        elif isinstance(current[name], float) and not _is_number(value):
            raise ValueError(f"selector[{name!r}] is {_short(value)}; expected a number")
        elif isinstance(current[name], torch.Tensor) and not current[name].is_floating_point():
            single = isinstance(value, torch.Tensor) and value.numel() == 1
            _require_count(f"selector[{name!r}]", value.item() if single else value)
        elif isinstance(value, torch.Tensor) and not value.is_floating_point():
            raise ValueError(f"selector[{name!r}] is {_short(value)}; expected real numbers")


def require_like(name: str, content: Any, current: Any) -> None:
    """Refuse what has not the form of `current`, the same object's state here; values may be infinite."""
    if isinstance(current, Mapping):
        require_keys(name, content, set(current))
        for key, value in current.items():
            require_like(f"{name}[{key!r}]", content[key], value)
    elif isinstance(current, list | tuple):
        if not isinstance(content, list | tuple) or len(content) != len(current):
            raise ValueError(f"{name} is {_short(content)}; expected {len(current)} entries")
        for k, value in enumerate(current):
            require_like(f"{name}[{k}]", content[k], value)
    elif content is not None and current is not None and _sort(content) != _sort(current):
        raise ValueError(f"{name} is {_short(content)}; expected a value like {_short(current)}")
    elif isinstance(content, float) and math.isnan(content):
        raise ValueError(f"{name} is NaN; expected a number")


def require_generator(name: str, content: Any, device: torch.device | str = "cpu") -> None:
    """Refuse what is no state of a torch generator."""
    if not isinstance(content, torch.Tensor):
        raise ValueError(f"{name} is {_short(content)}; expected the state of a torch generator")
    try:
        torch.Generator(device=device).set_state(content)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name} is no state of a torch generator ({error}); expected what get_state returned"
        ) from error


def require_global_generators(content: Any) -> None:
    """Refuse what is no state of the global generators of torch, NumPy and Python."""
    require_keys("global_generators", content, {"torch", "cuda", "numpy", "python"})
    require_generator("global_generators['torch']", content["torch"])
    if not isinstance(content["cuda"], list):
        raise ValueError(f"global_generators['cuda'] is {_short(content['cuda'])}; expected a list")
    if torch.cuda.is_available():
        for k, state in enumerate(content["cuda"]):
            require_generator(f"global_generators['cuda'][{k}]", state, "cuda")
    try:
        kind, keys, position, has_gauss, cached = content["numpy"]
        # NumPy itself would read beyond the state.
        inside = 0 <= position <= _STATE_WORDS and int(keys.min()) >= 0 and int(keys.max()) < 2**32
        state = (kind, keys.numpy().astype(np.uint32), position, has_gauss, cached)
        np.random.RandomState().set_state(state)
        if not inside or has_gauss not in (0, 1) or not math.isfinite(cached):
            raise ValueError("out of range")
    except (TypeError, ValueError, AttributeError, RuntimeError, LookupError, OverflowError) as error:
        raise ValueError(
            f"global_generators['numpy'] is no state of NumPy's generator ({error}); expected one"
        ) from error
    try:
        version, internal, gauss = content["python"]
        random.Random().setstate((version, tuple(internal), gauss))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"global_generators['python'] is no state of Python's generator ({error}); expected one"
        ) from error
    if gauss is not None and not _is_number(gauss):
        raise ValueError(f"global_generators['python'] holds {_short(gauss)}; expected a number or None")


def require_optimizer(content: Any, optimizer: torch.optim.Optimizer, name: str = "optimizer") -> None:
    """Refuse a state that `optimizer` could not go on from.

    A twin of the optimiser, made with the options of the checkpoint and parameters of its own, is asked:
    it shows what the state must look like, and it must be able to take a step from it. An optimiser whose
    constructor takes something else than parameters and options has no twin; then the state's numbers
    alone are checked.
    """
    require_keys(name, content, {"state", "param_groups"})
    groups, state = content["param_groups"], content["state"]
    current = optimizer.state_dict()["param_groups"]
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError(f"{name}['param_groups'] is {_short(groups)}; expected a list of dicts")
    there, here = ([group.get("params") for group in part] for part in (groups, current))
    if there != here:
        raise ValueError(
            f"{name}['param_groups'] is of the parameters {_short(there)}; expected {_short(here)}"
        )
    known = {index for part in here for index in part}
    if not isinstance(state, dict) or not all(isinstance(entry, dict) for entry in state.values()):
        raise ValueError(f"{name}['state'] is {_short(state)}; expected a dict of dicts")
    if unknown := state.keys() - known:
        raise ValueError(
            f"{name}['state'] holds the entries {_short(sorted(unknown, key=str))}; "
            f"expected those of the parameters, 0 to {len(known) - 1}"
        )
    for k, (group, now) in enumerate(zip(groups, current, strict=True)):
        _require_options(f"{name}['param_groups'][{k}]", group, now)
    with torch.random.fork_rng(devices=[]):  # a step may draw
        for k, group in enumerate(groups):
            _require_state(name, k, group, state, optimizer)
    require_finite(f"{name}['state']", state)


def require_numbers(content: dict[str, Any], name: str = "optimizer") -> None:
    """Refuse the state of an optimiser in which a number is not finite."""
    require_finite(f"{name}['state']", content["state"])
    for k, group in enumerate(content["param_groups"]):
        _require_options(f"{name}['param_groups'][{k}]", group, group)


def _require_options(name: str, group: dict[str, Any], current: dict[str, Any]) -> None:
    for key, value in group.items():
        now = current.get(key)
        if value is not None and now is not None and _sort(value) != _sort(now):
            raise ValueError(f"{name}[{key!r}] is {_short(value)}; expected a value like {_short(now)}")
        # An option may be infinite on purpose, in the optimiser that is here as well.
        if not (isinstance(value, float) and value == now):
            require_finite(f"{name}[{key!r}]", value)


def _require_state(
    whose: str, number: int, group: dict[str, Any], state: dict[int, Any], optimizer: torch.optim.Optimizer
) -> None:
    """Ask a twin for its options, then for the form of its state, then for a step from the saved one."""
    own = optimizer.param_groups[number]
    kind, options = type(optimizer).__name__, f"{whose}['param_groups'][{number}]"
    try:
        _twin(optimizer, own["params"], own).step(lambda: 0.0)
    except Exception:  # of an optimiser of any make
        _require_all(options, own, group)
        return
    indices = group["params"]
    saved_group = {**group, "params": list(range(len(indices)))}
    try:
        fresh, twin = (_twin(optimizer, own["params"], group) for _ in range(2))
        whole = set(twin.param_groups[0])
        twin.load_state_dict({"state": {}, "param_groups": [saved_group]})
        _require_all(options, whole, twin.param_groups[0])
        fresh.step(lambda: 0.0)
    except Exception as error:
        raise ValueError(
            f"{options} is refused by {kind} ({error}); expected the options of the same optimiser"
        ) from error
    form = fresh.state_dict()["state"]
    entries = {k: state[index] for k, index in enumerate(indices) if index in state}
    for k, entry in entries.items():
        name = f"{whose}['state'][{indices[k]}]"
        for key, value in form.get(k, {}).items():
            if key not in entry:
                raise ValueError(f"{name} lacks {key}; expected what {kind} keeps")
            if isinstance(value, torch.Tensor) and _form(entry[key]) != _form(value):
                raise ValueError(f"{name}[{key!r}] is {_form(entry[key])}; expected {_form(value)}")
            if _is_number(value) and not _is_number(entry[key]):
                raise ValueError(f"{name}[{key!r}] is {_short(entry[key])}; expected a number")
        require_finite(name, entry)
    try:
        # A copy, since the step changes the tensors.
        twin.load_state_dict(copy.deepcopy({"state": entries, "param_groups": [saved_group]}))
        twin.step(lambda: 0.0)
    except Exception as error:
        raise ValueError(
            f"{whose}['state'] is one from which {kind} cannot take a step ({error}); "
            "expected a state of the same optimiser"
        ) from error


def _require_all(name: str, keys: Iterable[str], group: Mapping[str, Any]) -> None:
    if lacking := set(keys) - group.keys() - {"initial_lr"}:  # which a scheduler sets itself
        raise ValueError(f"{name} lacks {', '.join(sorted(lacking))}; expected all options")


def _twin(
    optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Return a new optimiser of the same kind; its constructor checks the ranges of the options."""
    own = [torch.zeros_like(parameter, requires_grad=True) for parameter in parameters]
    for parameter in own:
        parameter.grad = torch.zeros_like(parameter)
    kind: Any = type(optimizer)
    names = inspect.signature(kind).parameters.keys() - {"params"}
    accepted = {key: copy.deepcopy(value) for key, value in options.items() if key in names}
    twin: torch.optim.Optimizer = kind(own, **accepted)
    return twin


def _leaves(name: str, content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(f"{name}[{key!r}]", value)
    elif isinstance(content, list | tuple):
        for k, value in enumerate(content):
            yield from _leaves(f"{name}[{k}]", value)
    else:
        yield name, content


def _require_dense(name: str, value: torch.Tensor) -> None:
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        raise ValueError(f"{name} is a tensor of another layout; expected a dense tensor")


def _require_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is {_short(value)}; expected a whole number >= 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sort(value: Any) -> str:
    """Return what sort of option a value is."""
    if value is None or isinstance(value, bool):
        return "flag"
    if isinstance(value, list | tuple):
        return "sequence of " + ", ".join(map(_sort, value))
    if _is_number(value) or (isinstance(value, torch.Tensor) and value.ndim == 0):
        return "number"
    return type(value).__name__


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else _short(value)


def _form(value: Any) -> str:
    """Return the shape and the type of a tensor in words."""
    if not isinstance(value, torch.Tensor):
        return _short(value)
    dense = value.layout == torch.strided and not value.is_quantized
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{'' if dense else ', not dense'}"


def _short(value: Any) -> str:
    text = f"a tensor {_form(value)}" if isinstance(value, torch.Tensor) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
