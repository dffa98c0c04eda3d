"""Smaller networks of every architecture as files: for this package, for torch alone, and for onnxruntime."""

from __future__ import annotations

import functools
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession  # type: ignore[attr-defined]
from torch import nn

import evodyn as ed
import nn_bridge as nb
from tests.nn.networks import NETWORKS, network

pytestmark = pytest.mark.nn


def made(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Train a network with selection, remove half of it; return it with masses, and small, in evaluation."""
    model, x = network(name)
    nb.populate(model, x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    selector = nb.Selector(model, ed.Replicator(), nb.Contribution(relative=True), 0.1, scope="layer")
    nb.train_epoch(model, x, torch.arange(len(x)) % 3, optimizer, selector, batch_size=2)
    nb.prune_to_sparsity(model, 0.5, scope="layer")
    small = nb.compact(model, x, optimizer)
    return model.eval(), small.eval(), x


small_one = functools.cache(made)


def others(x: torch.Tensor, samples: int) -> torch.Tensor:
    return torch.randn(samples, *x.shape[1:], generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_smaller_network_is_loaded_again_for_any_number_of_samples(name: str, tmp_path: Path) -> None:
    model, small, x = small_one(name)
    kind = nb.save_compact(small, tmp_path / "small", x[:1])
    assert kind == ("safetensors" if name == "mlp" else "torch.export")
    loaded = nb.load_compact(tmp_path / "small")
    for samples in (1, 5):
        z = others(x, samples)
        torch.testing.assert_close(loaded(z), model(z), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_agrees(name: str, tmp_path: Path) -> None:
    model, small, x = small_one(name)
    nb.export_onnx(small, tmp_path / "small.onnx", x[:2])
    session, z = InferenceSession(tmp_path / "small.onnx"), others(x, 3)
    (found,) = session.run(None, {"input": z.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(z).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "packed attention"])
def test_equal_networks_give_equal_bytes(name: str, tmp_path: Path) -> None:
    for k in range(2):
        _, small, x = made(name)
        nb.save_compact(small, tmp_path / f"{k}", others(x, k + 2))
    first, second = ((tmp_path / f"{k}").read_bytes() for k in range(2))
    assert first == second
    assert str(Path.cwd()).encode() not in first


class Masked(nn.Module):
    """A network of several inputs, not all of which have an axis of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, scale: torch.Tensor, shift: float = 0.0) -> Any:
        return self.last(torch.relu(self.first(x)) * scale + shift)


def test_networks_of_several_inputs(tmp_path: Path) -> None:
    model, scale = Masked(), torch.rand(2, 1, 1)
    for example in ((torch.randn(5, 4), scale, 0.5), {"x": torch.randn(1, 4), "scale": scale}):
        nb.save_compact(model, tmp_path / "file", example)
        loaded, x = nb.load_compact(tmp_path / "file"), torch.randn(3, 4)
        if isinstance(example, tuple):
            torch.testing.assert_close(loaded(x, scale, 0.5), model(x, scale, 0.5))
        else:
            torch.testing.assert_close(loaded(x=x, scale=scale), model(x, scale))


WITHOUT_US = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nn_bridge", "evodyn"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import json, pathlib
import numpy as np, torch
from torch import nn
from safetensors import safe_open

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.npz")):
    if path.with_suffix(".pt2").exists():
        model = torch.export.load(path.with_suffix(".pt2")).module()
    else:
        with safe_open(path.with_suffix(".safetensors"), "pt") as file:
            parts = json.loads(file.metadata()["architecture"])
            weights = {key: file.get_tensor(key) for key in file.keys()}
        model = nn.Sequential()
        for part in parts:
            model.add_module(part["name"], getattr(nn, part["type"])(**part["arguments"]))
        model.load_state_dict(weights)
    data = np.load(path)
    found = model(torch.from_numpy(data["x"])).detach().numpy()
    assert abs(found - data["y"]).max() < 1e-5, path
    print(path.stem)
"""


def test_the_files_are_loaded_without_this_package(tmp_path: Path) -> None:
    names = ["mlp", "resnet", "encoder", "packed attention"]
    for name in names:
        model, small, x = small_one(name)
        kind = nb.save_compact(small, tmp_path / "file", x[:2])
        (tmp_path / "file").rename(tmp_path / f"{name}.{'pt2' if kind == 'torch.export' else kind}")
        np.savez(tmp_path / f"{name}.npz", x=others(x, 3), y=model(others(x, 3)).detach())
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_US, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == sorted(names)


class Deciding(nn.Module):
    """Does one thing or another, as the data say."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x) if float(x.sum()) > 0 else x


def test_what_cannot_be_a_file_is_refused_and_an_older_file_stays(tmp_path: Path) -> None:
    path, x = tmp_path / "small", torch.randn(2, 4)
    nb.save_compact(nn.Sequential(nn.Linear(4, 2)), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"0 is a Deciding.* without example_inputs"):
        nb.save_compact(nn.Sequential(Deciding()), path)
    with pytest.raises(ValueError, match=r"Deciding cannot be exported \(.*expected code that torch\.export"):
        nb.save_compact(Deciding(), path, x)
    model = network("residual mlp")[0]
    with torch.no_grad():
        model[1].up.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"1\.up\.weight is not finite"):
        nb.save_compact(model, path, torch.randn(2, 6))
    model, x = network("residual mlp")
    with pytest.raises(ValueError, match=r"1\.up still has masses; .* call compact first"):
        nb.save_compact(nb.populate(model, x), path, x)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["small"]


def test_a_damaged_program_is_refused(tmp_path: Path) -> None:
    _, small, x = small_one("residual mlp")
    path = tmp_path / "small.pt2"
    nb.save_compact(small, path, x)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        weight = next(info for info in archive.infolist() if "weight_0" in info.filename)
    content[weight.header_offset + 200] ^= 1
    (tmp_path / "flipped.pt2").write_bytes(content)
    (tmp_path / "half.pt2").write_bytes(content[: len(content) // 2])
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("something", "else")
    for name in ("flipped", "half", "other"):
        with pytest.raises(ValueError, match=rf"{name}\.pt2 cannot be read \(.* save_compact wrote"):
            nb.load_compact(tmp_path / f"{name}.pt2")
