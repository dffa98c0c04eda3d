"""The core stands alone, and whoever lacks an extra is told which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import nn_bridge as nb

pytestmark = pytest.mark.nn


def last_line(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return (result.stdout + result.stderr).strip().rpartition("\n")[2]


def test_evodyn_imports_no_torch_and_the_bridge_does() -> None:
    code = "import sys, {}; print('torch' in sys.modules)"
    assert [last_line(code.format(name)) for name in ("evodyn", "nn_bridge")] == ["False", "True"]


@pytest.mark.parametrize("name", ["nn_bridge", "nn_bridge.layers"])
def test_without_torch_the_bridge_names_the_extra(name: str) -> None:
    line = last_line(f"import sys; sys.modules['torch'] = None; import {name}")
    expected = 'nn_bridge needs torch, which is not installed: pip install "evodyn[nn]".'
    assert line == f"ImportError: {expected}"


def test_a_torch_that_is_there_but_fails_says_so_itself(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    line = last_line(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import nn_bridge")
    assert line == "ImportError: libgomp.so.1: cannot open shared object file"


MODEL = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
SAMPLES = torch.ones(2, 2)


@pytest.mark.parametrize(
    ("library", "extra", "user", "call"),
    [
        ("torchvision", "nn", "load_mnist", lambda path: nb.load_mnist(path)),
        ("torchvision", "nn", "load_fashion_mnist", lambda path: nb.load_fashion_mnist(path)),
        ("safetensors", "nn", "save_compact", lambda path: nb.save_compact(MODEL, path / "x")),
        ("safetensors", "nn", "load_compact", lambda path: nb.load_compact(path / "x")),
        ("safetensors", "nn", "cost", lambda path: nb.cost(MODEL, SAMPLES)),
        ("onnx", "onnx", "export_onnx", lambda path: nb.export_onnx(MODEL, path / "x", SAMPLES)),
        (
            "onnxscript",
            "onnx",
            "export_onnx",
            lambda path: nb.export_onnx(MODEL, path / "x", SAMPLES),
        ),
    ],
)
def test_what_is_needed_on_demand_names_its_extra(
    library: str, extra: str, user: str, call: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, library, None)
    assert callable(call)
    with pytest.raises(ImportError, match=rf'^{user} needs {library}, .*: pip install "evodyn\[{extra}\]"'):
        call(tmp_path)
    assert not list(tmp_path.iterdir())
