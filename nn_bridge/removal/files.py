"""Compacted networks in files: safetensors with the architecture as JSON, or a program of `torch.export`."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from evodyn.core.atomic import replacing
from evodyn.core.extras import extra
from nn_bridge.layers import empty_linear, has_masses
from nn_bridge.removal.exports import is_program, program_bytes, read_program
from nn_bridge.removal.trace import ELEMENTWISE, chain, flat_names

__all__ = ["load_compact", "save_compact"]

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
    "min_val": (_is_real, "a finite number"),
    "max_val": (_is_real, "a finite number"),
    "lambd": (_is_real, "a finite number"),
    "value": (_is_real, "a finite number"),
    "p": (lambda v: _is_real(v) and 0 <= v <= 1, "a probability"),
}


def _architecture(model: nn.Module) -> list[dict[str, Any]]:
    description: list[dict[str, Any]] = []
    links = chain(model)
    for (_, module), flat in zip(links, flat_names(links), strict=True):
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
            arguments = {key: getattr(module, key) for key in ELEMENTWISE[type(module)]}
        description.append({"name": flat, "type": type(module).__name__, "arguments": arguments})
    return description


def _digest(architecture: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of a file's content."""
    digest = hashlib.sha256(architecture.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_compact(
    model: nn.Module, path: str | os.PathLike[str], example_inputs: Any = None
) -> Literal["safetensors", "torch.export"]:
    """Write a compacted network to a file that others can load, and return of which kind the file is.

    Parameters
    ----------
    model : torch.nn.Module
        What `compact` returned.
    path : path
        The file; it is replaced atomically.
    example_inputs : Tensor, tuple or dict, optional
        What the model is called with, see `populate`. A chain (`nn.Sequential`, nested or not) of linear
        layers, `nn.Flatten` and element-wise modules needs none.

    Returns
    -------
    str
        "safetensors" for such a chain: its weights, and its architecture as JSON in the metadata, a list
        with name, type and arguments of every module of `torch.nn`. "torch.export" for any other
        network: the program that it runs, for any number of samples, in evaluation mode.

    Raises
    ------
    ValueError
        If the model still has masses, or a weight is not finite; if it is no chain and there is no example,
        or `torch.export` cannot follow its code; or if something else could not be loaded again.
    OSError
        If the file cannot be written, on a full disk say. An older file stays as it is.

    Notes
    -----
    Equal networks give equal bytes. Neither kind needs this package to be loaded: the first is read by
    safetensors, the second by ``torch.export.load``. Weights that the layers of a chain share are written,
    and loaded, once for each.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> save_compact(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), folder / "chain.safetensors")
    'safetensors'
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    >>> images = torch.ones(5, 1, 4, 4)
    >>> save_compact(model, folder / "model.pt2", images[:2])
    'torch.export'
    >>> bool(torch.allclose(load_compact(folder / "model.pt2")(images), model(images)))
    True
    """
    with extra("nn", user="save_compact"):
        from safetensors.torch import save

    _require_compacted(model)
    if example_inputs is not None and not _is_chain(model):
        content, kind = program_bytes(model, example_inputs), "torch.export"
    else:
        content, kind = _ordered(save(*_described(model))), "safetensors"
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return kind  # type: ignore[return-value]


def _require_compacted(model: nn.Module) -> None:
    """Refuse masses, and weights that are not finite."""
    for name, module in model.named_modules():
        if has_masses(module):
            raise ValueError(
                f"{name or 'model'} still has masses; expected a compacted network: call compact first."
            )
    for name, tensor in model.state_dict().items():
        if not _is_finite(tensor):
            raise ValueError(f"{name} is not finite; expected finite weights: nothing was saved.")


def _is_finite(tensor: torch.Tensor) -> bool:
    # Types of one byte have no test of their own.
    return bool(torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float()).all())


def _is_chain(model: nn.Module) -> bool:
    try:
        chain(model)
    except ValueError:
        return False
    return True


def _described(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the weights of a chain and the metadata of its file."""
    described = _architecture(model)
    tensors = {
        f"{entry['name']}.{key}": value.detach().cpu().contiguous().clone()
        for (_, module), entry in zip(chain(model), described, strict=True)
        for key, value in module.state_dict().items()
    }
    try:
        architecture = json.dumps(described)
        _built(json.loads(architecture), tensors)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the network could not be loaded again: {error}; nothing was saved.") from error
    metadata = {"format": "nn_bridge compact", "version": "1", "architecture": architecture}
    return tensors, metadata | {"sha256": _digest(architecture, tensors)}


def _ordered(content: bytes) -> bytes:
    """Return a safetensors file with its header in order: the library writes metadata in random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def load_compact(path: str | os.PathLike[str]) -> nn.Module:
    """Return the network that `save_compact` wrote, of either kind.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    torch.nn.Module
        The network, in evaluation mode: `nn.Sequential` on the CPU from a file of safetensors, of which no
        code is run, and what ``torch.export.load`` makes of a program. Load programs of people whom you
        trust.

    Raises
    ------
    ValueError
        If the file is damaged, of another kind or version, or describes a network that `compact` does not
        make: an unknown module, an argument out of its range, a weight that is missing, of another shape
        or not finite.
    """
    with extra("nn", user="load_compact"):
        from safetensors import SafetensorError, safe_open

    if is_program(path):
        return read_program(path)
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
        kind.__name__: kind for kind in (*ELEMENTWISE, nn.Linear, nn.Flatten)
    }
    if not isinstance(entry, dict) or entry.keys() != {"name", "type", "arguments"}:
        raise ValueError(f"{where} is {entry!r:.80}; expected a name, a type and arguments")
    name, kind, arguments = entry["name"], entry["type"], entry["arguments"]
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.Sequential(), name):
        raise ValueError(f"{where} has the name {name!r:.80}; expected one that a module can have")
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"{name} is of the type {kind!r:.80}; expected one of {sorted(known)}")
    expected = {nn.Linear: _LINEAR, nn.Flatten: _FLATTEN}.get(known[kind]) or ELEMENTWISE[known[kind]]
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
    if not _is_finite(tensor):
        raise ValueError(f"{name} is not finite; expected finite weights")
