"""A network that finds its size while it trains: weights and masses co-evolve, and who dies is removed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

import evodyn as ed
from evodyn.core import validation
from evodyn.core.specifications import Specification
from nn_bridge.layers import population_layers
from nn_bridge.modes import evaluation_mode
from nn_bridge.prices import Priced, Triangle, group_sizes
from nn_bridge.removal.compact import compact
from nn_bridge.removal.cost import cost
from nn_bridge.selector import Selector
from nn_bridge.shedding.course import Course, Lessons
from nn_bridge.shedding.price import AdaptivePrice
from nn_bridge.shedding.shed import check, fold, remember, restore, shed
from nn_bridge.signals import Benefit, Signal

__all__ = ["Recipe", "Trained"]

LEAST = 2  # groups that are left in a layer at any price: one alone cannot be removed


def _fitness(masses: Any, fitness: Any) -> Any:
    return fitness


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `Recipe.train` returns.

    Parameters
    ----------
    model : torch.nn.Module
        The small network, of plain modules.
    before : torch.nn.Module
        The network as it was given, with the weights of the small one, and the mass 0 for every group that
        died.
    living : tuple of int
        Groups that are left in each layer.
    fraction_removed : float
        Of what the recipe counts: groups, parameters or multiply-accumulates.
    history : list of dict
        For every epoch: loss, living, price (in units of fitness, at its end).
    """

    model: nn.Module
    before: nn.Module
    living: tuple[int, ...]
    fraction_removed: float
    history: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Recipe(Specification):
    """Training in which groups pay for their mass, and those that are not worth it die.

    The masses follow ṗ_i = p_i (φ_i - c k_i) (Eq. 5), φ_i = -∂L/∂p_i the marginal benefit of a group's mass
    (`Benefit`), k_i its cost and c a price; with weight decay on the weights on both sides of a neuron. A
    group whose mass falls below a threshold is at 0 for good, and is removed. At the end of selection the
    masses of those that are left become weights, and training goes on.

    Parameters
    ----------
    remove : float, optional
        Fraction to be removed, in [0, 1): the price rises until it is. None: the price rises and falls as a
        triangle, and what lives then is what is left.
    of : {"groups", "parameters", "macs"}
        What is counted and paid for.
    course : Course
        The training of the weights.
    step_size : float
        η_p, in units of 1/fitness per step.
    price : float
        The peak of the triangle, in units of fitness, where `remove` is None.
    price_rate : float
        κ of the price that follows what lives, dc/dt = κ ln(A/K), in units of fitness per epoch.
    price_limit : float
        The highest such price, in units of fitness.
    start, stop : float
        Epochs in which there is selection, at most: if more than asked for live at `stop`, those of the
        smallest masses die then.
    signal : Signal
        What fitness is made of.
    dynamics : evodyn.Dynamics
        Of the masses of each layer: growth by fitness less price itself (Eq. 5), or by comparison with the
        mean of the layer (`evodyn.Replicator`), say.
    threshold : float
        The mass below which a group is extinct; all begin at 1.
    balanced : bool
        Whether √p of the masses left becomes part of the weights on each side, where that leaves the outputs
        as they are; otherwise p is part of the incoming weights.
    growth : float
        How many times as large steps in proportion to the weights may become when √p becomes part of them:
        1/p on average, and 1/(p q) between layers with masses p and q. Where it would be more, the rate of
        the rest of the training is lower.

    Raises
    ------
    ValueError
        If a number is out of its range, if `train` is asked to leave fewer than two groups in a layer, or if
        it gets a network with groups that cannot be removed while it trains (residual blocks, say).

    Notes
    -----
    Two groups of every layer live whatever is asked for. Where parameters or multiply-accumulates cannot fall
    as far as asked for, as many die as can: ``fraction_removed`` says how far they fell.

    Examples
    --------
    >>> import nn_bridge as nb
    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(256, 8, generator=draw)
    >>> y = (x[:, 0] * x[:, 1] > 0).long()
    >>> recipe = Recipe(remove=0.75, course=Course(batch_size=32, warm_up=8))
    >>> trained = recipe.train(nb.population_mlp((8, 64, 2)), x, y)
    >>> trained.living, nb.accuracy(trained.model, x, y) > 0.9
    ((16,), True)
    """

    remove: float | None = None
    _: dataclasses.KW_ONLY
    of: Literal["groups", "parameters", "macs"] = "groups"
    course: Course = Course()  # noqa: RUF009
    step_size: float = 3.0
    price: float = 2.4e-3
    price_rate: float = 1.5e-3
    price_limit: float = 2e-2
    start: float = 1.0
    stop: float = 8.0
    signal: Signal = Benefit(smoothing=0.9)  # noqa: RUF009
    dynamics: ed.Dynamics = ed.Selection(_fitness)  # noqa: RUF009
    threshold: float = 0.1
    balanced: bool = True
    growth: float = 4.0

    def __post_init__(self) -> None:
        if self.remove is not None and not 0 <= validation.finite("remove", self.remove) < 1:
            raise ValueError(f"remove is {self.remove!r}; expected a fraction in [0, 1), or None.")
        validation.choice("of", self.of, ("groups", "parameters", "macs"))
        for name in ("step_size", "price", "price_rate", "price_limit", "threshold", "growth"):
            self._set(**{name: validation.positive(name, getattr(self, name))})
        start, stop = (validation.non_negative(name, getattr(self, name)) for name in ("start", "stop"))
        if stop <= start:
            raise ValueError(f"stop is {stop!r}; expected an epoch after start, {start!r}.")
        self._set(start=start, stop=stop)
        for name, kind in (("course", Course), ("signal", Signal), ("dynamics", ed.Dynamics)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; expected an instance of {kind.__name__}."
                )

    def train(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        seed: int = 0,
        progress: Callable[[int, dict[str, Any]], object] | None = None,
    ) -> Trained:
        """Train a network with masses, which is left as it is.

        Parameters
        ----------
        model : torch.nn.Module
            From `population_mlp` or `populate`.
        images, labels : Tensor
            The samples, see `train_epoch`.
        seed : int, optional
            Of their order.
        progress : callable, optional
            ``progress(epoch, row)`` after every epoch, with its row of the history.

        Returns
        -------
        Trained
            The small network, and what became of the large one.
        """
        before = copy.deepcopy(model)
        lessons = Lessons(self.course, model := copy.deepcopy(model), images, labels, seed=seed)
        remember(lessons.optimizer)
        shedding = _Shedding(self, model, lessons, images[:2])
        history = []
        for epoch in range(self.course.epochs):
            loss = 0.0
            for share, samples in lessons.epoch():
                loss += share * lessons.part(shedding.model, samples, shedding.selector)
                shedding.go_on()
            row = {"loss": loss, "living": shedding.living, "price": shedding.price}
            history.append(row)
            if progress is not None:
                progress(epoch, row)
        shedding.finish()
        restore(before, shedding.model, lessons.optimizer, shedding.alive)
        return Trained(shedding.model, before, shedding.living, shedding.fraction_removed, history)


class _Shedding:
    """Selection under way: the network as it is at the moment, its selector and its price."""

    def __init__(self, recipe: Recipe, model: nn.Module, lessons: Lessons, example: torch.Tensor) -> None:
        check(model, example)
        self.recipe, self.model, self.lessons, self.example = recipe, model, lessons, example
        self.alive = [torch.arange(len(layer.masses)) for layer in population_layers(model)]
        self.over = False
        self.selector: Any = None
        self.total = self.amount = self._measured()
        room = (1 - (recipe.remove or 0.0)) * self.total
        self.capacity = float(round(room)) if recipe.of == "groups" else room
        if recipe.of == "groups" and self.capacity < (least := LEAST * len(self.alive)):
            raise ValueError(
                f"remove is {recipe.remove!r}, which leaves {self.capacity:g} of {self.total:g} groups; "
                f"expected at least {least}, since {LEAST} stay in every layer."
            )
        self._unit = float(self._sizes().mean())
        self._market = AdaptivePrice(self.capacity, recipe.price_rate, recipe.price_limit)
        self._triangle = Triangle(recipe.price, recipe.start, recipe.stop)
        self.go_on()

    @property
    def living(self) -> tuple[int, ...]:
        """Groups that are left in each layer, but for deaths since the last shedding."""
        return tuple(map(len, self.alive))

    @property
    def fraction_removed(self) -> float:
        """Of what is counted."""
        return 1 - self.amount / self.total

    @property
    def price(self) -> float:
        """What a group of mean size pays, in units of fitness."""
        if self.over or self.selector is None:
            return 0.0
        return self._market.value if self._adapts else self._triangle(self.lessons.epochs)

    @property
    def _adapts(self) -> bool:
        return self.recipe.remove is not None

    def go_on(self) -> None:
        """Begin selection, remove who died, or end selection, as it is time to."""
        ending = self.lessons.epochs >= min(self.recipe.stop, self.recipe.course.epochs)
        if self.over:
            return
        if self.selector is None:
            if self.lessons.epochs >= self.recipe.start:
                self._select()
            return
        self._shed()
        while ending and self._adapts and self.amount > self.capacity and self._cut():
            self._shed()
        if ending or (self._adapts and self.amount <= self.capacity):
            self.finish()

    def finish(self) -> None:
        """End selection: masses become weights."""
        if self.over:
            return
        self.over, self.selector = True, None
        if self.recipe.balanced:
            self.lessons.slow(min(1.0, self.recipe.growth * fold(self.model)))
        with evaluation_mode(self.model):
            self.model = compact(self.model, self.example, self.lessons.optimizer)
        self.model.train()

    def _select(self, state: dict[str, Any] | None = None) -> None:
        """Make the selector of the network as it is now."""
        self._size = self._sizes().to(population_layers(self.model)[0].masses.device)
        self.selector = Selector(
            self.model,
            self.recipe.dynamics,
            self.recipe.signal,
            self.recipe.step_size,
            landscape=Priced(lambda time: self.price, self._size.cpu() / self._unit),
            scope="layer",
            scheme="exponential",
            extinction=ed.Extinction(self.recipe.threshold, "absorb"),
        )
        if state is not None:
            self.selector.load_state_dict(state)
        self.selector.listen(self._stepped)

    def _sizes(self) -> torch.Tensor:
        """Return how much of what is counted goes with each group."""
        if self.recipe.of == "groups":
            return torch.ones(sum(self.living), dtype=torch.float64)
        with evaluation_mode(self.model):
            return group_sizes(self.model, self.example, self.recipe.of)

    def _measured(self) -> float:
        """Return how much there is of what is counted, exactly."""
        if self.recipe.of == "groups":
            return float(sum(self.living))
        with evaluation_mode(self.model):
            whole = cost(compact(self.model, self.example), self.example, repeats=1)
        return float(getattr(whole, self.recipe.of))

    def _left(self, masses: torch.Tensor) -> float:
        """Return how much is left of what is counted, to first order in who died."""
        return self.amount - float(self._size[masses == 0].sum())

    def _stepped(self, contribution: torch.Tensor, before: torch.Tensor) -> None:
        """Revive who died in excess in this step, and let the price follow."""
        masses = self.selector.masses
        died = (masses == 0) & (before > 0)
        if bool(died.any()):
            self._revive(died, masses, before)
        if self._adapts:
            self._market.update(self._left(masses), 1 / self.lessons.steps_per_epoch)

    def _revive(self, died: torch.Tensor, masses: torch.Tensor, before: torch.Tensor) -> None:
        """Give the last of a layer, and the largest that there is room for, their masses back."""
        largest = before.where(died, 0.0).argsort(descending=True)[: int(died.sum())].tolist()
        layer, left = self._layers(), [int((part > 0).sum()) for part in masses.split(self.living)]
        for k in largest:
            if left[layer[k]] < LEAST:
                masses[k] = before[k]
                left[layer[k]] += 1
        room = self.capacity - self._left(masses) if self._adapts else 0.0
        for k in largest:
            if self._size[k] <= room and masses[k] == 0:
                masses[k], room = before[k], room - float(self._size[k])
        self._set(masses)

    def _cut(self) -> bool:
        """Let the groups of the smallest masses die, as many as are more than asked for; tell if any did."""
        masses = self.selector.masses
        layer, left = self._layers(), list(self.living)
        amount, sizes = self._left(masses), self._size.tolist()
        for k in masses.argsort().tolist():
            if amount <= self.capacity:
                break
            if left[layer[k]] > LEAST:
                masses[k], amount = 0.0, amount - sizes[k]
                left[layer[k]] -= 1
        self._set(masses)
        return left != list(self.living)

    def _layers(self) -> list[int]:
        """Return for each group the number of its layer."""
        return [k for k, groups in enumerate(self.living) for _ in range(groups)]

    def _set(self, masses: torch.Tensor) -> None:
        for layer, part in zip(population_layers(self.model), masses.split(self.living), strict=True):
            layer.masses.copy_(part)

    def _shed(self) -> None:
        """Make the network smaller by those that died."""
        masses = self.selector.masses
        if not bool((masses == 0).any()):
            return
        state = self.selector.state_dict()
        self.model = shed(self.model, self.example, self.lessons.optimizer)
        layers = population_layers(self.model)
        # A group of mass 0 that shares its place with living ones is still there.
        left = [
            part > 0 if len(layer.masses) < len(part) else part >= 0
            for part, layer in zip(masses.split(self.living), layers, strict=True)
        ]
        for name in ("smoothed", "remembered"):
            state[name] = None if state[name] is None else state[name][torch.cat(left)]
        self.alive = [numbers[kept.cpu()] for numbers, kept in zip(self.alive, left, strict=True)]
        self.amount = self._measured()
        self._select(state)
