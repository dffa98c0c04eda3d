"""Labelled datasets as NetCDF files that are whole, or are refused by name.

HDF5 never sees a file system: datasets are built in memory and reach the disk as bytes, so that a full disk
is an `OSError` like any other, and files are read whole before they are opened. Every file has two
checksums. One of all bytes ends the file, behind what HDF5 reads; it is checked first, for HDF5 may hang or
crash on a damaged file. One of all variables and attributes is an attribute, so that a file which was changed
and written again is found out too.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evodyn.core.atomic import write_bytes

if TYPE_CHECKING:
    import os

    import xarray as xr

__all__ = ["CHECKSUM", "UNSEALED", "content_digest", "read", "write"]

CHECKSUM = "checksum"
"""Attribute with the SHA-256 of all variables and attributes."""
UNSEALED = (
    "comes from a version of evodyn whose files have no checksum of everything: damage might not be noticed."
)
"""What to say of a file without one, after its name."""

_SEAL = b"\nSHA-256 of all bytes before this line: "

_RATIO = 1100
"""Deflate makes nothing smaller than by a factor of 1032; the rest is for headers of chunks."""
_NOT_READ = b"This is a netCDF dimension but not a netCDF variable"


def content_digest(dataset: xr.Dataset) -> str:
    """Return a hash of all variables, bit for bit; attributes do not enter.

    Examples
    --------
    >>> import xarray as xr
    >>> zero, negative_zero = (xr.Dataset({"a": ("x", [value])}) for value in (0.0, -0.0))
    >>> content_digest(zero) == content_digest(negative_zero)
    False
    """
    digest = hashlib.sha256()
    for name in sorted(dataset.variables, key=str):
        variable = dataset.variables[name]
        for part in _content(variable.values, [str(name), list(variable.dims)]):
            digest.update(part)
    return digest.hexdigest()


def _content(value: Any, labels: list[Any]) -> tuple[bytes, bytes]:
    """Return labels with type and shape, and the values, in bytes that a file keeps."""
    values = np.asarray(value)
    text = values.dtype.kind in "OUST"  # files keep strings, but not how NumPy stored them
    kind = "text" if text else values.dtype.newbyteorder("<").str
    return (
        json.dumps([*labels, kind, values.shape]).encode(),
        json.dumps(values.astype(str).tolist()).encode()
        if text
        else np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes(),
    )


def checksum(dataset: xr.Dataset) -> str:
    """Return a hash of variables, coordinates, and all attributes but the checksum itself."""
    digest = hashlib.sha256(content_digest(dataset).encode())
    digest.update(json.dumps(sorted(map(str, dataset.coords))).encode())
    owners = {"": dataset.attrs} | {f"/{name}": v.attrs for name, v in dataset.variables.items()}
    for owner in sorted(owners):
        for name, value in sorted(owners[owner].items()):
            if (owner, name) != ("", CHECKSUM):
                # A file does not tell a number from a list of one.
                for part in _content(np.atleast_1d(value), [owner, str(name)]):
                    digest.update(part)
    return digest.hexdigest()


def write(
    dataset: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    encoding: dict[str, dict[str, Any]] | None = None,
    decode_times: bool = False,
) -> xr.Dataset:
    """Write a dataset with its checksum, atomically, and return it as `read` will.

    Parameters
    ----------
    dataset : xarray.Dataset
        What to write.
    path : path-like
        The file to write or replace.
    encoding : dict, optional
        How xarray is to store variables, by name.
    decode_times : bool, optional
        As for `read`.

    Raises
    ------
    ValueError
        If NetCDF does not keep the dataset bit for bit.
    OSError
        If the file cannot be written; what was there before is then still there.

    Examples
    --------
    >>> import tempfile
    >>> import xarray as xr
    >>> path = Path(tempfile.mkdtemp()) / "data.nc"
    >>> _ = write(xr.Dataset({"mass": ("group", [1.0, 2.0])}), path)
    >>> data, sealed = read(path)
    >>> data["mass"].values, sealed
    (array([1., 2.]), True)
    """
    sealed = dataset.assign_attrs({CHECKSUM: checksum(dataset)})
    content = _packed(sealed, encoding or {})
    try:
        written, _ = _unpacked(content, decode_times=decode_times)
    except ValueError as error:
        raise ValueError(
            f"the dataset for {str(path)!r} changes when it is saved as NetCDF; expected variables of "
            "numbers, booleans or strings, attributes of numbers and strings, and names that NetCDF keeps."
        ) from error
    write_bytes(path, content + _SEAL + hashlib.sha256(content).hexdigest().encode() + b"\n")
    return written


def read(path: str | os.PathLike[str], *, decode_times: bool = False) -> tuple[xr.Dataset, bool]:
    """Return the dataset in a file, and whether the file has a checksum, which then is right.

    Parameters
    ----------
    path : path-like
        The file.
    decode_times : bool, optional
        Whether variables in units of calendar time become dates, as xarray's default is.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is no NetCDF file, or is damaged. The message does not name the file, for callers say more.
    """
    content, seal, stated = Path(path).read_bytes().rpartition(_SEAL)
    if not seal:
        content = stated
    elif stated != hashlib.sha256(content).hexdigest().encode() + b"\n":
        raise ValueError("its bytes do not match its checksum")
    return _unpacked(content, decode_times=decode_times)


def _file_in(memory: io.BytesIO, mode: str) -> Any:
    h5netcdf: Any = importlib.import_module("h5netcdf")

    class File(h5netcdf.File):  # type: ignore[misc]
        # The destructor asks for it, also where Ctrl-C has interrupted the constructor.
        _closed = True

    return File(memory, mode, decode_vlen_strings=True)


def _packed(dataset: xr.Dataset, encoding: dict[str, dict[str, Any]]) -> bytes:
    from xarray.backends import H5NetCDFStore

    memory = io.BytesIO()
    with _file_in(memory, "w") as file:
        # Without a fill value, NaN keeps its bits.
        plain = {name: {"_FillValue": None} for name, v in dataset.variables.items() if v.dtype.kind == "f"}
        for name, options in encoding.items():
            plain.setdefault(name, {}).update(options)
        dataset.dump_to_store(H5NetCDFStore(file), encoding=plain)
    return memory.getvalue()


def _unpacked(content: bytes, *, decode_times: bool) -> tuple[xr.Dataset, bool]:
    import xarray as xr
    from xarray.backends import H5NetCDFStore

    try:
        _check_sizes(content)
        with (
            _file_in(io.BytesIO(content), "r") as file,
            xr.open_dataset(H5NetCDFStore(file), decode_times=decode_times) as opened,
        ):
            # Without the file's encoding, in which joined texts would be cut to its lengths.
            dataset = opened.load().drop_encoding()
        found = checksum(dataset)
    except Exception as error:  # a damaged file can make the reader raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from error
    stated = dataset.attrs.pop(CHECKSUM, None)
    if stated not in (None, found):
        raise ValueError("its content does not match its checksum")
    return dataset, stated is not None


def _check_sizes(content: bytes) -> None:
    """Raise `ValueError` if anything claims to be larger than the file could make it.

    A shape of (16000, 16000) takes eight bytes to write, and gigabytes to read.
    """
    h5py: Any = importlib.import_module("h5py")

    def check(name: str, item: Any) -> None:
        for key in item.attrs:
            attribute = item.attrs.get_id(key)
            if math.prod(attribute.shape) * attribute.dtype.itemsize > len(content):
                raise ValueError(f"attribute {key!r} of {name!r} claims shape {attribute.shape}")
        if not isinstance(item, h5py.Dataset) or item.attrs.get("NAME", b"").startswith(_NOT_READ):
            return
        needed = math.prod(item.shape) * item.dtype.itemsize
        stored = item.id.get_storage_size()
        if stored > len(content) or needed > stored * (_RATIO if item.chunks else 1):
            raise ValueError(f"{name!r} claims shape {item.shape}, but the file has {stored} bytes of it")

    with h5py.File(io.BytesIO(content), "r") as file:
        check("/", file)
        file.visititems(check)
