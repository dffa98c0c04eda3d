"""Checkpoints of runs that have schedulers, a scaler, several optimisers, and parts of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import evodyn as ed
import nn_bridge as nb
from tests.nn.test_training import put, rewritten

pytestmark = pytest.mark.nn


class Average:
    """A user's own: a running mean of the masses, in whatever form."""

    def __init__(self) -> None:
        self.mean: list[float] = []
        self.stubborn = False

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = list(state["mean"])
        if self.stubborn and self.mean:
            raise LookupError("never")

    def update(self, masses: torch.Tensor) -> None:
        before = self.mean or [1.0] * len(masses)
        self.mean = [0.5 * (old + new) for old, new in zip(before, masses.tolist(), strict=True)]


def _plain(state: Any) -> Any:
    """Return a state with the bytes of its tensors in their places."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_plain(value) for value in state]
    return state.numpy().tobytes() if torch.is_tensor(state) else state


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
    "warm-up, then cosine": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.CosineAnnealingLR(o, 5)], milestones=[3]
    ),
    "steps": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


class Training:
    """A small run with everything."""

    def __init__(self, *, scheduler: str = "one cycle", seed: int = 0) -> None:
        self.model: Any = nb.population_mlp((6, 5, 4, 3), seed=seed)
        first, *others = self.model.parameters()
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.SGD([first], lr=0.1, momentum=0.9),
            torch.optim.Adam(others, lr=0.01),
        ]
        self.schedulers = [
            SCHEDULERS[scheduler](self.optimizers[0]),
            lr_scheduler.StepLR(self.optimizers[1], 2),
        ]
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        self.average = Average()
        self.selector = nb.Selector(
            self.model,
            ed.SelectionMutation(0.01, target=1.0),
            nb.Benefit(smoothing=0.5),
            5.0,
            scheme="exponential",
            extinction=ed.Extinction(0.95, "absorb"),
        )

    def steps(self, first: int, last: int) -> None:
        for k in range(first, last):
            draw = torch.Generator().manual_seed(k)
            x, y = torch.randn(8, 6, generator=draw), torch.randint(0, 3, (8,), generator=draw)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(x), y)
            self.scaler.scale(loss).backward()
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
            self.selector.step(self.scaler.get_scale())
            self.scaler.update()
            for scheduler in self.schedulers:
                value = (
                    [float(loss.detach())] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []
                )
                scheduler.step(*value)
            self.average.update(self.selector.masses)

    def slots(self) -> dict[str, Any]:
        states = {"average": self.average}
        return {"scheduler": self.schedulers, "scaler": self.scaler, "states": states}

    def save(self, path: Path) -> None:
        run = (self.model, self.optimizers, self.selector)
        nb.save_checkpoint(path, *run, progress=nb.Progress(1, 4), config={}, **self.slots())

    def load(self, path: Path, **changed: Any) -> nb.Progress | None:
        run = (self.model, changed.pop("optimizer", self.optimizers), self.selector)
        return nb.load_checkpoint(path, *run, config={}, **(self.slots() | changed))

    def everything(self) -> str:
        parts: list[Any] = [self.model, self.selector, self.scaler, self.average]
        return repr([_plain(part.state_dict()) for part in parts + self.optimizers + self.schedulers])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_resumed_run_with_everything_is_the_uninterrupted_one(tmp_path: Path, scheduler: str) -> None:
    whole, parts = Training(scheduler=scheduler), Training(scheduler=scheduler)
    whole.steps(0, 9)
    parts.steps(0, 4)
    parts.save(tmp_path / "run.pt")
    again = Training(scheduler=scheduler, seed=1)
    assert again.load(tmp_path / "run.pt") == nb.Progress(1, 4)
    again.steps(4, 9)
    assert again.everything() == whole.everything()
    assert bool((whole.selector.masses == 0).any()) and float(whole.scaler.get_scale()) > 2.0**10


def test_states_that_do_not_fit_are_refused_by_name_and_nothing_is_changed(tmp_path: Path) -> None:
    path, training = tmp_path / "run.pt", Training()
    training.steps(0, 4)
    training.save(path)
    other = Training(seed=1)
    other.steps(0, 2)
    before, (sgd, adam) = other.everything(), other.optimizers
    cases: dict[str, Any] = {
        "saved with .*scheduler.0., scheduler.1.*expected scaler, states": {"scheduler": None},
        "beside model and optimiser; expected scaler, scheduler, states": {"scheduler": other.schedulers[0]},
        r"saved with scaler, .*expected scheduler\[0\]": {"scaler": None},
        "expected scaler, scheduler.0., scheduler.1., states..ema": {"states": {"ema": Average()}},
        r"a OneCycleLR as scheduler\[0\]; expected StepLR": {"scheduler": other.schedulers[::-1]},
        r"a StepLR as scheduler\[1\]; expected ExponentialLR": {
            "scheduler": [other.schedulers[0], lr_scheduler.ExponentialLR(Training().optimizers[1], 0.9)]
        },
        r"the optimiser \['SGD', 'Adam'\]; expected SGD": {"optimizer": sgd},
        r"\['SGD', 'Adam'\]; expected \['Adam', 'SGD'\]": {"optimizer": [adam, sgd]},
        r"\['SGD', 'Adam'\]; expected \['SGD'\]": {"optimizer": [sgd]},
        "it lacks nothing|scaler lacks|scaler holds": {"scaler": torch.amp.GradScaler("cpu", enabled=False)},
    }
    for message, changed in cases.items():
        with pytest.raises(ValueError, match=message):
            other.load(path, **changed)
        assert other.everything() == before
    other.average.stubborn = True
    with pytest.raises(ValueError, match=r"the states\['average'\] refuses its state .never"):
        other.load(path)
    other.average.stubborn = False
    assert other.everything() == before


PART = ("parts", "scheduler[0]", "state")
CRAFTED = {
    "parts a list": (put("parts", []), "saved with nothing"),
    "a rate a word": (put(*PART, "base_lrs", ["fast"]), r"\['base_lrs'\]\[0\] is 'fast'"),
    "a rate NaN": (put(*PART, "_last_lr", [math.nan]), r"\['_last_lr'\]\[0\] is NaN"),
    "too many rates": (put(*PART, "base_lrs", [0.1, 0.2]), r"base_lrs.* expected 1 entries"),
    "a scheduler's state a number": (put(*PART, 3), r"scheduler\[0\] is 3"),
    "no scale": (put("parts", "scaler", "state", {}), "scaler lacks .*scale"),
    "the scale a word": (put("parts", "scaler", "state", "scale", "big"), r"scaler\['scale'\] is 'big'"),
    "an optimiser's momentum NaN": (
        put("optimizer", 0, "state", 0, "momentum_buffer", torch.full((5, 6), math.nan)),
        r"optimizer\[0\]\['state'\]\[0\]\['momentum_buffer'\] is not finite",
    ),
    "one optimiser's state": (put("optimizer", [1]), "no states of 2 optimisers"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_states_are_refused_by_name(tmp_path: Path, case: str) -> None:
    path, training = tmp_path / "run.pt", Training()
    training.steps(0, 2)
    training.save(path)
    change, message = CRAFTED[case]
    rewritten(path, change)
    other = Training(seed=1)
    before = other.everything()
    with pytest.raises(ValueError, match=message):
        other.load(path)
    assert other.everything() == before


def test_what_could_not_go_on_is_not_saved(tmp_path: Path) -> None:
    training = Training()
    training.average.mean = [object()]  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"states\['average'\] holds something that could not be read back"):
        training.save(tmp_path / "run.pt")
    training.average.mean = []
    training.schedulers[0].base_lrs = [math.nan]
    with pytest.raises(ValueError, match=r"scheduler\[0\]\['base_lrs'\]\[0\] is NaN.*nothing was saved"):
        training.save(tmp_path / "run.pt")
    assert not (tmp_path / "run.pt").exists()
    run = (training.model, training.optimizers[0])
    with pytest.raises(ValueError, match=r"states\['x'\] is 3; expected an object with"):
        nb.save_checkpoint(tmp_path / "run.pt", *run, progress=nb.Progress(), config={}, states={"x": 3})


class Wrapped(nn.Module):
    """As DistributedDataParallel and torch.compile wrap a network."""

    def __init__(self, attribute: str) -> None:
        super().__init__()
        self.add_module(attribute, Training().model)


@pytest.mark.parametrize("attribute", ["module", "_orig_mod"])
@pytest.mark.parametrize("saved_wrapped", [True, False])
def test_a_wrapped_network_is_named_by_what_it_wraps(
    tmp_path: Path, attribute: str, saved_wrapped: bool
) -> None:
    models: list[Any] = [Wrapped(attribute), Training().model]
    saved, given = models if saved_wrapped else models[::-1]
    path, rate = tmp_path / "run.pt", 0.1
    optimizer = torch.optim.SGD(saved.parameters(), rate)
    nb.save_checkpoint(path, saved, optimizer, progress=nb.Progress(), config={})
    with pytest.raises(ValueError, match=rf"save and load model\.{attribute}, the network itself"):
        nb.load_checkpoint(path, given, torch.optim.SGD(given.parameters(), rate), config={})
