"""Many experiments at once: in this process, in several, or on the workers of a Dask cluster."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import xarray as xr

from evodyn.core import validation
from evodyn.core.extras import extra
from evodyn.core.processes import end_with, held
from evodyn.sweeps.cluster import cluster
from nn_bridge.paper.experiment import EpochReport, Experiment, Source, run

__all__ = ["run_all"]

Reported = Callable[[int, EpochReport], None]


def run_all(
    experiments: Sequence[Experiment],
    directory: str | os.PathLike[str],
    source: Source | None = None,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    fresh: bool = False,
    on_epoch: Reported | None = None,
) -> Iterator[tuple[int, xr.Dataset]]:
    """Carry out experiments, several at a time, and yield (index, result) as they finish.

    Parameters
    ----------
    experiments : sequence of Experiment
        What to do.
    directory, source, fresh
        As for `nn_bridge.paper.experiment.run`.
    workers : int, optional
        Number of processes (1: this one). On a GPU several of them share it.
    scheduler : str, optional
        Address of a running Dask scheduler ("tcp://host:8786"), used instead of local processes. Its
        workers need the same version of this package, and to see `directory`, where their checkpoints go,
        under the same path. Code and results travel as pickles: connect only to one that you trust.
    on_epoch : callable, optional
        ``on_epoch(index, report)``, called in this process after every epoch of any of them; not for what
        runs on a cluster.

    Yields
    ------
    tuple of int and xarray.Dataset
        Index of an experiment and its result. The results do not depend on `workers`.

    Raises
    ------
    ValueError
        If `workers` is not a positive whole number, or is given together with a scheduler.
    FolderInUseError
        If `directory` is used by another call.
    OSError
        If `directory` cannot be written to, or the scheduler cannot be reached or has no workers.
    """
    source = source or Source()
    workers = validation.count("workers", workers)
    if scheduler is not None and workers > 1:
        raise ValueError(
            f"workers is {workers} and scheduler {scheduler!r}; expected one of them: "
            "a cluster has its own number of workers."
        )
    with held(directory) as folder:
        if scheduler is not None:
            yield from _on_cluster(experiments, folder.resolve(), source, scheduler, fresh)
        elif workers > 1:
            yield from _in_processes(experiments, folder, source, workers, fresh, on_epoch)
        else:
            for index, experiment in enumerate(experiments):
                reported = None if on_epoch is None else functools.partial(on_epoch, index)
                yield index, run(experiment, folder, source, fresh=fresh, on_epoch=reported)


def _on_cluster(
    experiments: Sequence[Experiment], directory: Path, source: Source, scheduler: str, fresh: bool
) -> Iterator[tuple[int, xr.Dataset]]:
    with extra("studies", user="run_all with a scheduler"):
        import distributed

    with cluster(scheduler) as client:
        waiting = {
            client.submit(run, experiment, directory, source, fresh=fresh, pure=False): index
            for index, experiment in enumerate(experiments)
        }
        for future in distributed.as_completed(waiting, loop=client.loop):
            yield waiting[future], future.result()


def _in_processes(
    experiments: Sequence[Experiment],
    directory: str | os.PathLike[str],
    source: Source,
    workers: int,
    fresh: bool,
    on_epoch: Reported | None,
) -> Iterator[tuple[int, xr.Dataset]]:
    context = multiprocessing.get_context("spawn")  # CUDA and threads survive no fork
    reports: Any = context.Queue()
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin_worker, initargs=(os.getpid(), reports)
    )
    with pool:
        waiting = {
            pool.submit(_in_worker, experiment, directory, source, fresh, index): index
            for index, experiment in enumerate(experiments)
        }
        listener = threading.Thread(target=_listen, args=(reports, on_epoch), daemon=True)
        listener.start()
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            # An interruption, or a caller that wants no more: checkpoints keep what the workers did so far.
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise
        finally:
            for future in waiting:
                future.cancel()
            reports.put(None)
            listener.join()


def _in_worker(
    experiment: Experiment,
    directory: str | os.PathLike[str],
    source: Source,
    fresh: bool,
    index: int,
) -> xr.Dataset:
    return run(
        experiment,
        directory,
        source,
        fresh=fresh,
        on_epoch=lambda report: _worker_reports.put((index, report)),
    )


def _listen(reports: Any, on_epoch: Reported | None) -> None:
    while (item := reports.get()) is not None:
        if on_epoch is not None:
            on_epoch(*item)


_worker_reports: Any = None
"""In a worker: where its reports go."""


def _begin_worker(parent: int, reports: Any) -> None:
    """Connect this worker, and end it when the process that started it is gone, however it went."""
    global _worker_reports
    _worker_reports = reports
    end_with(parent)
