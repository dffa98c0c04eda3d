"""Compacted networks in files: safetensors, with the architecture as JSON, and ONNX."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from evodyn.core.atomic import replacing
from evodyn.core.extras import extra
from nn_bridge.layers import empty_linear, has_masses
from nn_bridge.modes import evaluation_mode
from nn_bridge.removal.trace import ELEMENTWISE, chain, flat_names

__all__ = ["export_onnx", "load_compact", "save_compact"]

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
    for (name, module), flat in zip(links, flat_names(links), strict=True):
        if has_masses(module):
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
        for (_, module), entry in zip(chain(model), described, strict=True)
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
