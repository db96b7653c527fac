"""Files that only this party can read and nobody can change: sealed under a key that outlives it.

The key is a file of its own (mode 0600). A sealed file is 16 bytes of salt and then frames of
AES-256-GCM, 1 MiB each but for the last, whose nonce is the frame's place. The key of a file is
HKDF-SHA-256 of the party's key, the salt, and the file's name and size [RFC 5869]: so a frame has
one place in one file, and what was changed, cut, prolonged or exchanged is found out.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from srcompile.runtime.channels import Sendable
from srcompile.runtime.errors import SpoolError
from srcompile.runtime.services.state import write_durably

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FRAME = 1 << 20
TAG = 16
SALT = 16
KEY = 32

Put = Callable[[Sendable], None]
"""Appends bytes to a file."""
Get = Callable[[int], bytearray]
"""Returns the next so many bytes of a file."""


class DamagedError(SpoolError):
    """A sealed file that is not as it was written, or not there."""


def sealed_size(size: int) -> int:
    """Return the bytes that a file takes which holds `size` bytes."""
    return SALT + size + TAG * _frames(size)


class Vault:
    """Seals and opens files under the key in `file`.

    If that is not there, or has another length, it is made, and what was sealed before cannot be
    opened any more.
    """

    def __init__(self, file: Path) -> None:
        try:
            key = file.read_bytes()
        except FileNotFoundError:
            key = b""
        if len(key) != KEY:
            key = secrets.token_bytes(KEY)
            write_durably(file, key)
        self._key = key

    @contextlib.contextmanager
    def writing(self, file: Path, name: str, size: int) -> Iterator[Put]:
        """Give a function that appends to a new file, 0600, of `size` bytes in all.

        The file is there under its name at the end, or not at all; it is not synchronised, since a
        crash costs no more than this file. Raises SpoolError if the disk fails.
        """
        part = file.with_name(file.name + ".part")
        salt = secrets.token_bytes(SALT)
        cipher = self._cipher(salt, name, size)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        waiting, written = bytearray(), 0

        def put(data: Sendable) -> None:
            rest = memoryview(data).cast("B")
            while rest:
                room = FRAME - len(waiting)
                waiting.extend(rest[:room])
                rest = rest[room:]
                if len(waiting) == FRAME:
                    seal()

        def seal() -> None:
            nonlocal written
            sealed = memoryview(cipher.encrypt(_nonce(written // FRAME), waiting, None))
            written += len(waiting)
            waiting.clear()
            _write(stream.fileno(), sealed)

        try:
            with open(os.open(part, flags, 0o600), "wb", buffering=0) as stream:
                _write(stream.fileno(), memoryview(salt))
                yield put
                if waiting or not size:
                    seal()
            assert written == size
            part.replace(file)
        except BaseException as error:
            with contextlib.suppress(OSError):
                part.unlink()
            if not isinstance(error, OSError):
                raise
            raise SpoolError(
                f"the stock of offline material in {file.parent} cannot be written to: "
                f"{error.strerror}; free disk space, or lower 'stock_high' or 'stock_mib'"
            ) from None

    @contextlib.contextmanager
    def reading(self, file: Path, name: str, size: int) -> Iterator[Get]:
        """Give a function that returns the next bytes of a file of `size` bytes.

        Raises DamagedError if the file is not there or not as it was written; what was returned
        until then was.
        """
        from cryptography.exceptions import InvalidTag

        try:
            stream = file.open("rb", buffering=0)
        except OSError as error:
            raise DamagedError(f"{file} cannot be read: {error.strerror}") from None
        with stream:
            damaged = DamagedError(f"{file} is not as it was written")
            if os.fstat(stream.fileno()).st_size != sealed_size(size):
                raise damaged
            cipher = self._cipher(stream.read(SALT), name, size)
            frame, number = memoryview(b""), 0

            def get(count: int) -> bytearray:
                nonlocal frame, number
                found = bytearray(count)
                into = memoryview(found)
                while into:
                    if not frame:
                        try:
                            sealed = stream.read(min(FRAME, size - number * FRAME) + TAG)
                            frame = memoryview(cipher.decrypt(_nonce(number), sealed, None))
                        except (InvalidTag, OSError, ValueError):
                            raise damaged from None
                        number += 1
                    taken = min(len(into), len(frame))
                    into[:taken] = frame[:taken]
                    into, frame = into[taken:], frame[taken:]
                return found

            yield get

    def _cipher(self, salt: bytes, name: str, size: int) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = f"srcompile stock {size} {name}".encode()
        return AESGCM(HKDF(SHA256(), KEY, salt, info).derive(self._key))


def _frames(size: int) -> int:
    return max(1, -(-size // FRAME))


def _nonce(frame: int) -> bytes:
    return frame.to_bytes(12, "big")


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
