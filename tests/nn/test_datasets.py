"""The data that travel with the package, and what happens to damaged ones."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import nn_bridge.datasets as datasets
from nn_bridge import load_dataset, load_fashion_mnist, load_mnist

pytestmark = pytest.mark.nn

PACKAGED = Path(str(importlib.resources.files("nn_bridge"))) / "data"
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    load_mnist(path)
    return path


@pytest.fixture
def damaged(root: Path, tmp_path: Path) -> Path:
    """A copy of the cache that a test may damage."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


def test_mnist_is_mnist(root: Path) -> None:
    data = load_mnist(root)
    assert data.train_images.shape == (60000, 784) and data.test_images.shape == (10000, 784)
    assert data.train_images.dtype == torch.float32 and data.train_labels.dtype == torch.int64
    # The class counts of the training set, and the first ten labels, as published.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(data.train_labels).tolist() == counts
    assert data.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert float(data.train_images.double().mean()) == pytest.approx(0, abs=1e-6)
    assert float(data.train_images.double().std()) == pytest.approx(1, abs=1e-6)


def test_raw_pixels_are_in_the_unit_interval_and_standardised_ones_use_the_training_pixels(
    root: Path,
) -> None:
    raw, standard = load_mnist(root, standardise=False), load_mnist(root)
    assert float(raw.test_images.min()) == 0.0 and float(raw.test_images.max()) == 1.0
    mean, deviation = raw.train_images.double().mean(), raw.train_images.double().std()
    assert (float(mean), float(deviation)) == pytest.approx((0.1307, 0.3081), abs=5e-5)
    expected = (raw.test_images.double() - mean) / deviation
    torch.testing.assert_close(standard.test_images.double(), expected, atol=1e-6, rtol=1e-6)


def test_the_packed_files_unpack_to_the_published_ones() -> None:
    # MD5 sums of the unpacked files as torchvision's readers have known them for years are of other
    # compressions; the unpacked contents have these SHA-256 sums everywhere.
    folder = importlib.resources.files("nn_bridge") / "data"
    for name, (_, expected) in datasets._MNIST_SHA256.items():
        content = gzip.decompress((folder / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == expected


@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_a_damaged_copy_in_the_users_cache_is_replaced(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    monkeypatch.delenv("EVODYN_DATA", raising=False)
    monkeypatch.setattr(datasets, "cache_directory", lambda: damaged)
    file = damaged / "MNIST" / "raw" / name
    good = file.read_bytes()
    spoil(file, damage)
    load_mnist()
    assert file.read_bytes() == good
    assert [f.name for f in file.parent.iterdir() if f.name not in FILES] == []


@pytest.mark.parametrize("named_by", ["root", "environment"])
@pytest.mark.parametrize("found", ["truncated", "flipped", "empty", "folder", "link"])
def test_a_file_in_a_folder_that_the_user_named_is_never_replaced(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, named_by: str, found: str
) -> None:
    file = damaged / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    if found in ("folder", "link"):
        file.unlink()
        file.mkdir() if found == "folder" else file.symlink_to(damaged / "not mounted")
    else:
        spoil(file, found)

    def content() -> object:  # reading a link changes its time of access
        return file.read_bytes() if file.is_file() else (file.lstat().st_ino, file.lstat().st_mtime_ns)

    before = content()
    monkeypatch.setenv("EVODYN_DATA", str(damaged))
    with pytest.raises(
        ValueError, match=r"t10k-labels-idx1-ubyte is no file of MNIST.*expected.*left as it is"
    ):
        load_mnist(damaged if named_by == "root" else None)
    assert content() == before
    # What is not there is put there.
    file.rmdir() if found == "folder" else file.unlink()
    assert len(load_mnist(damaged).test_labels) == 10000


def spoil(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[:-1])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_packed_file_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    package = tmp_path / "package"
    shutil.copytree(str(importlib.resources.files("nn_bridge") / "data"), package / "data")
    spoil(package / "data" / "t10k-labels-idx1-ubyte.gz", damage)
    monkeypatch.setattr(importlib.resources, "files", lambda _: package)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz is damaged.*install the package again"):
        load_mnist(tmp_path / "cache")
    assert not (tmp_path / "cache" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").exists()


def test_the_environment_variable_says_where_the_cache_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVODYN_DATA", str(tmp_path / "elsewhere"))
    assert datasets.cache_directory() == tmp_path / "elsewhere"
    load_mnist()
    assert sorted(f.name for f in (tmp_path / "elsewhere" / "MNIST" / "raw").iterdir()) == sorted(FILES)
    monkeypatch.setenv("EVODYN_DATA", "")
    assert datasets.cache_directory().name == "evodyn"


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EVODYN_DATA", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"file/.* cannot be written .*EVODYN_DATA"):
        load_mnist()
    # Where the files are in place nothing has to be written.
    monkeypatch.setattr(datasets, "replacing", None)
    assert len(load_mnist(root).test_labels) == 10000


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_files_of_a_former_torchvision_are_not_read_in_place_of_checked_ones(
    damaged: Path, name: str
) -> None:
    (damaged / "MNIST").rename(damaged / name)
    folder = damaged / name / "processed"
    folder.mkdir()
    for file in ("training.pt", "test.pt"):
        torch.save((torch.zeros(2, 28, 28, dtype=torch.uint8), torch.zeros(2)), folder / file)
    with pytest.raises(ValueError, match=r"processed/training\.pt and test\.pt are of a former torchvision"):
        load_dataset("mnist" if name == "MNIST" else "fashion-mnist", damaged)


def test_the_default_device_is_left_to_the_network(root: Path) -> None:
    with torch.device("meta"):
        data = load_mnist(root)
    assert torch.equal(data.test_images, load_mnist(root).test_images)


def test_processes_may_unpack_at_the_same_time(tmp_path: Path) -> None:
    code = "import sys; from nn_bridge import load_mnist; print(len(load_mnist(sys.argv[1]).test_labels))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["10000\n"] * 2
    assert sorted(f.name for f in (tmp_path / "MNIST" / "raw").iterdir()) == sorted(FILES)


def test_nothing_is_written_inside_the_package(root: Path) -> None:
    folder = Path(str(importlib.resources.files("nn_bridge") / "data"))
    assert not list(folder.rglob("*-ubyte")) and not list(folder.rglob("raw"))


def test_parts_and_unknown_names(root: Path) -> None:
    part = load_dataset("mnist", root).first(100, 50)
    assert (len(part.train_images), len(part.train_labels), len(part.test_labels)) == (100, 100, 50)
    assert "100 training and 50 test" in repr(part)
    with pytest.raises(ValueError, match="name is 'cifar'"):
        load_dataset("cifar")


# Fashion-MNIST: MNIST's own files under the other name serve as well, the format being the same.


@pytest.fixture(params=["packed", "unpacked", "mixed"])
def fashion(request: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVODYN_DATA", str(tmp_path / "cache"))
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for k, name in enumerate(FILES):
        content = (root / "MNIST" / "raw" / name).read_bytes()
        if request.param == "packed" or (request.param == "mixed" and k % 2):
            (raw / f"{name}.gz").write_bytes((PACKAGED / f"{name}.gz").read_bytes())
        else:
            (raw / name).write_bytes(content)
    return tmp_path / "root"


def test_fashion_mnist_is_read_from_torchvisions_layout(fashion: Path, root: Path) -> None:
    before = sorted(f.name for f in fashion.rglob("*"))
    data = load_fashion_mnist(fashion, standardise=False)
    assert data.name == "fashion-mnist"
    assert torch.equal(data.train_images, load_mnist(root, standardise=False).train_images)
    assert sorted(f.name for f in fashion.rglob("*")) == before
    # And once more, with the copies of the first time in place.
    assert torch.equal(load_fashion_mnist(fashion).test_labels, data.test_labels)


@pytest.mark.parametrize("grey", [0, 7])
def test_images_that_are_all_alike_have_finite_pixels(root: Path, tmp_path: Path, grey: int) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    shutil.copytree(root / "MNIST" / "raw", raw)
    file = raw / FILES[0]
    file.write_bytes(file.read_bytes()[:16] + bytes([grey]) * (60000 * 784))
    data = load_fashion_mnist(tmp_path)
    assert bool((data.train_images == 0).all())
    # Other images keep the scale of pixels in [0, 1].
    expected = load_mnist(root, standardise=False).test_images - grey / 255
    torch.testing.assert_close(data.test_images, expected)


@pytest.mark.parametrize("damage", ["truncated", "header", "label", "missing", "empty"])
@pytest.mark.parametrize("packed", [True, False])
def test_damaged_fashion_files_are_refused_by_name(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, damage: str
) -> None:
    monkeypatch.setenv("EVODYN_DATA", str(tmp_path / "cache"))
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        content = bytearray((root / "MNIST" / "raw" / name).read_bytes())
        file = raw / (f"{name}.gz" if packed else name)
        if name == "train-labels-idx1-ubyte":
            if damage == "header":
                content[3] ^= 1
            elif damage == "label":
                content[100] = 11
        if packed and name != "train-labels-idx1-ubyte":
            content = bytearray((PACKAGED / f"{name}.gz").read_bytes())
        elif packed:
            content = bytearray(gzip.compress(content))
        file.write_bytes(content)
        if name == "train-labels-idx1-ubyte" and damage in ("truncated", "missing", "empty"):
            spoil(file, damage)
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte"):
        load_fashion_mnist(tmp_path)


@pytest.mark.parametrize("fashion", ["unpacked"], indirect=True)
@pytest.mark.parametrize("packed", [True, False])
def test_no_more_is_read_than_a_file_should_hold(fashion: Path, packed: bool) -> None:
    file = fashion / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    for form in (file, file.with_suffix(".gz")):
        form.unlink(missing_ok=True)
    if packed:  # 2 MB that unpack to 2 GB
        file.with_suffix(".gz").write_bytes(gzip.compress(bytes(1 << 20)) * 2000)
    else:
        file.touch()
        os.truncate(file, 1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte(\.gz)? holds more than 60008 bytes"):
            load_fashion_mnist(fashion)
        assert tracemalloc.get_traced_memory()[1] < 3e8
    finally:
        tracemalloc.stop()
    assert not (datasets.cache_directory() / "unpacked").exists()


def test_all_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks " + ", ".join(FILES)):
        load_fashion_mnist(tmp_path)


@pytest.mark.parametrize("fashion", ["mixed"], indirect=True)
def test_a_download_replaces_nothing(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, own = fashion / "FashionMNIST" / "raw", torchvision.datasets.FashionMNIST

    def fetching(root: Any, *, train: bool = True, download: bool) -> Any:
        if not download:
            return own(root, train=train, download=False)
        fetched = Path(root) / "FashionMNIST" / "raw"
        fetched.mkdir(parents=True, exist_ok=True)
        for name in FILES:  # like torchvision, whatever was there
            (fetched / f"{name}.gz").write_bytes((PACKAGED / f"{name}.gz").read_bytes())
            (fetched / name).write_bytes(gzip.decompress((PACKAGED / f"{name}.gz").read_bytes()))
        return None

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fetching)
    mine = raw / FILES[1]
    content = bytearray(gzip.decompress((PACKAGED / f"{FILES[1]}.gz").read_bytes()))
    content[8:16] = bytes(8)  # other labels
    mine.write_bytes(content)
    for form in (raw / FILES[3], raw / f"{FILES[3]}.gz"):
        form.unlink(missing_ok=True)
    before = {file: file.read_bytes() for file in raw.iterdir()}
    data = load_fashion_mnist(fashion, download=True)
    assert data.train_labels[:8].tolist() == [0] * 8 and len(data.test_labels) == 10000
    assert {file: file.read_bytes() for file in raw.iterdir() if file.name != FILES[3]} == before


def test_a_label_is_what_the_file_says(root: Path) -> None:
    labels = np.frombuffer((root / "MNIST" / "raw" / FILES[3]).read_bytes()[8:], dtype=np.uint8)
    assert np.array_equal(load_mnist(root).test_labels.numpy(), labels)
