"""Records on disk for the time of a session: encrypted, each read once and then removed.

A record is a file of its own, `record-N` in a private folder, and nobody but its owner can read it
(mode 0600). Its bytes are sealed in frames with AES-128-GCM under a key that is drawn when the
spool is made and lives in the memory of this process only; a frame's nonce is the record's number
and its place. So a file that was changed, cut or exchanged for another is found out, and one that a
killed process left behind tells nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srcompile.runtime.errors import SpoolError
from srcompile.runtime.gates import Bytes

FRAME = 1 << 20
TAG = 16
ALIGN = 64
"""Each part of a record begins at a multiple of it, so that it can be read as an array."""


@dataclass(frozen=True)
class Record:
    """A record that lies in the spool: its number, and the sizes of its parts."""

    number: int
    sizes: tuple[int, ...]

    @property
    def places(self) -> list[int]:
        """Where each part begins, and where the last one ends."""
        return [0, *itertools.accumulate(-(-size // ALIGN) * ALIGN for size in self.sizes)]


class Spool:
    """Writes and reads records in `folder`, which is made if it is not there."""

    def __init__(self, folder: Path) -> None:
        """Raise SpoolError if the folder cannot be made."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # clients have no spool

        self._folder = folder
        self._cipher = AESGCM(secrets.token_bytes(16))
        self._numbers = itertools.count()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed("made", error) from None

    def write(self, parts: Sequence[Bytes]) -> Record:
        """Write a record; an empty one takes no file. Raises SpoolError if the disk fails."""
        record = Record(next(self._numbers), tuple(len(part) for part in parts))
        places = record.places
        if not places[-1]:
            return record  # there is nothing to read back
        plain = np.zeros(places[-1], np.uint8)
        for place, part in zip(places, parts, strict=False):
            plain[place : place + len(part)] = part
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with open(os.open(self._path(record), flags, 0o600), "wb", buffering=0) as file:
                for frame, start in enumerate(range(0, len(plain), FRAME)):
                    data = plain[start : start + FRAME].data
                    sealed = memoryview(self._cipher.encrypt(_nonce(record, frame), data, None))
                    while sealed:
                        sealed = sealed[file.write(sealed) :]
        except OSError as error:
            self.remove(record)
            raise self._failed("written to", error) from None
        return record

    def take(self, record: Record) -> list[Bytes]:
        """Return the parts of a record and remove it.

        Raises SpoolError if it is not there, shorter or longer than it was, or not what it was.
        """
        from cryptography.exceptions import InvalidTag

        size = record.places[-1]
        if not size:
            return [np.empty(0, np.uint8) for _ in record.sizes]
        plain = np.empty(size, np.uint8)
        try:
            with self._path(record).open("rb", buffering=0) as file:
                for frame, start in enumerate(range(0, size, FRAME)):
                    stop = min(start + FRAME, size)
                    sealed = _read(file.fileno(), stop - start + TAG)
                    opened = self._cipher.decrypt(_nonce(record, frame), sealed, None)
                    plain[start:stop] = np.frombuffer(opened, np.uint8)
                if os.read(file.fileno(), 1):
                    raise EOFError
        except OSError as error:
            raise self._failed("read", error) from None
        except (EOFError, InvalidTag):
            raise SpoolError(
                f"a file of offline material in {self._folder} is not as it was written: it was "
                "cut, changed or exchanged; this session cannot go on"
            ) from None
        finally:
            self.remove(record)
        starts = zip(record.places, record.sizes, strict=False)
        return [plain[start : start + size] for start, size in starts]

    def remove(self, record: Record) -> None:
        """Remove a record, if it is there."""
        with contextlib.suppress(OSError):
            self._path(record).unlink()

    def _path(self, record: Record) -> Path:
        return self._folder / f"record-{record.number}"

    def _failed(self, what: str, error: OSError) -> SpoolError:
        return SpoolError(
            f"the folder for offline material {self._folder} cannot be {what}: {error.strerror}; "
            "give one with room on another disk, or more memory"
        )


def _nonce(record: Record, frame: int) -> bytes:
    return record.number.to_bytes(8, "big") + frame.to_bytes(4, "big")


def _read(descriptor: int, size: int) -> bytes:
    """Return `size` bytes, or raise EOFError if the file ends before."""
    found = []
    while size:
        data = os.read(descriptor, size)
        if not data:
            raise EOFError
        found.append(data)
        size -= len(data)
    return b"".join(found)
