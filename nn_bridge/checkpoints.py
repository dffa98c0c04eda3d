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
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evodyn.core.atomic import replacing
from nn_bridge import checkpoint_content
from nn_bridge.selector import Selector

__all__ = ["Progress", "load_checkpoint", "previous", "save_checkpoint"]

FORMAT_VERSION = 1
_MAGIC = b"nn_bridge checkpoint"
_ENTRIES = {
    "config",
    "progress",
    "model",
    "optimizer",
    "selector",
    "generators",
    "global_generators",
    "environment",
}
_REMEDY = "restore the right file, or start afresh in another directory."
# Checkpoints of earlier releases lack it.
_OPTIONAL = frozenset({"optimizer_class"})


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
        If a weight, a mass or a number of the optimiser's or the selector's state is not finite, a mass is
        negative, the configuration is not JSON's, or something could not be read back: such a state is
        never saved.
    OSError
        If the file cannot be written, on a full disk say. The checkpoints that are there stay as they are.

    Notes
    -----
    A model without population layers, such as `compact` returns, is saved like any other, with
    ``selector=None``.
    """
    state: dict[str, Any] = {
        "config": _plain(config),
        "progress": dataclasses.asdict(progress),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "optimizer_class": type(optimizer).__qualname__,
        "selector": None if selector is None else selector.state_dict(),
        "generators": {name: g.get_state() for name, g in (generators or {}).items()},
        "global_generators": _global_states(),
        "environment": _environment(model),
    }
    try:
        checkpoint_content.require_weights(state["model"], model)
        checkpoint_content.require_progress(state["progress"])
        checkpoint_content.require_numbers(state["optimizer"])
        checkpoint_content.require_finite("selector", state["selector"])
    except ValueError as error:
        raise ValueError(
            f"{error}, so nothing was saved: mend it, or go back to the last checkpoint with "
            "smaller step sizes."
        ) from error
    content = io.BytesIO()
    try:
        torch.save(state, content)
        payload = content.getvalue()
        _unpickled(payload)
    except MemoryError:
        raise
    except Exception as error:  # an unknown object fails in a way of its own
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
            file.flush()
            os.fsync(file.fileno())  # a full disk shows before the one that is there is moved
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
        If the configuration differs (each differing field is named), the model or the optimiser is
        another one, an entry is missing, of the wrong kind or not finite, a mass is negative, or neither
        the latest nor the previous checkpoint can be read. Everything is then as it was.

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
    try:
        _require_content(state, model, optimizer, selector, _plain(config), dict(generators or {}))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be resumed: {error}: {_REMEDY}") from error
    _compare_environment(file, state["environment"], _environment(model))
    before = _current(model, optimizer, selector, generators)
    try:
        _restore(state, model, optimizer, selector, generators)
    except BaseException as error:
        _restore(before, model, optimizer, selector, generators)
        if isinstance(error, ValueError):
            raise ValueError(
                f"{file} cannot be resumed: {error}; expected that of the same run: {_REMEDY}"
            ) from error
        raise
    return Progress(**state["progress"])


def _require_content(
    state: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    selector: Selector | None,
    config: dict[str, Any],
    generators: dict[str, torch.Generator],
) -> None:
    """Refuse a state from which this run cannot go on, before anything is changed."""
    checkpoint_content.require_keys("it", state, _ENTRIES, optional=_OPTIONAL)
    _require_same(state["config"], config)
    checkpoint_content.require_progress(state["progress"])
    checkpoint_content.require_fit(state["model"], model)
    checkpoint_content.require_weights(state["model"], model)
    kind = type(optimizer).__qualname__
    if (there := state.get("optimizer_class", kind)) != kind:
        raise ValueError(f"it holds the state of the optimiser {there}; expected {kind}")
    checkpoint_content.require_optimizer(state["optimizer"], optimizer)
    if (state["selector"] is None) != (selector is None):
        raise ValueError(f"it was saved with{'out' if selector else ''} a selector; expected the same now")
    if selector is not None:
        checkpoint_content.require_selector(state["selector"], selector.state_dict())
    checkpoint_content.require_keys("generators", state["generators"], set(generators))
    for name, generator in generators.items():
        checkpoint_content.require_generator(
            f"generators[{name!r}]", state["generators"][name], generator.device
        )
    checkpoint_content.require_global_generators(state["global_generators"])
    checkpoint_content.require_keys("environment", state["environment"], set(_environment(model)))


def _current(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    selector: Selector | None,
    generators: Mapping[str, torch.Generator] | None,
) -> dict[str, Any]:
    """Return the state of the run as it is, for `_restore`."""
    return {
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "selector": None if selector is None else selector.state_dict(),
        "generators": {name: g.get_state() for name, g in (generators or {}).items()},
        "global_generators": _global_states(),
    }


def _restore(
    state: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    selector: Selector | None,
    generators: Mapping[str, torch.Generator] | None,
) -> None:
    for name, part in (("selector", selector), ("optimizer", optimizer), ("model", model)):
        try:
            if part is not None:
                part.load_state_dict(state[name])
        except Exception as error:  # a user's own may refuse it in any way
            raise ValueError(f"the {name} refuses its state ({error})") from error
    for name, generator in (generators or {}).items():
        generator.set_state(state["generators"][name])
    _set_global_states(state["global_generators"])


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in JSON's types, in which tuples are lists."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(config)), parse_constant=_not_nan)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"config cannot be written as JSON ({error}); expected JSON's types.") from error
    return plain


def _not_nan(constant: str) -> float:
    if constant == "NaN":
        raise ValueError("NaN differs from itself, so no run could resume with it")
    return float(constant)


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


def _unpickled(payload: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tensors that are refused later
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)


def _read(file: Path) -> Any:
    payload = _payload(file)
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("it is compressed")  # nobody knows to what size
        return _unpickled(payload)
    except Exception as error:  # an unpickler stumbles over what it does not know in many ways
        # torch's own message advises to run the code in the file.
        unknown = isinstance(error, pickle.UnpicklingError)
        reason = "objects other than tensors, numbers, strings, lists and dicts" if unknown else error
        raise ValueError(f"{file} holds something else than a checkpoint ({reason}).") from error


def _require_same(saved: Any, current: dict[str, Any]) -> None:
    if not isinstance(saved, dict) or not all(isinstance(name, str) for name in saved):
        raise ValueError("config is no dict whose keys are strings; expected the configuration of a run")
    absent = "(absent)"
    differing = [
        f"{name}: {saved.get(name, absent)!r} there, {current.get(name, absent)!r} here"
        for name in sorted(saved.keys() | current.keys())
        if saved.get(name, absent) != current.get(name, absent)
    ]
    if differing:
        raise ValueError(
            f"it belongs to another configuration ({'; '.join(differing)}); expected the same one"
        )


def _environment(model: nn.Module) -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "device": next((value.device.type for value in model.state_dict().values()), "cpu"),
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
