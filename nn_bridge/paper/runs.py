"""Training runs: from an experiment to its masses, curves and removals, one or many, here or elsewhere.

A run writes a checkpoint after every epoch. Finished ones are kept as `evodyn.sweep` keeps its points:
under a key of the experiment, the code and the version.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import nn

from evodyn.core import validation
from evodyn.core.labels import about
from evodyn.core.processes import held
from evodyn.core.specifications import Specification
from evodyn.sweeps.cluster import checked_workers
from evodyn.sweeps.points import Point, points_of
from evodyn.sweeps.sweep import results_of
from nn_bridge.checkpoints import Progress, load_checkpoint, previous, save_checkpoint
from nn_bridge.datasets import Dataset, load_dataset
from nn_bridge.layers import population_layers, population_mlp
from nn_bridge.paper.experiment import Experiment
from nn_bridge.paper.reports import EpochReport, Receiver, postbox
from nn_bridge.removal.prune import PruneReport, prune, prune_to_sparsity
from nn_bridge.selector import Selector
from nn_bridge.training import accuracy, loader_generator, shuffled, train_epoch

__all__ = [
    "Source",
    "Training",
    "accuracy_without",
    "data_of",
    "run_all",
    "train",
    "trained_network",
]

T = TypeVar("T")


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

    Raises
    ------
    ValueError
        If there is no such device.
    """

    device: str = "cpu"
    threads: int = 1
    data_root: str | None = None
    download: bool = False

    def __post_init__(self) -> None:
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device is {self.device!r}, but no CUDA device was found; expected 'cpu'.")


@functools.lru_cache(maxsize=2)
def _data(name: str, root: str | None, standardise: bool, download: bool, device: str) -> Dataset:
    return load_dataset(name, root, standardise=standardise, download=download).to(device)


def data_of(experiment: Experiment, source: Source) -> Dataset:
    """Return the samples of an experiment, on the device."""
    whole = _data(
        experiment.dataset, source.data_root, experiment.standardise, source.download, source.device
    )
    return whole.first(experiment.train_samples, experiment.test_samples)


def train(
    experiment: Experiment,
    source: Source | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    config: dict[str, Any] | None = None,
    on_epoch: Callable[[EpochReport], object] | None = None,
    on_selector: Callable[[Selector], object] | None = None,
) -> tuple[nn.Module, xr.Dataset]:
    """Carry out an experiment and return the trained network and what came of it.

    Parameters
    ----------
    experiment : Experiment
        What to do.
    source : Source, optional
        Data and device.
    checkpoint : path, optional
        A file that is written after every epoch: a run that was killed goes on from there and ends bit for
        bit where it would have ended (with the same device and number of threads).
    config : dict, optional
        What the checkpoint says of the run, see `save_checkpoint`.
    on_epoch : callable, optional
        Called after every epoch, those read from a checkpoint included.
    on_selector : callable, optional
        Called with the selector before the first step that this call takes: to attach a `Recorder`, say.

    Returns
    -------
    torch.nn.Module
        The network.
    xarray.Dataset
        Masses of every epoch, training curves, the final histogram of the masses, and the removals of
        Table 1 (dimension `sparsity`) and Table 2 (`threshold`). Attribute ``provenance`` says in JSON how
        long it took, and where.
    """
    source = source or Source()
    if source.device == "cpu":
        torch.set_num_threads(validation.count("threads", source.threads))
    data = data_of(experiment, source)
    model, optimizer, selector, order = _start(experiment, source.device)
    saved: dict[str, Any] = {"config": config or {}, "generators": {"order": order}}

    def note(history: dict[str, Any], loss: float) -> None:
        history["loss"].append(loss)
        history["accuracy"].append(accuracy(model, data.test_images, data.test_labels))
        history["masses"].append(selector.masses.detach().cpu())

    progress = None
    if checkpoint is not None:
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
        drawn = order if experiment.shuffling == "own" else loader_generator(order)
        loss = train_epoch(
            model,
            *shuffled(data.train_images, data.train_labels, drawn),
            optimizer,
            selector,
            batch_size=experiment.batch_size,
            fresh_gradients=experiment.fresh_gradients,
        )
        history["seconds"].append(time.perf_counter() - start)
        note(history, loss)
        if checkpoint is not None:
            now = Progress(epoch, selector.steps, history)
            save_checkpoint(checkpoint, model, optimizer, selector, progress=now, **saved)
        _report(epoch, history, on_epoch)
    _end(model)
    dataset = _dataset(experiment, model, data, history)
    provenance = {
        "seconds": round(sum(history["seconds"]), 3),
        "device": torch.cuda.get_device_name() if source.device == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    return model, dataset.assign_attrs(provenance=json.dumps(provenance))


def _report(epoch: int, history: dict[str, Any], on_epoch: Callable[[EpochReport], object] | None) -> None:
    if on_epoch is not None:
        masses = history["masses"][epoch]
        loss, accurate = history["loss"][epoch], history["accuracy"][epoch]
        on_epoch(EpochReport(epoch, loss, accurate, float(masses.sum()), int((masses > 0).sum())))


def _start(
    experiment: Experiment, device: str
) -> tuple[nn.Module, torch.optim.Optimizer, Selector, torch.Generator]:
    model = population_mlp(experiment.widths, seed=experiment.seed, scaled_bias=experiment.scaled_bias)
    model = model.to(device)
    trained: list[torch.Tensor] = list(model.parameters())
    if experiment.trained_masses:
        trained += [layer.masses.requires_grad_() for layer in population_layers(model)]
    optimizer = torch.optim.SGD(
        trained, lr=experiment.learning_rate, momentum=experiment.momentum, fused=True
    )
    return model, optimizer, experiment.selector(model), _order(experiment, model)


def _end(model: nn.Module) -> None:
    """Leave the masses as buffers that no optimiser moves any more."""
    for layer in population_layers(model):
        layer.masses.requires_grad_(False)


def _order(experiment: Experiment, model: nn.Module) -> torch.Generator:
    """Return the generator behind the order of the samples."""
    order = torch.Generator()
    if experiment.shuffling == "loader":
        order.manual_seed(experiment.seed)
        torch.rand(sum(w.numel() for w in model.parameters()), generator=order)  # the draws of the weights
    else:  # a stream of its own, independent of that of the weights
        order.manual_seed(int(np.random.SeedSequence(experiment.seed).spawn(1)[0].generate_state(1)[0]))
    return order


# Many runs, each done once


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Training(Specification):
    """A run as a point of a sweep.

    Parameters
    ----------
    experiment : Experiment
        What to do.
    source : Source
        Data and device.
    checkpoint : str, optional
        Its file.
    config : dict, optional
        What the checkpoint says of the run.
    report : callable, optional
        Called after every epoch.
    """

    experiment: Experiment
    source: Source
    checkpoint: str | None = None
    config: dict[str, Any] | None = None
    report: Callable[[EpochReport], object] | None = None

    def __repr__(self) -> str:
        return repr(self.experiment)


def training_run(point: Training) -> xr.Dataset:
    """Carry out a run, or what is left of it (task of a sweep)."""
    _, dataset = train(
        point.experiment,
        point.source,
        checkpoint=point.checkpoint,
        config=point.config,
        on_epoch=point.report,
    )
    if point.checkpoint is not None:
        previous(point.checkpoint).unlink(missing_ok=True)
    return dataset


def run_all(
    experiments: Sequence[Experiment],
    directory: str | os.PathLike[str],
    source: Source | None = None,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    fresh: bool = False,
    on_epoch: Receiver | None = None,
) -> list[xr.Dataset]:
    """Carry out experiments, several at a time, and return what came of each, from file if done before.

    Parameters
    ----------
    experiments : sequence of Experiment
        What to do.
    directory : path
        Where results and checkpoints go, as those of `evodyn.sweep`: files of another configuration, code or
        version are never used, and never deleted.
    source : Source, optional
        Data and device.
    workers : int, optional
        Number of processes (1: this one). On a GPU several of them share it.
    scheduler : str, optional
        Address of a running Dask scheduler ("tcp://host:8786"), used instead of local processes. Its
        workers need the same version of this package, and to see `directory`, where their checkpoints go,
        under the same path. Code and results travel as pickles: connect only to one that you trust.
    fresh : bool, optional
        Start from nothing, whatever is on file.
    on_epoch : callable, optional
        ``on_epoch(index, report)``, called in this process after every epoch of any of them, those read from
        a checkpoint included; not for what runs on a cluster.

    Returns
    -------
    list of xarray.Dataset
        As `train` returns them, in the order of the experiments. They do not depend on `workers`. Attribute
        ``sweep`` says in JSON what each was computed from.

    Raises
    ------
    ValueError
        If `workers` is not a positive whole number, or is given together with a scheduler.
    FolderInUseError
        If `directory` is used by another call.
    OSError
        If `directory` cannot be written to, or the scheduler cannot be reached or has no workers.
    SweepError
        If runs failed; all others are done before it is raised.
    """
    source = source or Source()
    workers = checked_workers(workers, scheduler)
    points = _points(experiments, source)
    with held(directory) as folder, postbox(on_epoch, workers > 1) as post:
        given = {}
        for index, (experiment, point) in enumerate(zip(experiments, points, strict=True)):
            file = _checkpoint(folder.resolve(), point)
            if fresh:
                for checkpoint in (file, previous(file)):
                    checkpoint.unlink(missing_ok=True)
            report = None if post is None or scheduler is not None else functools.partial(post, index)
            value = Training(experiment, source, str(file), json.loads(point.identity), report)
            given[point.key] = dataclasses.replace(point, value=value)
        found = results_of(training_run, given, folder, workers, scheduler, fresh)
    return [found[point.key] for point in points]


def trained_network(
    experiment: Experiment, directory: str | os.PathLike[str], source: Source | None = None
) -> nn.Module:
    """Return the trained network of a run that `run_all` finished, on the CPU, from its last checkpoint.

    Raises
    ------
    ValueError
        If there is no checkpoint of a finished run.
    """
    (point,) = _points([experiment], source or Source())
    checkpoint = _checkpoint(Path(directory), point)
    model, optimizer, selector, order = _start(experiment, "cpu")
    with warnings.catch_warnings():  # other threads or another device matter where training goes on
        warnings.filterwarnings("ignore", ".* was saved under other conditions", UserWarning)
        config, generators = json.loads(point.identity), {"order": order}
        progress = load_checkpoint(
            checkpoint, model, optimizer, selector, config=config, generators=generators
        )
    if progress is None or progress.epoch < experiment.epochs:
        raise ValueError(f"{checkpoint} is no checkpoint of a finished run; expected one: run it first.")
    _end(model)
    return model


def _points(experiments: Sequence[Experiment], source: Source) -> list[Point]:
    """Return the runs as points of a sweep; where the data come from is no part of what they are."""
    plain = Source(source.device, source.threads)
    return points_of(training_run, [Training(experiment, plain) for experiment in experiments])


def _checkpoint(folder: Path, point: Point) -> Path:
    return folder / f"{point.key}.pt"


# What came of a run


def accuracy_without(model: nn.Module, data: Dataset, remove: Callable[[], T]) -> tuple[T, float]:
    """Return what a removal returned, and the test accuracy after it; the masses are put back."""
    layers = population_layers(model)
    kept = [layer.masses.clone() for layer in layers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* back by mutation", UserWarning)
        report = remove()
    accurate = accuracy(model, data.test_images, data.test_labels)
    for layer, masses in zip(layers, kept, strict=True):
        layer.masses.copy_(masses)
    return report, accurate


def _removals(
    experiment: Experiment, model: nn.Module, data: Dataset
) -> dict[str, list[tuple[float, float, float]]]:
    """Return (ε, fraction removed, accuracy) for every removal."""

    def measured(remove: Callable[[], PruneReport]) -> tuple[float, float, float]:
        report, accurate = accuracy_without(model, data, remove)
        return report.epsilon, report.sparsity, accurate

    # The paper removes whatever is below the threshold, a whole layer if need be.
    smallest = functools.partial(prune_to_sparsity, model, scope=experiment.pruning, allow_empty=True)
    below = functools.partial(prune, model, allow_empty=True)
    return {
        "sparsity": [measured(functools.partial(smallest, q)) for q in experiment.sparsities],
        "threshold": [measured(functools.partial(below, e)) for e in experiment.thresholds],
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
