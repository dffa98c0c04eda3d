"""All that a training run goes on with: its states by name, checked as a whole before any is restored."""

from __future__ import annotations

import platform
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from nn_bridge import checkpoint_content
from nn_bridge.selector import Selector

__all__ = ["Optimizers", "Run", "environment"]

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
# Checkpoints of earlier releases lack the first, those of runs without schedulers and the like the second.
_OPTIONAL = frozenset({"optimizer_class", "parts"})

# In quotes, so that the documentation can be built without torch.
Optimizers: TypeAlias = "torch.optim.Optimizer | Sequence[torch.optim.Optimizer]"


class Run:
    """All that a run goes on with, by name."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        selector: Selector | None,
        generators: Mapping[str, torch.Generator] | None,
        scheduler: Any,
        scaler: Any,
        states: Mapping[str, Any] | None,
    ) -> None:
        self.model, self.selector, self.generators = model, selector, dict(generators or {})
        self.optimizers: dict[str, torch.optim.Optimizer] = _named("optimizer", optimizer)
        self.several = not isinstance(optimizer, torch.optim.Optimizer)
        self.of_known_form = _named("scheduler", scheduler) | _named("scaler", scaler)
        self.parts = self.of_known_form | {f"states[{name!r}]": own for name, own in (states or {}).items()}
        for name, part in (self.optimizers | self.parts).items():
            if not all(callable(getattr(part, method, None)) for method in ("state_dict", "load_state_dict")):
                raise ValueError(
                    f"{name} is {part!r}; expected an object with the methods state_dict and load_state_dict."
                )

    def state(self) -> dict[str, Any]:
        """Return the state of the run as it is."""
        of_optimizers = [optimizer.state_dict() for optimizer in self.optimizers.values()]
        classes = [type(optimizer).__qualname__ for optimizer in self.optimizers.values()]
        parts = {
            name: {"class": type(part).__qualname__, "state": part.state_dict()}
            for name, part in self.parts.items()
        }
        return {
            "model": self.model.state_dict(),
            "optimizer": of_optimizers if self.several else of_optimizers[0],
            "optimizer_class": classes if self.several else classes[0],
            "selector": None if self.selector is None else self.selector.state_dict(),
            "generators": {name: generator.get_state() for name, generator in self.generators.items()},
            "global_generators": _global_states(),
            **({"parts": parts} if parts else {}),
        }

    def require(self, state: Any, config: dict[str, Any]) -> None:
        """Refuse a state from which this run cannot go on, before anything is changed."""
        checkpoint_content.require_keys("it", state, _ENTRIES, optional=_OPTIONAL)
        _require_same(state["config"], config)
        checkpoint_content.require_progress(state["progress"])
        checkpoint_content.require_fit(state["model"], self.model)
        checkpoint_content.require_weights(state["model"], self.model)
        own = [type(optimizer).__qualname__ for optimizer in self.optimizers.values()]
        kinds = own if self.several else own[0]
        if (there := state.get("optimizer_class", kinds)) != kinds:
            raise ValueError(f"it holds the state of the optimiser {there}; expected {kinds}")
        for name, content in self._of_optimizers(state):
            checkpoint_content.require_optimizer(content, self.optimizers[name], name)
        if (state["selector"] is None) != (self.selector is None):
            without = "out" if self.selector else ""
            raise ValueError(f"it was saved with{without} a selector; expected the same now")
        if self.selector is not None:
            checkpoint_content.require_selector(state["selector"], self.selector.state_dict())
        self._require_parts(state.get("parts", {}))
        checkpoint_content.require_keys("generators", state["generators"], set(self.generators))
        for name, generator in self.generators.items():
            checkpoint_content.require_generator(
                f"generators[{name!r}]", state["generators"][name], generator.device
            )
        checkpoint_content.require_global_generators(state["global_generators"])
        checkpoint_content.require_keys("environment", state["environment"], set(environment(self.model)))

    def _of_optimizers(self, state: dict[str, Any]) -> list[tuple[str, Any]]:
        """Return the state of each optimiser with its name."""
        content = state["optimizer"] if self.several else [state["optimizer"]]
        if not isinstance(content, list) or len(content) != len(self.optimizers):
            raise ValueError(f"it has no states of {len(self.optimizers)} optimisers; expected one for each")
        return list(zip(self.optimizers, content, strict=True))

    def _require_parts(self, parts: Any) -> None:
        if not isinstance(parts, dict) or parts.keys() != self.parts.keys():
            there, here = ((", ".join(sorted(map(str, names))) or "nothing") for names in (parts, self.parts))
            raise ValueError(f"it was saved with {there} beside model and optimiser; expected {here}, as now")
        for name, own in self.parts.items():
            checkpoint_content.require_keys(name, parts[name], {"class", "state"})
            kind = type(own).__qualname__
            if parts[name]["class"] != kind:
                raise ValueError(f"it holds the state of a {parts[name]['class']} as {name}; expected {kind}")
            if name in self.of_known_form:
                checkpoint_content.require_like(name, parts[name]["state"], own.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a state."""
        own: list[tuple[str, Any, Any]] = [("selector", self.selector, state["selector"])]
        own += [(name, self.optimizers[name], content) for name, content in self._of_optimizers(state)]
        own += [("model", self.model, state["model"])]
        own += [(name, part, state["parts"][name]["state"]) for name, part in self.parts.items()]
        for name, part, content in own:
            try:
                if part is not None:
                    part.load_state_dict(content)
            except Exception as error:  # a user's own may refuse it in any way
                raise ValueError(f"the {name} refuses its state ({error})") from error
        for name, generator in self.generators.items():
            generator.set_state(state["generators"][name])
        _set_global_states(state["global_generators"])


def _named(name: str, one_or_several: Any) -> dict[str, Any]:
    """Return objects by name: none, one, or each of a list with its number."""
    if one_or_several is None:
        return {}
    if isinstance(one_or_several, list | tuple):
        return {f"{name}[{k}]": one for k, one in enumerate(one_or_several)}
    return {name: one_or_several}


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


def environment(model: nn.Module) -> dict[str, Any]:
    """Return the conditions under which results are the same to the last bit."""
    return {
        "threads": torch.get_num_threads(),
        "device": next((value.device.type for value in model.state_dict().values()), "cpu"),
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


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
