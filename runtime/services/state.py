"""What a role keeps on disk: deployed programs, and which blocks of randomness were used.

A deployment is a program with one sharing of its weights. It has an identifier of its own, drawn at
random, and the dealer's seeds belong to it: so a mask B covers one sharing of the weights, and a
block number counts within one deployment. The folders of a role are readable by its owner only:

    lock                      held while the role runs
    current/DIGEST            the deployment of the program with this digest
    spool/                        material that does not fit into memory, sealed (party)
    stock.key                 the key of the material made ahead            (party)
    deployments/ID/
        program.srp           without weights
        weights.npz           a party's shares of them                          (party)
        setup                 the hash of the seed whose mask B covered them    (party)
        opened.npz            F = W - B, once it is opened                      (party)
        used                  the blocks that were used                         (party)
        stock/                material made ahead, and the seed, sealed         (party)
        seeds                 the seeds of both parties                         (dealer)
        numbers               the block number below which all may be dealt     (dealer)

What must not be forgotten is on disk, with fsync, before the first message that depends on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.runtime.arrays import ArrayError, read_archive
from srcompile.runtime.errors import ConfigError, ProtocolError, error_text
from srcompile.runtime.kernels import ring_dtype
from srcompile.runtime.program import Program, dumps, load
from srcompile.runtime.randomness import SETUP_BLOCK
from srcompile.runtime.ring import Ring
from srcompile.runtime.services.ranges import Ranges
from srcompile.runtime.shares import read_shares, write_shares

GONE = "the program was deployed again or taken away; open another session"
_ID = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RANGE = struct.Struct(">QQI")  # first, last, CRC-32 of the two
_SPARE = 1 << 12  # entries of a file of used blocks that it may have for nothing
_RESERVED = 64  # block numbers that a dealer takes at once; a crash wastes the rest


def new_id() -> str:
    """Return a fresh identifier of a deployment or a session: 128 random bits in hexadecimal."""
    return secrets.token_hex(16)


def checked_id(value: object) -> str:
    """Return an identifier that somebody sent. Raises ProtocolError if it is none."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ProtocolError("this is no identifier")
    return value


def is_digest(text: str) -> bool:
    """Whether a text is a program's digest."""
    return _DIGEST.fullmatch(text) is not None


def checked_digest(value: object) -> str:
    """Return a program's digest that somebody sent. Raises ProtocolError if it is none."""
    if not isinstance(value, str) or not is_digest(value):
        raise ProtocolError("this is no digest of a program")
    return value


# -- files ----------------------------------------------------------------------------------------


def write_durably(file: Path, content: bytes) -> None:
    """Write a file (0600) that is there in full after a crash, or not at all."""
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- used blocks ----------------------------------------------------------------------------------


class Journal:
    """The blocks that a party has used: a file of ranges, each with a checksum.

    `mark` returns after the mark is durable. Entries at the end that are not whole, or zeros,
    belong to a mark that was cut off before it returned: nothing that depends on its blocks was
    sent, and they are dropped. The file is written anew when the role starts, and when it has many
    more entries than ranges.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        found = _read_ranges(file)
        self._ranges, self._entries = Ranges(found), len(found)
        self._renamed = False  # perhaps, and the folder may not know it for ever
        self._rewrite()

    def mark(self, *blocks: int) -> None:
        """Write down that blocks are used.

        Raises ProtocolError if one was before, or if the deployment was replaced meanwhile, and
        OSError if the disk is full or fails; then the file is as it was.
        """
        with self._lock:
            used = [block for block in blocks if block in self._ranges]
            if used or len(set(blocks)) < len(blocks):
                raise ProtocolError(f"block {(*used, *blocks)[0]} is used already")
            self._write_down(blocks)

    def give_up(self, *blocks: int) -> None:
        """Write down blocks that will not be used, so that ranges join; some may be used already.

        Raises like `mark`.
        """
        with self._lock:
            if left := sorted({block for block in blocks if block not in self._ranges}):
                self._write_down(left)

    def __contains__(self, block: int) -> bool:
        with self._lock:
            return block in self._ranges

    def _write_down(self, blocks: Sequence[int]) -> None:
        """Append blocks to the file. The lock is held."""
        for block in blocks:
            if not 0 <= block < SETUP_BLOCK:
                raise ProtocolError(f"there is no block {block}")
        for block in blocks:
            self._ranges.add(block)
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            raise ProtocolError(GONE) from None
        try:
            _append(descriptor, b"".join(_entry(block, block) for block in blocks))
            self._entries += len(blocks)
            if self._renamed:
                sync_folder(self._file.parent)
                self._renamed = False
        finally:
            os.close(descriptor)
        if self._entries >= self._most:
            with contextlib.suppress(OSError):  # the file says all the same; later there is room
                self._rewrite()

    def _rewrite(self) -> None:
        """Write the ranges in place of all entries: a crash leaves the one file or the other, and
        all marks are in both. One that fails is tried again many marks later.
        """
        self._renamed = True
        try:
            write_durably(self._file, b"".join(_entry(*r) for r in self._ranges))
            self._entries, self._renamed = len(self._ranges), False
        finally:
            self._most = self._entries + max(_SPARE, len(self._ranges))


def _append(descriptor: int, content: bytes) -> None:
    """Append to a file, durably and whole. Raises OSError, and leaves nothing of it behind."""
    before, left = os.fstat(descriptor).st_size, memoryview(content)
    try:
        while left:  # a disk that is nearly full takes a part without an error
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)  # a part of an entry would make the next ones unreadable
        raise


def _entry(first: int, last: int) -> bytes:
    head = struct.pack(">QQ", first, last)
    return head + struct.pack(">I", zlib.crc32(head))


def _read_ranges(file: Path) -> list[tuple[int, int]]:
    """Return the ranges in a file of used blocks. Raises ConfigError if one is damaged."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    whole = len(content) - len(content) % _RANGE.size
    entries = list(_RANGE.iter_unpack(content[:whole]))
    while entries and entries[-1] == (0, 0, 0):
        del entries[-1]  # of a mark that was cut off: nothing of this entry is on the disk
    if entries and _is_damaged(*entries[-1]) and entries[-1][2] == 0:
        del entries[-1]  # the end of this one is not
    if any(_is_damaged(*entry) for entry in entries):
        raise ConfigError(
            f"{file} is damaged: it no longer says which blocks were used; "
            "deploy the program again, which takes fresh randomness"
        )
    return [(first, last) for first, last, _ in entries]


def _is_damaged(first: int, last: int, check: int) -> bool:
    return zlib.crc32(struct.pack(">QQ", first, last)) != check or last < first


class Numbers:
    """Block numbers for a dealer to deal: each is given once, also after a crash."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        self._next = self._limit = _read_limit(file)

    def take(self) -> int:
        """Return the next block number; the file says that it is taken before this returns."""
        with self._lock:
            if self._next == self._limit:
                limit = self._limit + _RESERVED
                write_durably(self._file, _entry(limit, limit))
                self._limit = limit
            self._next += 1
            return self._next - 1


def _read_limit(file: Path) -> int:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return 0
    try:
        first, last, check = _RANGE.unpack(content)
    except struct.error:
        first = last = check = -1
    if first != last or first < 0 or zlib.crc32(struct.pack(">QQ", first, last)) != check:
        raise ConfigError(
            f"{file} is damaged: it no longer says which blocks were dealt; "
            "deploy the program again, which takes fresh randomness"
        )
    return int(first)


# -- deployments ----------------------------------------------------------------------------------


class Store:
    """The folder of a role. One process has it at a time."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Take the folder. Raises ConfigError if it cannot be written, or another process has it.

        Deployments that were cut off before they were activated are removed.
        """
        self._limit, self._lock = limit, threading.Lock()
        self._deployments, self._current = folder / "deployments", folder / "current"
        try:
            for path in (folder, self._deployments, self._current):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._held = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"{error.filename} cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._held)
            raise ConfigError(
                f"{folder} is in use by another process; stop it, or give this role a folder of "
                "its own with the setting 'state'"
            ) from None
        self.folder, self.stock_key = folder, folder / "stock.key"
        self.spools = folder / "spool"
        shutil.rmtree(self.spools, ignore_errors=True)  # what a killed process left
        self.spools.mkdir(mode=0o700)
        kept = set(self.deployed().values())
        for path in self._deployments.iterdir():
            if path.name not in kept:
                shutil.rmtree(path)

    def close(self) -> None:
        """Give the folder back."""
        os.close(self._held)

    def current(self, digest: str) -> str | None:
        """Return the deployment of a program, if there is one."""
        try:
            found = (self._current / digest).read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return None
        return found if _ID.fullmatch(found) and (self._deployments / found).is_dir() else None

    def deployed(self) -> dict[str, str]:
        """Return the deployments by digest."""
        names = sorted(p.name for p in self._current.iterdir() if _DIGEST.fullmatch(p.name))
        return {name: found for name in names if (found := self.current(name)) is not None}

    def path(self, deployment: str) -> Path:
        """Return the folder of a deployment."""
        return self._deployments / deployment

    @contextlib.contextmanager
    def adding(self, deployment: str, program: Program) -> Iterator[Path]:
        """Give a folder for a new deployment's files; it becomes the deployment's at the end.

        Raises ProtocolError if the identifier was used, or if there are too many deployments.
        """
        final, part = self.path(deployment), self._deployments / f"{deployment}.part"
        with self._lock:
            others = {name for name in self.deployed() if name != program.digest()}
            if len(others) >= self._limit:
                raise ProtocolError(
                    f"{self._limit} programs are deployed, which is all that the setting "
                    "'deployments' allows; take one away with `srrun undeploy`"
                )
            if final.exists():
                raise ProtocolError("this deployment exists already")
            try:
                part.mkdir(mode=0o700)
            except FileExistsError:
                raise ProtocolError("this deployment is being made already") from None
        try:
            write_durably(part / "program.srp", dumps(program, weights=False))
            yield part
            for file in part.iterdir():
                _sync_file(file)
            sync_folder(part)
            part.rename(final)
            sync_folder(self._deployments)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def activate(self, deployment: str, digest: str) -> None:
        """Make a deployment its program's, and remove the one before."""
        with self._lock:
            before = self.current(digest)
            write_durably(self._current / digest, deployment.encode())
        if before is not None and before != deployment:
            shutil.rmtree(self.path(before), ignore_errors=True)

    def discard(self, deployment: str, digest: str) -> None:
        """Remove a deployment that was added, unless it is its program's."""
        if self.current(digest) != deployment:
            shutil.rmtree(self.path(deployment), ignore_errors=True)

    def remove(self, digest: str) -> str | None:
        """Remove the deployment of a program and return it, or None if there is none."""
        with self._lock:
            found = self.current(digest)
            (self._current / digest).unlink(missing_ok=True)
            sync_folder(self._current)
        if found is not None:
            shutil.rmtree(self.path(found), ignore_errors=True)
        return found

    def program(self, deployment: str) -> Program:
        """Return a deployment's program. Raises ProgramError if the file is damaged."""
        return load(self.path(deployment) / "program.srp")


def deployments_in(folder: Path) -> list[Path]:
    """Return the folders of the deployments in a role's folder, whoever has it.

    Raises ConfigError if this user may not read it.
    """
    current = folder / "current"
    try:
        names = {
            file.read_text(encoding="ascii", errors="replace")
            for file in (current.iterdir() if current.exists() else ())
            if _DIGEST.fullmatch(file.name)
        }
        found = (folder / "deployments" / name for name in sorted(names) if _ID.fullmatch(name))
        return [path for path in found if path.is_dir()]
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error_text(error)}") from None


def is_held(folder: Path) -> bool:
    """Whether a process of this role has the folder."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


# -- a party's files ------------------------------------------------------------------------------


def store_weights(folder: Path, program: Program, party: int, shares: Mapping[str, Ring]) -> None:
    """Write a party's weight shares into the folder of a deployment."""
    write_shares(folder / "weights.npz", program, party, shares)


def stored_weights(folder: Path, program: Program, party: int) -> dict[str, Ring]:
    """Return a party's weight shares. Raises ProgramError if the file is damaged."""
    return read_shares(folder / "weights.npz", program, party)


def claim_setup(folder: Path, seed_hash: str) -> None:
    """Write down which seed's mask B covers the weights, before anything that depends on it.

    Raises ProtocolError if it was another one: the dealer lost its state, or is another dealer.
    """
    file = folder / "setup"
    if not file.exists():
        write_durably(file, seed_hash.encode())
        return
    if file.read_text(encoding="ascii", errors="replace") != seed_hash:
        raise ProtocolError(
            "the dealer has other seeds than when the program was deployed; deploy it again"
        )


def store_opened(folder: Path, opened: Mapping[str, Ring]) -> None:
    """Write the opened weights F = W - B."""
    part = folder / "opened.npz.part"
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    arrays: dict[str, Any] = {str(number): array for number, array in enumerate(opened.values())}
    with os.fdopen(descriptor, "wb") as stream:
        np.savez(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(folder / "opened.npz")
    sync_folder(folder)


def stored_opened(folder: Path, program: Program) -> dict[str, Ring] | None:
    """Return the opened weights, or None if they are not there or damaged: then open them again."""
    names = program.opened_weights()
    try:
        with open(folder / "opened.npz", "rb") as file:
            found = read_archive(file)
        arrays = {name: found[str(number)] for number, name in enumerate(names)}
    except (OSError, KeyError, ArrayError):
        return None
    types = {name: program.constants[name].type for name in names}
    fit = all(
        array.dtype == ring_dtype(types[name].width) and array.shape == types[name].shape
        for name, array in arrays.items()
    )
    return arrays if fit else None


# -- a dealer's files -----------------------------------------------------------------------------


def store_seeds(folder: Path) -> None:
    """Draw the seeds of a deployment from the operating system and write them (0600)."""
    write_durably(folder / "seeds", secrets.token_bytes(32))


def stored_seeds(folder: Path) -> tuple[bytes, bytes]:
    """Return the seeds of party 0 and of party 1. Raises ConfigError if the file is damaged."""
    file = folder / "seeds"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; deploy the program again") from None
    if len(content) != 32:
        raise ConfigError(f"{file} is damaged; deploy the program again")
    return content[:16], content[16:]
