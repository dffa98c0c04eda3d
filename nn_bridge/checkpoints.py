"""Checkpoints: everything a training run needs to go on exactly where it was.

A file is one line, ``nn_bridge checkpoint <format version> <SHA-256 of the rest>``, followed by what
`torch.save` writes. It is read with ``weights_only=True``: no code in it is ever run.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evodyn.core.atomic import replacing
from nn_bridge import checkpoint_content
from nn_bridge.checkpoint_parts import Optimizers, Run, environment
from nn_bridge.selector import Selector

__all__ = ["Progress", "load_checkpoint", "previous", "save_checkpoint"]

FORMAT_VERSION = 1
_MAGIC = b"nn_bridge checkpoint"
_REMEDY = "restore the right file, or start afresh in another directory."


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
    optimizer: Optimizers,
    selector: Selector | None = None,
    *,
    progress: Progress,
    config: Mapping[str, Any],
    generators: Mapping[str, torch.Generator] | None = None,
    scheduler: Any = None,
    scaler: Any = None,
    states: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically; the one before stays beside it (`previous`).

    Parameters
    ----------
    path : path
        The file. Its directory is made if need be.
    model, optimizer, selector
        Their states are saved; masses are part of the model's. Several optimisers are given as a list.
    progress : Progress
        How far the run has come.
    config : mapping
        What defines the run, in JSON's types; a run that resumes must agree with it field by field.
    generators : mapping, optional
        Random generators of the run by name. The global ones of torch (all devices), NumPy and Python
        are always saved.
    scheduler : torch.optim.lr_scheduler.LRScheduler or list of these, optional
        Of the learning rates.
    scaler : torch.amp.GradScaler, optional
        Of the loss.
    states : mapping, optional
        Whatever else the run has to go on with, by name: objects with ``state_dict`` and
        ``load_state_dict``, say an average of the weights or a loader of data.

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
    A model without population layers, such as `compact` returns, is saved like any other, without a
    selector. In a distributed run one rank writes, and every rank loads.
    """
    run = Run(model, optimizer, selector, generators, scheduler, scaler, states)
    state = {
        "config": _plain(config),
        "progress": dataclasses.asdict(progress),
        **run.state(),
        "environment": environment(model),
    }
    try:
        checkpoint_content.require_weights(state["model"], model)
        checkpoint_content.require_progress(state["progress"])
        for name, one in run.optimizers.items():
            checkpoint_content.require_numbers(one.state_dict(), name)
        checkpoint_content.require_finite("selector", state["selector"])
        for name, part in state.get("parts", {}).items():
            if name in run.of_known_form:
                checkpoint_content.require_like(name, part["state"], part["state"])
    except ValueError as error:
        raise ValueError(
            f"{error}, so nothing was saved: mend it, or go back to the last checkpoint with "
            "smaller step sizes."
        ) from error
    try:
        payload = _packed(state)
    except ValueError as error:
        raise ValueError(
            f"{_unreadable(state)} holds something that could not be read back, so nothing was saved; "
            "expected tensors, numbers, strings, lists and dicts: convert NumPy's values."
        ) from error
    _write(Path(path), payload)


def load_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    optimizer: Optimizers,
    selector: Selector | None = None,
    *,
    config: Mapping[str, Any],
    generators: Mapping[str, torch.Generator] | None = None,
    scheduler: Any = None,
    scaler: Any = None,
    states: Mapping[str, Any] | None = None,
) -> Progress | None:
    """Restore the run that `save_checkpoint` saved, in place, and return how far it had come.

    Parameters
    ----------
    path, model, optimizer, selector, config, generators, scheduler, scaler, states
        As for `save_checkpoint`. Nothing is changed unless the whole checkpoint is readable and agrees.

    Returns
    -------
    Progress or None
        None if there is no checkpoint.

    Raises
    ------
    ValueError
        If the configuration differs (each differing field is named), the model, an optimiser, a scheduler
        or the scaler is another one, an entry is missing, of the wrong kind or not finite, a mass is
        negative, or neither the latest nor the previous checkpoint can be read. Everything is then as it
        was.

    Warns
    -----
    UserWarning
        If the latest checkpoint is damaged and the previous one is used; if the number of threads or a
        version differs, so that results may differ in their last bits.
    """
    path = Path(path)
    run = Run(model, optimizer, selector, generators, scheduler, scaler, states)
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
        run.require(state, _plain(config))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be resumed: {error}: {_REMEDY}") from error
    _compare_environment(file, state["environment"], environment(model))
    before = copy.deepcopy(run.state())
    try:
        run.restore(state)
    except BaseException as error:
        run.restore(before)
        if isinstance(error, ValueError):
            raise ValueError(
                f"{file} cannot be resumed: {error}; expected that of the same run: {_REMEDY}"
            ) from error
        raise
    return Progress(**state["progress"])


def _unreadable(state: dict[str, Any]) -> str:
    """Return the name of what could not be read back."""
    for name, part in state.get("parts", {}).items():
        try:
            _packed(part)
        except ValueError:
            return str(name)
    return "progress.history"


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


def _packed(state: Any) -> bytes:
    """Return a state as what a file holds, if it can be read back."""
    content = io.BytesIO()
    try:
        torch.save(state, content)
        _unpickled(content.getvalue())
    except MemoryError:
        raise
    except Exception as error:  # an unknown object fails in a way of its own
        raise ValueError(
            "something could not be read back; expected tensors, numbers, strings, lists and dicts"
        ) from error
    return content.getvalue()


def _write(path: Path, payload: bytes) -> None:
    """Write a checkpoint atomically; the one before stays beside it, unless it is damaged."""
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


def _compare_environment(file: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    differing = [f"{k} {saved.get(k)} there, {v} here" for k, v in current.items() if saved.get(k) != v]
    if differing:
        warnings.warn(
            f"{file} was saved under other conditions ({'; '.join(differing)}): results may differ in "
            "their last bits.",
            stacklevel=3,
        )
