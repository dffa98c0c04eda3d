"""The paper's experiment (section 8) and its variations: train, then remove groups and measure the accuracy.

One `Experiment` is one training run, completely specified. `run` carries it out and returns a labelled
dataset; it never does finished work again. For many of them see `nn_bridge.paper.parallel`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import nn

import evodyn as ed
from evodyn.core import netcdf, validation
from evodyn.core.labels import about
from evodyn.core.netcdf import content_digest
from evodyn.core.specifications import Specification
from evodyn.sweeps.points import configuration
from nn_bridge.checkpoints import Progress, load_checkpoint, previous, save_checkpoint
from nn_bridge.datasets import Dataset, load_dataset
from nn_bridge.layers import population_layers, population_mlp
from nn_bridge.removal.prune import prune, prune_to_sparsity
from nn_bridge.selector import Selector
from nn_bridge.signals import Contribution
from nn_bridge.training import accuracy, loader_generator, shuffled, train_epoch

__all__ = ["DYNAMICS", "EpochReport", "Experiment", "Source", "run", "trained_network"]

SCHEMA = 1
DYNAMICS = ("replicator", "normalized", "mutation")


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Experiment(Specification):
    """One training run with selection, and the removals after it. The defaults are section 8 of the paper.

    Parameters
    ----------
    dynamics : {"replicator", "normalized", "mutation"}
        Eqs. 12, 13 or 14.
    seed : int
        Of the initial weights and, independently, of the order of the samples.
    dataset : {"mnist", "fashion-mnist"}
        The data.
    standardise : bool
        Standardised pixels, or pixels in [0, 1].
    train_samples, test_samples : int, optional
        Only the first so many.
    widths : tuple of int
        Inputs, hidden layers, outputs.
    epochs, batch_size : int
        Length of the training.
    learning_rate, momentum : float
        Of the weights' SGD.
    step_size : float
        η_p of the masses.
    decay : float
        λ of Eq. 10.
    signal_clip : float, optional
        The bound of the selection signal.
    clipped : {"difference", "fitness"}
        Whether it bounds |φ - φ̄| or |φ|.
    mass_cap : float, optional
        Bound on the total mass, normalised growth only (in each layer its share by number of groups, if
        layers compete apart).
    mutation_rate : float
        μ, mutation only.
    mutation_target : "uniform_share" or float
        1/N as printed, or a mass for every group.
    per_sample, smoothing, relative, summed, memory
        Options of the signal, see `Contribution`.
    scope : {"global", "layer"}
        Which groups compete.
    fresh_gradients : bool
        Measure the fitness at the updated weights, see `train_epoch`.
    scaled_bias : bool
        Whether masses scale the biases too, see `population_mlp`.
    shuffling : {"own", "loader"}
        Where the order of the samples comes from: a generator of its own, or, as in a script with one global
        seed, the one that drew the weights before, through a shuffling `DataLoader`.
    pruning : {"global", "layer"}
        Rank all groups together, or those of each layer.
    sparsities, thresholds : tuple of float
        The removals of Tables 1 and 2.

    Raises
    ------
    ValueError
        If a value is of the wrong kind or out of its range.
    """

    dynamics: Literal["replicator", "normalized", "mutation"] = "replicator"
    seed: int = 0
    dataset: Literal["mnist", "fashion-mnist"] = "mnist"
    standardise: bool = True
    train_samples: int | None = None
    test_samples: int | None = None
    widths: tuple[int, ...] = (784, 512, 256, 10)
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    step_size: float = 5e-4
    decay: float = 1e-3
    signal_clip: float | None = 0.10
    clipped: Literal["difference", "fitness"] = "difference"
    mass_cap: float | None = 768.0
    mutation_rate: float = 2e-3
    mutation_target: Literal["uniform_share"] | float = "uniform_share"
    per_sample: bool = False
    smoothing: float = 0.0
    relative: bool | Literal["mean", "zscore", "max"] = False
    summed: bool = False
    memory: float = 0.0
    scope: Literal["global", "layer"] = "global"
    fresh_gradients: bool = False
    scaled_bias: bool = True
    shuffling: Literal["own", "loader"] = "own"
    pruning: Literal["global", "layer"] = "global"
    sparsities: tuple[float, ...] = (0.35, 0.40, 0.45, 0.50)
    thresholds: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9)

    def __post_init__(self) -> None:
        validation.choice("dynamics", self.dynamics, DYNAMICS)
        validation.choice("dataset", self.dataset, ("mnist", "fashion-mnist"))
        validation.choice("pruning", self.pruning, ("global", "layer"))
        validation.choice("scope", self.scope, ("global", "layer"))
        validation.choice("clipped", self.clipped, ("difference", "fitness"))
        validation.choice("shuffling", self.shuffling, ("own", "loader"))
        for name in ("epochs", "batch_size"):
            validation.count(name, getattr(self, name))
        validation.count("seed", self.seed, least=0)
        for name in ("train_samples", "test_samples"):
            if getattr(self, name) is not None:
                validation.count(name, getattr(self, name))
        for k, width in enumerate(self.widths):
            validation.count(f"widths[{k}]", width)
        for name, most in (("sparsities", 1.0), ("thresholds", np.inf)):
            for k, value in enumerate(getattr(self, name)):
                if validation.non_negative(f"{name}[{k}]", value) > most:
                    raise ValueError(f"{name}[{k}] is {value!r}; expected a fraction in [0, 1].")
        for name in ("learning_rate", "step_size"):
            validation.positive(name, getattr(self, name))
        validation.non_negative("momentum", self.momentum)
        validation.non_negative("decay", self.decay)
        self.signal()
        self.selection()

    def signal(self) -> Contribution:
        """Return the signal (Eq. 9)."""
        return Contribution(self.per_sample, self.smoothing, self.relative, self.summed, self.memory)

    def selection(self) -> ed.Dynamics:
        """Return the dynamics (Eqs. 12-14), for all groups that compete."""
        clip = self.signal_clip if self.clipped == "difference" else None
        if self.dynamics == "normalized":
            if self.scope == "layer" and self.mass_cap is not None:
                groups = self.widths[1:-1]
                caps = [self.mass_cap * size / sum(groups) for size in groups]
                members = tuple(ed.NormalizedGrowth(cap, clip) for cap in caps)
                return ed.Populations(members, groups)
            return ed.NormalizedGrowth(self.mass_cap, clip)
        if self.dynamics == "mutation":
            return ed.SelectionMutation(self.mutation_rate, self.mutation_target, clip)
        return ed.Replicator(clip)

    def landscape(self, contribution: torch.Tensor) -> ed.landscapes.LandscapeFunction:
        """Return the landscape (Eq. 10) of one step's contributions."""
        regularised = ed.landscapes.LinearDecay(contribution, decay=self.decay)
        clip = self.signal_clip
        if clip is None or self.clipped == "difference":
            return regularised
        return lambda time, masses: torch.clamp(regularised(time, masses), -clip, clip)

    def selector(self, model: nn.Module) -> Selector:
        """Return the selector of `model`."""
        dynamics = self.selection()
        return Selector(
            model,
            dynamics,
            self.signal(),
            self.step_size,
            landscape=self.landscape,
            scope="global" if isinstance(dynamics, ed.Populations) else self.scope,
        )


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a run finds its data and computes; of these only `device` and `threads` touch its last bits.

    Parameters
    ----------
    device : str
        "cpu" or "cuda".
    threads : int
        Threads of torch in each process, on the CPU.
    data_root : str, optional
        See `load_dataset`.
    download : bool
        Let Fashion-MNIST be downloaded.
    """

    device: str = "cpu"
    threads: int = 1
    data_root: str | None = None
    download: bool = False


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """What a run says of itself after every epoch.

    Parameters
    ----------
    epoch : int
        Epochs finished; 0 is the untrained network.
    loss : float
        Mean loss over the epoch (NaN for epoch 0).
    accuracy : float
        On the test samples.
    total_mass : float
        P.
    living : int
        Number of groups with positive mass.
    """

    epoch: int
    loss: float
    accuracy: float
    total_mass: float
    living: int


@functools.lru_cache(maxsize=2)
def _data(name: str, root: str | None, standardise: bool, download: bool, device: str) -> Dataset:
    return load_dataset(name, root, standardise=standardise, download=download).to(device)


def run(
    experiment: Experiment,
    directory: str | os.PathLike[str],
    source: Source | None = None,
    *,
    fresh: bool = False,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_selector: Callable[[Selector], object] | None = None,
) -> xr.Dataset:
    """Carry out an experiment and return what came of it, from file if it was done before.

    A checkpoint is written after every epoch; a run that was killed goes on from there and ends bit for
    bit where it would have ended (with the same device and number of threads).

    Parameters
    ----------
    experiment : Experiment
        What to do.
    directory : path
        Where results and checkpoints go, under a name that is a hash of the configuration and the version:
        files of another configuration are never used.
    source : Source, optional
        Data and device.
    fresh : bool, optional
        Start from nothing, whatever is on file.
    on_epoch : callable, optional
        Called after every epoch, those read from a checkpoint included.
    on_selector : callable, optional
        Called with the selector before the first step that this call takes: to attach a `Recorder`, say.

    Returns
    -------
    xarray.Dataset
        Masses of every epoch, training curves, the final histogram of the masses, and the removals of
        Table 1 (dimension `sparsity`) and Table 2 (`threshold`). Attribute `experiment` is the
        configuration in JSON.
    """
    source = source or Source()
    identity = _identity(experiment, source)
    result, checkpoint = _files(identity, directory)
    if fresh:
        for file in (result, checkpoint, previous(checkpoint)):
            file.unlink(missing_ok=True)
    found = _read(result, identity)
    if found is not None:
        return found
    if source.device == "cpu":
        torch.set_num_threads(validation.count("threads", source.threads))
    data = _data(
        experiment.dataset, source.data_root, experiment.standardise, source.download, source.device
    ).first(experiment.train_samples, experiment.test_samples)
    model, history = _train(experiment, data, checkpoint, json.loads(identity), on_epoch, on_selector)
    dataset = _dataset(experiment, model, data, history)
    provenance = {
        "seconds": round(sum(history["seconds"]), 3),
        "device": torch.cuda.get_device_name() if source.device == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    dataset.attrs = {
        "experiment": identity,
        "digest": content_digest(dataset),
        "provenance": json.dumps(provenance),
    }
    dataset = netcdf.write(dataset, result)
    previous(checkpoint).unlink(missing_ok=True)
    return dataset


def trained_network(
    experiment: Experiment, directory: str | os.PathLike[str], source: Source | None = None
) -> nn.Module:
    """Return the trained network of a finished `run`, on the CPU, from its last checkpoint.

    Raises
    ------
    ValueError
        If there is no checkpoint of a finished run.
    """
    identity = _identity(experiment, source or Source())
    _, checkpoint = _files(identity, directory)
    model, optimizer, selector, order = _start(experiment, "cpu")
    with warnings.catch_warnings():  # other threads or another device matter where training goes on
        warnings.filterwarnings("ignore", ".* was saved under other conditions", UserWarning)
        progress = load_checkpoint(
            checkpoint, model, optimizer, selector, config=json.loads(identity), generators={"order": order}
        )
    if progress is None or progress.epoch < experiment.epochs:
        raise ValueError(f"{checkpoint} is no checkpoint of a finished run; expected one: run it first.")
    return model


def _identity(experiment: Experiment, source: Source) -> str:
    described = configuration(experiment) | {"device": source.device, "threads": source.threads}
    return json.dumps({"schema": SCHEMA, "version": ed.__version__, **described}, sort_keys=True)


def _files(identity: str, directory: str | os.PathLike[str]) -> tuple[Path, Path]:
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return Path(directory) / f"{key}.nc", Path(directory) / f"{key}.pt"


def _read(path: Path, identity: str) -> xr.Dataset | None:
    """Return the result on file, None if there is none that is whole."""
    try:
        dataset, _ = netcdf.read(path)
        whole = dataset.attrs["digest"] == content_digest(dataset)
        return dataset if whole and dataset.attrs["experiment"] == identity else None
    except (OSError, KeyError, ValueError):  # a damaged file, or one of another kind
        return None


def _start(
    experiment: Experiment, device: str
) -> tuple[nn.Module, torch.optim.Optimizer, Selector, torch.Generator]:
    model = population_mlp(experiment.widths, seed=experiment.seed, scaled_bias=experiment.scaled_bias).to(
        device
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=experiment.learning_rate, momentum=experiment.momentum, fused=True
    )
    return model, optimizer, experiment.selector(model), _order(experiment, model)


def _order(experiment: Experiment, model: nn.Module) -> torch.Generator:
    """Return the generator behind the order of the samples."""
    order = torch.Generator()
    if experiment.shuffling == "loader":
        order.manual_seed(experiment.seed)
        torch.rand(sum(w.numel() for w in model.parameters()), generator=order)  # the draws of the weights
    else:  # a stream of its own, independent of that of the weights
        order.manual_seed(int(np.random.SeedSequence(experiment.seed).spawn(1)[0].generate_state(1)[0]))
    return order


def _train(
    experiment: Experiment,
    data: Dataset,
    checkpoint: Path,
    config: dict[str, Any],
    on_epoch: Callable[[EpochReport], None] | None,
    on_selector: Callable[[Selector], object] | None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the trained network and what was noted of its training, from the last checkpoint on."""
    device = str(data.train_images.device)
    model, optimizer, selector, order = _start(experiment, device)

    def note(history: dict[str, Any], loss: float) -> None:
        history["loss"].append(loss)
        history["accuracy"].append(accuracy(model, data.test_images, data.test_labels))
        history["masses"].append(selector.masses.cpu())

    saved = {"config": config, "generators": {"order": order}}
    progress = load_checkpoint(checkpoint, model, optimizer, selector, **saved)
    if progress is None:
        progress = Progress(history={"loss": [], "accuracy": [], "masses": [], "seconds": []})
        note(progress.history, float("nan"))
    history = progress.history
    if on_selector is not None:
        on_selector(selector)
    for epoch in range(progress.epoch + 1):
        _report(epoch, history, on_epoch)
    for epoch in range(progress.epoch + 1, experiment.epochs + 1):
        start = time.perf_counter()
        loss = train_epoch(
            model,
            *shuffled(
                data.train_images,
                data.train_labels,
                order if experiment.shuffling == "own" else loader_generator(order),
            ),
            optimizer,
            selector,
            batch_size=experiment.batch_size,
            fresh_gradients=experiment.fresh_gradients,
        )
        history["seconds"].append(time.perf_counter() - start)
        note(history, loss)
        save_checkpoint(
            checkpoint,
            model,
            optimizer,
            selector,
            progress=Progress(epoch, selector.steps, history),
            **saved,
        )
        _report(epoch, history, on_epoch)
    return model, history


def _report(epoch: int, history: dict[str, Any], on_epoch: Callable[[EpochReport], None] | None) -> None:
    if on_epoch is not None:
        masses = history["masses"][epoch]
        loss, accurate = history["loss"][epoch], history["accuracy"][epoch]
        on_epoch(EpochReport(epoch, loss, accurate, float(masses.sum()), int((masses > 0).sum())))


def _removals(
    experiment: Experiment, model: nn.Module, data: Dataset
) -> dict[str, list[tuple[float, float, float]]]:
    """Return (ε, fraction removed, accuracy) for every removal; the masses are put back after each."""
    layers = population_layers(model)
    kept = [layer.masses.clone() for layer in layers]

    def measured(report: Any) -> tuple[float, float, float]:
        accurate = accuracy(model, data.test_images, data.test_labels)
        for layer, masses in zip(layers, kept, strict=True):
            layer.masses.copy_(masses)
        return report.epsilon, report.sparsity, accurate

    # The paper removes whatever is below the threshold, a whole layer if need be.
    return {
        "sparsity": [
            measured(prune_to_sparsity(model, q, scope=experiment.pruning, allow_empty=True))
            for q in experiment.sparsities
        ],
        "threshold": [measured(prune(model, e, allow_empty=True)) for e in experiment.thresholds],
    }


def _dataset(experiment: Experiment, model: nn.Module, data: Dataset, history: dict[str, Any]) -> xr.Dataset:
    masses = torch.stack(history["masses"]).numpy()
    counts, edges = np.histogram(masses[-1], bins=64)
    layer = np.repeat(np.arange(len(experiment.widths) - 2), experiment.widths[1:-1])
    removed = _removals(experiment, model, data)
    table = {dim: np.array(rows, dtype=np.float64).reshape(-1, 3).T for dim, rows in removed.items()}

    def variable(dims: str | tuple[str, ...], values: Any, name: str, units: str = "1") -> Any:
        return dims, values, about(name, units)

    return xr.Dataset(
        {
            "mass": variable(("epoch", "group"), masses, "population mass after the epoch"),
            "loss": variable("epoch", np.array(history["loss"]), "mean training loss over the epoch"),
            "accuracy": variable("epoch", np.array(history["accuracy"]), "test accuracy after the epoch"),
            "histogram": variable("bin", counts, "number of groups by final mass"),
            "epsilon_at_sparsity": variable("sparsity", table["sparsity"][0], "quantile of the masses"),
            "accuracy_at_sparsity": variable("sparsity", table["sparsity"][2], "test accuracy after removal"),
            "removed_at_threshold": variable(
                "threshold", table["threshold"][1], "fraction of groups removed"
            ),
            "accuracy_at_threshold": variable(
                "threshold", table["threshold"][2], "test accuracy after removal"
            ),
        },
        coords={
            "epoch": variable("epoch", np.arange(len(masses)), "epochs of training"),
            "group": variable("group", np.arange(masses.shape[1]), "index of the group"),
            "layer": variable("group", layer, "index of the group's layer"),
            "bin_edge": variable("edge", edges, "edges of the histogram's bins"),
            "sparsity": variable("sparsity", np.array(experiment.sparsities), "fraction of groups to remove"),
            "threshold": variable("threshold", np.array(experiment.thresholds), "mass below which to remove"),
        },
    )
