"""Networks as programs that run without their code: `torch.export` and ONNX."""

from __future__ import annotations

import importlib
import io
import os
import warnings
import zipfile
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from evodyn.core.atomic import replacing
from evodyn.core.extras import extra
from nn_bridge.modes import evaluation_mode
from nn_bridge.removal.record import called, exact

__all__ = ["export_onnx", "is_program", "program_bytes", "read_program"]


def program_bytes(model: nn.Module, example_inputs: Any) -> bytes:
    """Return a network as the content of a file of `torch.export`, for any number of samples.

    Equal networks give equal bytes: neither the example nor the lines of the code are kept.

    Raises
    ------
    ValueError
        If the network cannot be exported.
    """
    example = called(example_inputs)
    samples = next(len(leaf) for leaf in tree_leaves(example) if torch.is_tensor(leaf) and leaf.ndim)
    batch = torch.export.Dim("batch")

    def of_samples(x: Any) -> bool:
        return torch.is_tensor(x) and x.ndim > 0 and len(x) == samples

    # Two samples: a size of 1 would be 1 for ever, and the file holds any other.
    args, kwargs = tree_map(lambda x: torch.cat([x, x])[:2] if of_samples(x) else x, example)
    shapes = tree_map(lambda x: {0: batch} if of_samples(x) else None, example)
    try:
        with evaluation_mode(model), exact():
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes[0] or shapes[1])
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{type(model).__name__} cannot be exported ({reason}); "
            "expected code that torch.export can follow for any number of samples: see there, or keep the "
            "network with torch.save."
        ) from error
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    program._example_inputs = None
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def is_program(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is an archive, as `torch.export` writes them."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_program(path: str | os.PathLike[str]) -> nn.Module:
    """Return the network of a file that `program_bytes` made.

    Raises
    ------
    ValueError
        If the file is damaged, or of another kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} does not match")
        with open(path, "rb") as file:
            content = io.BytesIO(file.read())
        program: nn.Module = torch.export.load(content).module()
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({error}); expected a file that save_compact wrote."
        ) from error
    return program


def export_onnx(model: nn.Module, path: str | os.PathLike[str], example: torch.Tensor) -> None:
    """Write the network to an ONNX file with a free batch size (needs the extra "onnx").

    Parameters
    ----------
    model : torch.nn.Module
        A network, compacted or not.
    path : path
        The file; it is replaced atomically.
    example : Tensor, shape (samples, ...)
        An input, whose shape after the first axis and dtype the file keeps.

    Raises
    ------
    ImportError
        If the extra "onnx" is not installed.
    """
    with extra("onnx", user="export_onnx"):
        for library in ("onnx", "onnxscript"):
            importlib.import_module(library)
    with evaluation_mode(model), warnings.catch_warnings(), replacing(path) as temporary:
        # Of the exporter's own making, about its internals.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            os.fspath(temporary),
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
