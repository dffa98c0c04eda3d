"""diffrax: explicit pairs, and Kvaerno's implicit method with dense algebra and with GMRES."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import fields
from benchmarks.fields import Form
from benchmarks.libraries import installed, library
from benchmarks.methods import Method, Solve, absolute, always, masses_or_logs, small
from benchmarks.problems import Flow
from evodyn.core.arrays import FloatArray

__all__ = ["methods", "vectorised"]


def _jax() -> tuple[Any, Any]:
    """Return jax and its arrays, in double precision."""
    import importlib

    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    return jax, importlib.import_module("jax.numpy")


def _stepper(name: str) -> Any:
    """Return a method of diffrax by its name here."""
    diffrax = library("diffrax")
    if name != "Kvaerno5, GMRES":
        return getattr(diffrax, name)()
    import importlib

    lineax = importlib.import_module("lineax")
    krylov = lineax.GMRES(rtol=1e-3, atol=1e-6)
    finder = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)(linear_solver=krylov)
    return diffrax.Kvaerno5(root_finder=finder)


def _problem(flow: Flow, form: Form, name: str) -> Any:
    """Return a function of (y0, rtol, atol, contributions) to compile."""
    diffrax, (_, jnp) = library("diffrax"), _jax()
    import dataclasses

    stepper, times = _stepper(name), jnp.asarray(flow.times)
    steps = int(np.clip(4e9 / (20 * flow.n), 4096, 200_000))
    first = 0.01 if name in ("Tsit5", "Dopri8") else None

    def right_hand_side(t: Any, y: Any, contributions: Any) -> Any:
        own = dataclasses.replace(flow, contribution=contributions)
        return fields.field(own, form, jnp, jnp.asarray)(t, y)

    def solution(y0: Any, rtol: Any, atol: Any, contributions: Any) -> Any:
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(right_hand_side),
            stepper,
            0.0,
            flow.end,
            first,
            y0,
            args=contributions,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol, atol),
            max_steps=steps,
            throw=False,
        )
        return found.ys, found.result == diffrax.RESULTS.successful

    return solution


def methods() -> Iterator[Method]:
    """Yield all methods, the explicit ones first."""
    if not installed("diffrax"):
        return
    for form in ("log", "mass"):
        for name in ("Tsit5", "Dopri8", "Kvaerno5, GMRES", "Kvaerno5"):

            def start(flow: Flow, form: Any = form, name: str = name) -> Solve:
                jax, jnp = _jax()
                run = jax.jit(_problem(flow, form, name))
                y0, c = jnp.asarray(fields.start(flow, form)), jnp.asarray(flow.contribution)

                def solve(rtol: float, atol: float) -> FloatArray:
                    values, fine = run(y0, rtol, atol, c)
                    if not fine:
                        raise RuntimeError("more steps than are allowed")
                    return np.asarray(values)

                return solve

            refuses = small if name == "Kvaerno5" else always
            policies = masses_or_logs(form)
            yield Method(f"diffrax {name}, {form}", "diffrax", form, start, policies, refuses, compiles=True)


def vectorised() -> Iterator[Method]:
    """Yield methods for all members of an ensemble at once."""
    if not installed("diffrax"):
        return
    for name in ("Tsit5", "Dopri8"):

        def start(flows: list[Flow], name: str = name) -> Solve:
            jax, jnp = _jax()
            first = flows[0]
            run = jax.jit(jax.vmap(_problem(first, "log", name), in_axes=(None, None, None, 0)))
            y0 = jnp.asarray(fields.start(first, "log"))
            contributions = jnp.stack([jnp.asarray(one.contribution) for one in flows])

            def solve(rtol: float, atol: float) -> FloatArray:
                values, fine = run(y0, rtol, atol, contributions)
                if not fine.all():
                    raise RuntimeError("more steps than are allowed")
                return np.asarray(values).reshape(-1, first.n)

            return solve

        yield Method(f"diffrax {name}, vmap", "diffrax", "log", start, (absolute(0.0),), compiles=True)
