"""Arrays from files, `.npy` and `.npz`, of which no byte is trusted.

A header is matched, not evaluated, and says the size that its member has; a member takes no more of
memory than the archive's own size allows. So a file can neither run code nor ask for more memory
than it is worth. What NumPy writes for arrays of numbers is read; nothing else is.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from srcompile.runtime.source import Array

DEFLATED_MOST = 1032  # the most that deflate makes of one byte
_MAX_HEADER = 4096
_MAX_AXES = 32
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?(?:b1|[iu][1248]|f[248]))', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,18}, ?)*(?:[0-9]{1,18})?)\), ?\} *\n?"
)
_CHUNK = 1 << 20


class ArrayError(ValueError):
    """A file that holds no array, or an archive that holds no arrays, as NumPy writes them."""


def read_array(stream: IO[bytes], size: int) -> Array:
    """Return the array in a `.npy` stream of exactly `size` bytes. Raises ArrayError."""
    magic = _exactly(stream, 8)
    if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise ArrayError("it is no .npy file")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(_exactly(stream, width), "little")
    if length > _MAX_HEADER:
        raise ArrayError("its header is too long")
    found = _HEADER.fullmatch(_exactly(stream, length))
    if found is None:
        raise ArrayError("it is no array of numbers")
    dtype, fortran = np.dtype(found[1].decode()), found[2] == b"True"
    shape = tuple(int(n) for n in found[3].replace(b",", b" ").split())
    if len(shape) > _MAX_AXES:
        raise ArrayError(f"it has {len(shape)} axes")
    if 8 + width + length + math.prod(shape) * dtype.itemsize != size:
        raise ArrayError(f"its size is not that of {dtype}{shape}")
    array = np.empty(shape[::-1] if fortran else shape, dtype)
    flat = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        part[:] = _exactly(stream, len(part))
    if stream.read(1):
        raise ArrayError("it is longer than its array")
    return array.T if fortran else array


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ArrayError("it ends too early")
    return data


def checked_members(
    archive: zipfile.ZipFile, *, compressed: bool = False
) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by name; they are stored as they are, or `compressed`.

    Raises ArrayError if one is compressed in another way, or says that it is larger than it can be.
    """
    assert archive.fp is not None
    archive.fp.seek(0, 2)
    whole = archive.fp.tell()
    known = (zipfile.ZIP_STORED, *((zipfile.ZIP_DEFLATED,) if compressed else ()))
    taken = 0
    for member in archive.infolist():
        if member.compress_type not in known or member.flag_bits & 1:
            raise ArrayError("it is compressed or encrypted")
        most = 1 if member.compress_type == zipfile.ZIP_STORED else DEFLATED_MOST
        taken += member.compress_size
        if member.file_size > most * member.compress_size or taken > whole:
            raise ArrayError(f"{member.filename} says that it is larger than the file allows")
    return {member.filename: member for member in archive.infolist()}


def read_archive(file: IO[bytes], *, compressed: bool = False) -> Mapping[str, Array]:
    """Return the arrays of a `.npz` file by name. Raises ArrayError."""
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = {}
            for name, member in checked_members(archive, compressed=compressed).items():
                if not name.endswith(".npy"):
                    raise ArrayError("it holds something that is no array")
                inner = name.removesuffix(".npy")
                with archive.open(member) as stream:
                    arrays[inner] = _named(inner, stream, member.file_size)
            return arrays
    except ARCHIVE_ERRORS as error:
        raise ArrayError(_said(error)) from None


def _named(name: str, stream: IO[bytes], size: int) -> Array:
    try:
        return read_array(stream, size)
    except ArrayError as error:
        raise ArrayError(f"in '{name}': {error}") from None


ARCHIVE_ERRORS: tuple[type[Exception], ...] = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError,
)  # fmt: skip
"""What zipfile raises for damaged archives: RuntimeError and its NotImplementedError for flags that
say encrypted or unknown, ValueError for strange names."""


def _said(error: Any) -> str:
    return str(error) or "it is damaged"
