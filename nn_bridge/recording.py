"""From live signals back to the flow: contributions recorded at every step, replayed through `evodyn`."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

import evodyn as ed
from evodyn.core import netcdf, validation
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about
from nn_bridge.selector import Selector

__all__ = ["Record", "Recorder"]

SCHEMA = 2
"""Version of the saved records; 1 had a checksum of the variables only."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Record:
    """The contributions of a training run, and what a replay needs beside its dynamics.

    Parameters
    ----------
    contributions : array, shape (steps, groups)
        What the landscape got at every step, after the signal's options, in the dtype used. NaN for a step
        that was skipped (see `Selector`).
    initial_masses : array, shape (groups,)
        Masses before the first step.
    step_size : float
        η_p.
    first_step : int
        Number of steps that the selector had taken when the record began.

    Examples
    --------
    Replayed by the map, and by the flow with the contributions held between steps::

        landscape, start, end = record.landscape(decay=1e-3), record.times[0], record.times[-1]
        ed.iterate(
            dynamics, landscape, record.initial_masses, record.steps, record.step_size, t_start=start
        )
        ed.solve(dynamics, landscape, record.initial_masses, t_span=(start, end))
    """

    contributions: npt.NDArray[np.floating]
    initial_masses: FloatArray
    step_size: float
    first_step: int = 0

    @property
    def steps(self) -> int:
        """Number of steps recorded."""
        return int(self.contributions.shape[0])

    @property
    def times(self) -> FloatArray:
        """Times of the steps and of the end of the last one, shape (steps + 1,)."""
        # Summed as `evodyn.iterate` does from its `t_start`, so that no step falls beside its interval.
        steps = np.arange(self.steps + 1, dtype=np.float64)
        return self.first_step * self.step_size + steps * self.step_size

    def landscape(self, decay: float) -> ed.landscapes.Recorded:
        """Return the landscape c(t_k) - λ p of the record (Eq. 10), held from each step to the next.

        Raises
        ------
        ValueError
            If a step was skipped: no contributions leave every mass as it is.
        """
        skipped = np.flatnonzero(~np.isfinite(self.contributions).all(axis=1))
        if len(skipped):
            raise ValueError(
                f"step {skipped[0]} of the record was skipped, as {len(skipped)} of {self.steps} were: its "
                "signal was not finite; expected steps that were all taken: replay the parts between skipped "
                "steps by themselves."
            )
        return ed.landscapes.Recorded(self.times, self.contributions, decay)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to a NetCDF file, compressed without loss."""
        data = xr.Dataset(
            {
                "contribution": (
                    ("step", "group"),
                    self.contributions,
                    about("contribution after the signal's options", "fitness"),
                ),
                "initial_mass": (
                    ("group",),
                    self.initial_masses,
                    about("population mass before the first step"),
                ),
            },
            attrs={"schema": SCHEMA, "step_size": self.step_size, "first_step": self.first_step},
        )
        packing = {"contribution": {"zlib": True, "complevel": 4, "shuffle": True}}
        netcdf.write(data, path, encoding=packing)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Record:
        """Read a record that `save` wrote.

        Raises
        ------
        ValueError
            If the file is damaged or holds something else.

        Warns
        -----
        UserWarning
            If the file is of an older version, whose checksum leaves out step size and first step.
        """
        try:
            data, sealed = netcdf.read(path)
            schema = int(data.attrs["schema"])
            if schema == 1:
                sealed = data.attrs["digest"] == netcdf.content_digest(data)
            if not sealed:
                raise ValueError("its checksum is missing or does not match")
            record = _record_of(data, schema)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged or no record ({error}); expected a record that was saved."
            ) from error
        if schema == 1:
            warnings.warn(f"{path} {netcdf.UNSEALED}", stacklevel=2)
        return record

    def __repr__(self) -> str:
        steps, groups = self.contributions.shape
        return (
            f"Record({steps} steps of {groups} groups in {self.contributions.dtype}, η_p={self.step_size:g})"
        )


def _record_of(data: xr.Dataset, schema: int) -> Record:
    """Return the record in a dataset, every part of it checked."""
    if schema not in (1, SCHEMA):
        raise ValueError(f"it has schema {schema}, and this version reads up to {SCHEMA}")
    contributions, masses = data["contribution"].values, data["initial_mass"].values
    if contributions.ndim != 2 or contributions.dtype.kind != "f":
        raise ValueError(f"its contributions have shape {contributions.shape} of {contributions.dtype}")
    if masses.shape != contributions.shape[1:] or masses.dtype != np.float64:
        raise ValueError(f"its initial masses have shape {masses.shape} of {masses.dtype}")
    validation.finite_array("initial_mass", masses, least=0.0)
    return Record(
        contributions=contributions,
        initial_masses=masses,
        step_size=validation.positive("step_size", data.attrs["step_size"]),
        first_step=validation.count("first_step", data.attrs["first_step"], least=0),
    )


class Recorder:
    """Keeps the contributions of every step of a selector, from now on until `stop`.

    A record is of steps that follow from one another: whatever else changes masses or selector in between
    is noticed, and `record` refuses.

    The contributions stay on the model's device until `record` is asked for, so that no step waits: 4 bytes
    for each group and step, 29 MB for the paper's run.

    Parameters
    ----------
    selector : Selector
        The selector to listen to.

    Examples
    --------
    >>> import nn_bridge as nb
    >>> model = nb.population_mlp((4, 3, 2))
    >>> selector = nb.Selector(model, ed.Replicator(), nb.Contribution(), step_size=0.1)
    >>> recorder = Recorder(selector)
    >>> for _ in range(5):
    ...     model(torch.eye(4)).square().sum().backward()
    ...     selector.step()
    >>> recorder.record()
    Record(5 steps of 3 groups in float32, η_p=0.1)
    """

    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        self._first_step = selector.steps
        self._initial_masses = self._masses = selector.masses
        self._settings = self._current_settings()
        self._contributions: list[torch.Tensor] = []
        self._moved: list[torch.Tensor] = []  # whether masses changed since the step before
        self._fault = ""
        self._stop: Callable[[], None] = selector.listen(self._keep)

    def _current_settings(self) -> dict[str, Any]:
        return {name: getattr(self._selector, name) for name in ("step_size", "dynamics", "landscape")}

    def _keep(self, contribution: torch.Tensor, masses: torch.Tensor) -> None:
        self._contributions.append(contribution)
        self._moved.append((masses != self._masses).any())  # on the device, and read in `record`
        self._masses = self._selector.masses
        step, expected = len(self._contributions) - 1, self._first_step + len(self._contributions)
        now = {"steps": self._selector.steps} | self._current_settings()
        for name, before in ({"steps": expected} | self._settings).items():
            if now[name] != before and not self._fault:
                self._fault = f"{name} of the selector is {now[name]!r} after step {step}, not {before!r}"

    def stop(self) -> None:
        """Record no further step."""
        self._stop()

    def record(self) -> Record:
        """Return what was recorded so far.

        Raises
        ------
        ValueError
            If the recorded steps do not follow from one another: something else changed the masses in
            between (`prune`, a state that was loaded), or the selector's step size, dynamics or landscape
            were replaced.
        """
        fault = self._fault
        if self._moved and bool((moved := torch.stack(self._moved)).any()):
            step = int(moved.int().argmax())
            fault = f"masses were changed by something else before step {step}"
        if fault:
            raise ValueError(
                f"{fault}; expected a record in which only the selector's steps change the masses: end the "
                "record before such a change, with stop(), and begin another one after it."
            )
        groups = self._initial_masses.shape[0]
        rows = torch.stack(self._contributions) if self._contributions else torch.empty(0, groups)
        return Record(
            contributions=rows.cpu().numpy(),
            initial_masses=self._initial_masses.cpu().numpy(),
            step_size=self._settings["step_size"],
            first_step=self._first_step,
        )
