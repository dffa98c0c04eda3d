"""MNIST and Fashion-MNIST as tensors in memory, every byte checked before it is used."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import sys
import zlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torchvision

from evodyn import validation
from evodyn.atomic import replacing

__all__ = ["Dataset", "cache_directory", "load_dataset", "load_fashion_mnist", "load_mnist"]

DATA_VARIABLE = "EVODYN_DATA"

# Name of the unpacked file -> (SHA-256 as shipped, packed; SHA-256 unpacked).
_MNIST_SHA256: Mapping[str, tuple[str, str]] = {
    "train-images-idx3-ubyte": (
        "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        "1787548bbe0bff1ec2ecdc0ef292b02df999e2d1a6002d27500982c652b17203",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        "1a1a05eab793c14bb050b398624a11b0ffd1a2953baed553b1b9bd079e2a20be",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        "b91679a0acfe4ba0e50a2437a903084cba1f5f92592b016a25a7dfd00455798b",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
# What an IDX file of this kind must be: magic number and shape, both big-endian at its start.
_SHAPES: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "train-images-idx3-ubyte": (2051, (60000, 28, 28)),
    "train-labels-idx1-ubyte": (2049, (60000,)),
    "t10k-images-idx3-ubyte": (2051, (10000, 28, 28)),
    "t10k-labels-idx1-ubyte": (2049, (10000,)),
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and labels for training and for testing, held in memory.

    Parameters
    ----------
    train_images, test_images : Tensor, shape (samples, 784)
        Float32 pixels, row by row: in [0, 1], or standardised by the mean and the standard deviation of
        all training pixels.
    train_labels, test_labels : Tensor, shape (samples,)
        Class numbers 0 to 9, int64.
    name : str
        "mnist" or "fashion-mnist".
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    name: str = "mnist"

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same data on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def first(self, train: int | None = None, test: int | None = None) -> Dataset:
        """Return the first `train` training and `test` test samples (all where None)."""
        return dataclasses.replace(
            self,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            test_images=self.test_images[:test],
            test_labels=self.test_labels[:test],
        )

    def _map(self, function: Any) -> Dataset:
        tensors = ("train_images", "train_labels", "test_images", "test_labels")
        return dataclasses.replace(self, **{name: function(getattr(self, name)) for name in tensors})

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name}, {len(self.train_images)} training and {len(self.test_images)} test "
            f"samples on {self.train_images.device})"
        )


def cache_directory() -> Path:
    """Return the directory that unpacked data sets go to.

    The environment variable EVODYN_DATA if it is set, otherwise the user's cache directory.
    """
    override = os.environ.get(DATA_VARIABLE)
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "evodyn"


def load_mnist(root: str | os.PathLike[str] | None = None, *, standardise: bool = True) -> Dataset:
    """Return MNIST, from the four files that travel with this package; nothing is downloaded.

    The files are unpacked once into ``root/MNIST/raw/``, the layout of torchvision, which reads them.
    They are checked by SHA-256 before and after unpacking and whenever they are loaded; an unpacked file
    that is damaged is replaced. Nothing is written inside the installed package.

    Parameters
    ----------
    root : path, optional
        Where the unpacked files go; `cache_directory` by default.
    standardise : bool, optional
        Subtract the mean and divide by the standard deviation of all training pixels (0.1307, 0.3081; by 255
        where they are all alike); otherwise pixels are in [0, 1].

    Returns
    -------
    Dataset
        60,000 training and 10,000 test images.

    Raises
    ------
    ValueError
        If a packed file is damaged (the message names it), the files cannot be written, or `root` holds
        files of a former torchvision, which it would read in place of the checked ones.
    """
    root = cache_directory() if root is None else Path(root).expanduser()
    _refuse_processed(root / "MNIST")
    with resources.as_file(resources.files("nn_bridge") / "data") as packed:
        for name, (packed_sum, unpacked_sum) in _MNIST_SHA256.items():
            target = root / "MNIST" / "raw" / name
            if not (target.is_file() and _sha256(target) == unpacked_sum):
                _unpack(packed / f"{name}.gz", target, packed_sum, unpacked_sum)
    train, test = (torchvision.datasets.MNIST(root, train=part, download=False) for part in (True, False))
    return _in_memory(train, test, "mnist", standardise)


def load_fashion_mnist(
    root: str | os.PathLike[str] | None = None, *, standardise: bool = True, download: bool = False
) -> Dataset:
    """Return Fashion-MNIST from torchvision's own folder layout, ``root/FashionMNIST/raw/``.

    Parameters
    ----------
    root : path, optional
        The data root; `cache_directory` by default. Its files may be packed (.gz) or unpacked; packed
        ones are unpacked into `cache_directory`, so that `root` may be read-only.
    standardise : bool, optional
        As for `load_mnist`.
    download : bool, optional
        Let torchvision download what is missing.

    Returns
    -------
    Dataset
        60,000 training and 10,000 test images.

    Raises
    ------
    ValueError
        If a file is missing, truncated or damaged (the message names it), copies cannot be written, or
        `root` holds files of a former torchvision.
    """
    root = cache_directory() if root is None else Path(root).expanduser()
    _refuse_processed(root / "FashionMNIST")
    raw = root / "FashionMNIST" / "raw"
    if download:
        try:
            torchvision.datasets.FashionMNIST(root, download=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"download is True, but Fashion-MNIST could not be fetched ({error}); expected a "
                f"connection: copy its four files to {raw}, packed or unpacked, and leave download out."
            ) from error
    if not all((raw / name).is_file() for name in _SHAPES):
        raw = _unpacked_copies(raw)
    for name in _SHAPES:
        _check_idx(raw / name)
    train, test = (
        torchvision.datasets.FashionMNIST(raw.parents[1], train=part, download=False)
        for part in (True, False)
    )
    return _in_memory(train, test, "fashion-mnist", standardise)


def load_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    standardise: bool = True,
    download: bool = False,
) -> Dataset:
    """Return the data set called `name`, "mnist" or "fashion-mnist" (see their own functions)."""
    validation.choice("name", name, ("mnist", "fashion-mnist"))
    if name == "mnist":
        return load_mnist(root, standardise=standardise)
    return load_fashion_mnist(root, standardise=standardise, download=download)


def _in_memory(train: Any, test: Any, name: str, standardise: bool) -> Dataset:
    # From the number of pixels of each grey value: exact, and the same on every machine.
    parts = [torch.bincount(part.flatten(), minlength=256) for part in train.data.split(5000)]
    counts = torch.stack(parts).sum(0).double()
    shares, greys = counts / counts.sum(), torch.arange(256, dtype=torch.float64, device=counts.device)
    mean = float(shares @ greys)
    deviation = float(shares @ (greys - mean).square()) ** 0.5
    centre = mean if standardise else 0.0
    # Pixels that are all alike have no deviation to be divided by.
    scale = deviation if standardise and deviation > 0 else 255.0

    def images(part: Any) -> torch.Tensor:
        flat: torch.Tensor = part.data.flatten(start_dim=1).to(torch.float32)
        return flat.sub_(centre).div_(scale)

    return Dataset(images(train), train.targets.long(), images(test), test.targets.long(), name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(
    packed: Path, target: Path, packed_sum: str | None = None, unpacked_sum: str | None = None
) -> None:
    """Unpack `packed` to `target` atomically, checking both against their SHA-256 where given."""
    if packed_sum is not None and _sha256(packed) != packed_sum:
        raise ValueError(
            f"{packed} is damaged: its SHA-256 is not {packed_sum}; expected the file as it was shipped: "
            "install the package again."
        )
    try:
        content = gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{packed} cannot be unpacked ({error}); expected a complete gzip file: fetch it again."
        ) from error
    if unpacked_sum is not None and hashlib.sha256(content).hexdigest() != unpacked_sum:
        raise ValueError(f"{packed} unpacks to something else than {packed.stem}: install the package again.")
    _write(target, content)


def _write(target: Path, content: bytes) -> None:
    try:
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ValueError(
            f"{target} cannot be written ({error}); expected a folder for the unpacked files: name one with "
            f"the environment variable {DATA_VARIABLE} or, for MNIST, with `root`."
        ) from error


def _refuse_processed(folder: Path) -> None:
    """Refuse what torchvision kept before version 0.9, and still reads first, unchecked."""
    files = [folder / "processed" / name for name in ("training.pt", "test.pt")]
    if all(file.is_file() for file in files):
        raise ValueError(
            f"{files[0]} and {files[1].name} are of a former torchvision and would be read unchecked; "
            "expected none: remove them or name another data root."
        )


def _unpacked_copies(raw: Path) -> Path:
    """Return a directory in the cache with the unpacked files of `raw`, keyed by their contents."""
    missing = [n for n in _SHAPES if not (raw / n).is_file() and not (raw / f"{n}.gz").is_file()]
    if missing:
        raise ValueError(
            f"{raw} lacks {', '.join(missing)}; expected each of the four files there, packed (.gz) or "
            "unpacked: name the right data root or ask for a download."
        )
    sources = [raw / n if (raw / n).is_file() else raw / f"{n}.gz" for n in _SHAPES]
    key = hashlib.sha256("".join(map(_sha256, sources)).encode()).hexdigest()[:16]
    copies = cache_directory() / "unpacked" / key / "FashionMNIST" / "raw"
    for name, source in zip(_SHAPES, sources, strict=True):
        if source.suffix == ".gz":
            _unpack(source, copies / name)
        else:
            _write(copies / name, source.read_bytes())
    return copies


def _check_idx(path: Path) -> None:
    """Refuse an IDX file whose header, length or labels are not what its name promises."""
    magic, shape = _SHAPES[path.name]
    header = b"".join(number.to_bytes(4, "big") for number in (magic, *shape))
    content = path.read_bytes()
    expected = len(header) + torch.Size(shape).numel()
    if not content.startswith(header):
        raise ValueError(f"{path} is damaged: its header is not that of {shape} bytes; fetch it again.")
    if len(content) != expected:
        raise ValueError(
            f"{path} has {len(content)} bytes; expected {expected}: it is truncated, fetch it again."
        )
    if len(shape) == 1 and max(content[len(header) :]) > 9:
        raise ValueError(
            f"{path} holds a label above 9; expected labels 0 to 9: it is damaged, fetch it again."
        )
