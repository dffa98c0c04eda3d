"""MNIST and Fashion-MNIST as tensors in memory, every byte checked before it is used."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import hashlib
import importlib
import os
import sys
import tempfile
import zlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from evodyn.core import validation
from evodyn.core.atomic import replacing
from evodyn.core.extras import extra

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
    They are checked by SHA-256 before and after unpacking and whenever they are loaded. In the user's cache
    an unpacked file that is damaged is replaced; in a folder that the user named nothing that is there is
    ever replaced. Nothing is written inside the installed package.

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
        If a packed file is damaged (the message names it), `root`, or the folder that the environment
        variable names, holds a file of the same name with another content, the files cannot be written,
        or `root` holds files of a former torchvision, which it would read in place of the checked ones.
    OSError
        If the disk is full. An older file stays as it is.
    """
    read = _torchvision("load_mnist").MNIST
    own = root is None and not os.environ.get(DATA_VARIABLE)
    root = cache_directory() if root is None else Path(root).expanduser()
    _refuse_processed(root / "MNIST")
    with resources.as_file(resources.files("nn_bridge") / "data") as packed:
        for name, (packed_sum, unpacked_sum) in _MNIST_SHA256.items():
            target = root / "MNIST" / "raw" / name
            there = os.path.lexists(target)  # asked first: another process may be unpacking
            if there and target.is_file() and _sha256(target) == unpacked_sum:
                continue
            if there and not own:
                raise ValueError(
                    f"{target} is no file of MNIST, or damaged; expected one with the SHA-256 "
                    f"{unpacked_sum}, or none. It is left as it is: move it away, or name another data root."
                )
            _write(target, _packaged(packed / f"{name}.gz", packed_sum, unpacked_sum))
    train, test = (read(root, train=part, download=False) for part in (True, False))
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
        Let torchvision download what is missing; what is there is left as it is.

    Returns
    -------
    Dataset
        60,000 training and 10,000 test images.

    Raises
    ------
    ValueError
        If a file is missing, truncated, too long or damaged (the message names it), copies cannot be
        written, or `root` holds files of a former torchvision.
    OSError
        If the disk is full. An older file stays as it is.
    """
    library = _torchvision("load_fashion_mnist")
    root = cache_directory() if root is None else Path(root).expanduser()
    _refuse_processed(root / "FashionMNIST")
    raw = root / "FashionMNIST" / "raw"
    if download:
        _download(raw, library)
    if missing := _missing(raw):
        raise ValueError(
            f"{raw} lacks {', '.join(missing)}; expected each of the four files there, packed (.gz) or "
            "unpacked: name the right data root or ask for a download."
        )
    contents = {name: _content(raw, name) for name in _SHAPES}
    if not all((raw / name).is_file() for name in _SHAPES):
        raw = _unpacked_copies(contents)
    train, test = (library.FashionMNIST(raw.parents[1], train=part, download=False) for part in (True, False))
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


def _torchvision(user: str) -> Any:
    """Return the data sets of torchvision, which nothing else here needs."""
    with extra("nn", user=user):
        return importlib.import_module("torchvision.datasets")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _packaged(packed: Path, packed_sum: str, unpacked_sum: str) -> bytes:
    """Return what a file of this package unpacks to, both checked against their SHA-256."""
    if _sha256(packed) != packed_sum:
        raise ValueError(
            f"{packed} is damaged: its SHA-256 is not {packed_sum}; expected the file as it was shipped: "
            "install the package again."
        )
    content = _unpacked(packed, _length(packed.stem))
    if hashlib.sha256(content).hexdigest() != unpacked_sum:
        raise ValueError(f"{packed} unpacks to something else than {packed.stem}: install the package again.")
    return content


def _unpacked(packed: Path, expected: int) -> bytes:
    """Unpack a file, and no further than to what it should hold and one byte more."""
    try:
        with gzip.open(packed) as file:
            content = file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{packed} cannot be unpacked ({error}); expected a complete gzip file: fetch it again."
        ) from error
    _require_length(packed, len(content), expected)
    return content


def _length(name: str) -> int:
    """Return how many bytes an unpacked file has."""
    _, shape = _SHAPES[name]
    return 4 * (1 + len(shape)) + torch.Size(shape).numel()


def _require_length(path: Path, length: int, expected: int) -> None:
    if length != expected:
        fault = f"holds {length} bytes" if length < expected else f"holds more than {expected} bytes"
        raise ValueError(
            f"{path} {fault}; expected {expected} (unpacked): it is damaged or another file, fetch it again."
        )


def _write(target: Path, content: bytes) -> None:
    try:
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        message = (
            f"{target} cannot be written ({error}); expected a folder for the unpacked files: name one with "
            f"the environment variable {DATA_VARIABLE} or, for MNIST, with `root`."
        )
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):  # the disk, not the folder
            raise OSError(error.errno, message) from error
        raise ValueError(message) from error


def _refuse_processed(folder: Path) -> None:
    """Refuse what torchvision kept before version 0.9, and still reads first, unchecked."""
    files = [folder / "processed" / name for name in ("training.pt", "test.pt")]
    if all(file.is_file() for file in files):
        raise ValueError(
            f"{files[0]} and {files[1].name} are of a former torchvision and would be read unchecked; "
            "expected none: remove them or name another data root."
        )


def _download(raw: Path, library: Any) -> None:
    """Let torchvision fetch Fashion-MNIST and keep what is not in `raw` yet, where it would replace files."""
    if not (missing := _missing(raw)):
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            library.FashionMNIST(folder, download=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"download is True, but Fashion-MNIST could not be fetched ({error}); expected a "
                f"connection: copy its four files to {raw}, packed or unpacked, and leave download out."
            ) from error
        for name in missing:
            _write(raw / name, _content(Path(folder) / "FashionMNIST" / "raw", name))


def _missing(raw: Path) -> list[str]:
    return [name for name in _SHAPES if not _source(raw, name).is_file()]


def _source(raw: Path, name: str) -> Path:
    """Return the unpacked file of that name, otherwise where its packed one belongs."""
    return raw / name if (raw / name).is_file() else raw / f"{name}.gz"


def _content(raw: Path, name: str) -> bytes:
    """Return the unpacked content of a file, refusing what is not what its name promises."""
    source, expected = _source(raw, name), _length(name)
    if source.suffix == ".gz":
        content = _unpacked(source, expected)
    else:
        _require_length(source, source.stat().st_size, expected)
        content = source.read_bytes()
    magic, shape = _SHAPES[name]
    header = b"".join(number.to_bytes(4, "big") for number in (magic, *shape))
    if not content.startswith(header):
        raise ValueError(f"{source} is damaged: its header is not that of {shape} bytes; fetch it again.")
    if len(shape) == 1 and max(content[len(header) :]) > 9:
        raise ValueError(
            f"{source} holds a label above 9; expected labels 0 to 9: it is damaged, fetch it again."
        )
    return content


def _unpacked_copies(contents: Mapping[str, bytes]) -> Path:
    """Return a directory in the cache with these files, named by what they hold."""
    key = hashlib.sha256("".join(hashlib.sha256(c).hexdigest() for c in contents.values()).encode())
    copies = cache_directory() / "unpacked" / key.hexdigest()[:16] / "FashionMNIST" / "raw"
    for name, content in contents.items():
        copy = copies / name
        if not (copy.is_file() and copy.read_bytes() == content):
            _write(copy, content)
    return copies
