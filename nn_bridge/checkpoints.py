"""Checkpoints: everything a training run needs to go on exactly where it was.

A file is one line, ``nn_bridge checkpoint <format version> <SHA-256 of the rest>``, followed by what
`torch.save` writes. It is read with ``weights_only=True``: no code in it is ever run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pickle
import platform
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evodyn.atomic import replacing
from nn_bridge.layers import population_layers
from nn_bridge.selector import Selector

__all__ = ["Progress", "load_checkpoint", "previous", "save_checkpoint"]

FORMAT_VERSION = 1
_MAGIC = b"nn_bridge checkpoint"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run had come when its checkpoint was written.

    Parameters
    ----------
    epoch : int
        Epochs finished.
    step : int
        Minibatches finished.
    history : dict
        Whatever the run collects about itself, in tensors, numbers, strings, lists and dicts.
    """

    epoch: int = 0
    step: int = 0
    history: dict[str, Any] = dataclasses.field(default_factory=dict)


def previous(path: str | os.PathLike[str]) -> Path:
    """Return where `save_checkpoint` keeps the checkpoint before the latest."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    selector: Selector | None,
    *,
    progress: Progress,
    config: Mapping[str, Any],
    generators: Mapping[str, torch.Generator] | None = None,
) -> None:
    """Write a checkpoint atomically; the one before stays beside it (`previous`).

    Parameters
    ----------
    path : path
        The file. Its directory is made if need be.
    model, optimizer, selector
        Their states are saved; masses are part of the model's.
    progress : Progress
        How far the run has come.
    config : mapping
        What defines the run, in JSON's types; a run that resumes must agree with it field by field.
    generators : mapping, optional
        Random generators of the run by name. The global ones of torch (all devices), NumPy and Python
        are always saved.

    Raises
    ------
    ValueError
        If a weight or a mass is not finite, the configuration is not JSON's, or something could not be read
        back: such a state is never saved.
    """
    config = _plain(config)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{name} of the model is not finite; expected finite weights and masses, so "
                "nothing was saved: go back to the last checkpoint with smaller step sizes."
            )
    content = io.BytesIO()
    torch.save(
        {
            "config": config,
            "progress": dataclasses.asdict(progress),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "selector": None if selector is None else selector.state_dict(),
            "generators": {name: g.get_state() for name, g in (generators or {}).items()},
            "global_generators": _global_states(),
            "environment": _environment(model),
        },
        content,
    )
    payload = content.getvalue()
    try:
        _unpickled(payload)
    except pickle.UnpicklingError as error:
        raise ValueError(
            "progress.history holds something that could not be read back, so nothing was saved; expected "
            "tensors, numbers, strings, lists and dicts: convert NumPy's values."
        ) from error
    path = Path(path)
    header = b"%s %d %s\n" % (_MAGIC, FORMAT_VERSION, hashlib.sha256(payload).hexdigest().encode())
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(header)
            file.write(payload)
        # A damaged checkpoint does not take the place of the one before it, which may be whole.
        with contextlib.suppress(FileNotFoundError, ValueError):
            _payload(path)
            # A kill right after this leaves the previous checkpoint, which loading falls back on.
            os.replace(path, previous(path))


def load_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    selector: Selector | None,
    *,
    config: Mapping[str, Any],
    generators: Mapping[str, torch.Generator] | None = None,
) -> Progress | None:
    """Restore the run that `save_checkpoint` saved, in place, and return how far it had come.

    Parameters
    ----------
    path, model, optimizer, selector, config, generators
        As for `save_checkpoint`. Nothing is changed unless the whole checkpoint is readable and agrees.

    Returns
    -------
    Progress or None
        None if there is no checkpoint.

    Raises
    ------
    ValueError
        If the configuration differs (each differing field is named), the model is of another shape, or
        neither the latest nor the previous checkpoint can be read.

    Warns
    -----
    UserWarning
        If the latest checkpoint is damaged and the previous one is used; if the number of threads or a
        version differs, so that results may differ in their last bits.
    """
    path = Path(path)
    candidates = [file for file in (path, previous(path)) if file.exists()]
    if not candidates:
        return None
    faults = []
    for file in candidates:
        try:
            state = _read(file)
        except ValueError as error:
            faults.append(str(error))
            continue
        break
    else:
        raise ValueError(
            f"{' '.join(faults)} Expected a readable checkpoint: start afresh, or restore a copy."
        )
    if faults:
        warnings.warn(f"{' '.join(faults)} The previous checkpoint, {file}, is used.", stacklevel=2)
    _require_same(file, state["config"], _plain(config))
    _require_fit(file, state["model"], model.state_dict())
    _compare_environment(file, state["environment"], _environment(model))
    if set(state["generators"]) != set(generators or {}):
        raise ValueError(
            f"{file} holds the generators {sorted(state['generators'])}; expected {sorted(generators or {})}."
        )
    if (state["selector"] is None) != (selector is None):
        raise ValueError(
            f"{file} was saved with{'out' if selector else ''} a selector; expected the same now."
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if selector is not None:
        selector.load_state_dict(state["selector"])
    for name, generator in (generators or {}).items():
        generator.set_state(state["generators"][name])
    _set_global_states(state["global_generators"])
    return Progress(**state["progress"])


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in JSON's types, in which tuples are lists."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(config)))
    except TypeError as error:
        raise ValueError(f"config cannot be written as JSON ({error}); expected JSON's types.") from error
    return plain


def _payload(file: Path) -> bytes:
    header, _, payload = file.read_bytes().partition(b"\n")
    fields = header.rsplit(b" ", 2)
    if len(fields) != 3 or fields[0] != _MAGIC:
        raise ValueError(f"{file} is damaged or no checkpoint.")
    if fields[1] != b"%d" % FORMAT_VERSION:
        raise ValueError(
            f"{file} has format version {fields[1].decode(errors='replace')}, not {FORMAT_VERSION}."
        )
    if hashlib.sha256(payload).hexdigest().encode() != fields[2]:
        raise ValueError(f"{file} is damaged: its checksum does not match.")
    return payload


def _unpickled(payload: bytes) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


def _read(file: Path) -> dict[str, Any]:
    try:
        return _unpickled(_payload(file))
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"{file} holds something else than a checkpoint ({error}).") from error


def _require_same(file: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    absent = "(absent)"
    differing = [
        f"{name}: {saved.get(name, absent)!r} there, {current.get(name, absent)!r} here"
        for name in sorted(saved.keys() | current.keys())
        if saved.get(name, absent) != current.get(name, absent)
    ]
    if differing:
        raise ValueError(
            f"{file} belongs to another configuration ({'; '.join(differing)}); expected the same one: "
            "choose another output directory, or start afresh there."
        )


def _require_fit(file: Path, saved: dict[str, torch.Tensor], current: dict[str, torch.Tensor]) -> None:
    there, here = ({name: tuple(v.shape) for name, v in state.items()} for state in (saved, current))
    differing = [
        f"{name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise ValueError(
            f"{file} belongs to another model ({'; '.join(differing)}); expected the one that it was saved "
            "from: choose another output directory, or start afresh there."
        )


def _environment(model: nn.Module) -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "device": population_layers(model)[0].masses.device.type,
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _compare_environment(file: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    differing = [f"{k} {saved.get(k)} there, {v} here" for k, v in current.items() if saved.get(k) != v]
    if differing:
        warnings.warn(
            f"{file} was saved under other conditions ({'; '.join(differing)}): results may differ in "
            "their last bits.",
            stacklevel=3,
        )


def _global_states() -> dict[str, Any]:
    state: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    kind, keys, position, has_gauss, cached = state
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [
            kind,
            torch.from_numpy(keys.astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, list(internal), gauss],
    }


def _set_global_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
