"""A full disk: an error, older files as they were, and an interpreter that goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.nn,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files"),
]

SCRIPT = """
import gzip, resource, sys
from pathlib import Path
import torch
import nn_bridge as nb

folder = Path(sys.argv[1])
run, small, root = folder / "run.pt", folder / "small.safetensors", folder / "data"
model = nb.population_mlp((784, 64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def checkpoint(epoch):
    nb.save_checkpoint(run, model, optimizer, None, progress=nb.Progress(epoch), config={})


def compact():
    nb.save_compact(nb.compact(model), small)


def unpacked():
    nb.load_mnist(root)


checkpoint(1)
checkpoint(2)
compact()
labels = root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
labels.parent.mkdir(parents=True)
packed = Path(nb.__file__).parent / "data" / f"{labels.name}.gz"
labels.write_bytes(gzip.decompress(packed.read_bytes()))


def files():
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


before = files()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for write in (lambda: checkpoint(3), compact, unpacked):
    try:
        write()
        print("written")
    except OSError as error:
        print(type(error).__name__, files() == before)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpoint(3)
compact()
print(len(nb.load_mnist(root).test_labels))
"""


def test_a_full_disk_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert result.stdout.split("\n") == ["OSError True"] * 3 + ["10000", ""], result.stderr
