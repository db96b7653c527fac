"""Records on disk: private, encrypted, read once, and never something else than was written."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from srcompile.runtime.errors import SpoolError
from srcompile.runtime.gates import Bytes
from srcompile.runtime.spool import FRAME, Spool


def parts(*sizes: int) -> list[Bytes]:
    rng = np.random.default_rng(sum(sizes))
    return [rng.integers(0, 256, size, np.uint8) for size in sizes]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.mark.parametrize("sizes", [(1, 0, 64, 65), (FRAME,), (FRAME - 64, 3 * FRAME + 7)])
def test_a_record_is_read_as_it_was_written_and_removed(
    sizes: tuple[int, ...], spool: Spool, tmp_path: Path
) -> None:
    given = parts(*sizes)
    record = spool.write(given)
    found = spool.take(record)
    assert [p.tobytes() for p in found] == [p.tobytes() for p in given]
    assert list((tmp_path / "spool").iterdir()) == []
    with pytest.raises(SpoolError, match="cannot be read: No such file"):
        spool.take(record)


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0)])
def test_a_record_without_bytes_takes_no_file(
    sizes: tuple[int, ...], spool: Spool, tmp_path: Path
) -> None:
    record = spool.write(parts(*sizes))
    assert list((tmp_path / "spool").iterdir()) == []
    assert [len(p) for p in spool.take(record)] == list(sizes)


def test_only_the_owner_can_read_files_and_folder_and_they_tell_nothing(
    spool: Spool, tmp_path: Path
) -> None:
    text = np.frombuffer(b"a secret value of sixteen bytes " * 100, np.uint8)
    spool.write([text])
    folder = tmp_path / "spool"
    (file,) = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"secret" not in file.read_bytes()
    # and the same bytes look different each time
    spool.write([text])
    assert len({f.read_bytes() for f in folder.iterdir()}) == 2


def _flip(data: bytes) -> bytes:
    return data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]


def _swap_frames(data: bytes) -> bytes:
    size = FRAME + 16
    return data[size : 2 * size] + data[:size] + data[2 * size :]


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit": _flip,
    "its end cut off": lambda data: data[:-1],
    "a frame cut off": lambda data: data[: FRAME + 16],
    "all cut off": lambda data: b"",
    "a byte more": lambda data: data + b"x",
    "frames exchanged": _swap_frames,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_was_changed_is_found_out(
    change: Callable[[bytes], bytes], spool: Spool, tmp_path: Path
) -> None:
    record = spool.write(parts(3 * FRAME))
    (file,) = (tmp_path / "spool").iterdir()
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(SpoolError, match="is not as it was written"):
        spool.take(record)
    assert not file.exists()


def test_a_record_in_the_place_of_another_is_found_out(spool: Spool, tmp_path: Path) -> None:
    records = [spool.write(parts(100)), spool.write(parts(100))]
    files = sorted((tmp_path / "spool").iterdir())
    files[0].replace(files[1])
    with pytest.raises(SpoolError, match="is not as it was written"):
        spool.take(records[1])


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="file/spool cannot be made: Not a directory; give one"):
        Spool(tmp_path / "file" / "spool")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file of more than `size` bytes, as if the disk was full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_an_error_and_nothing_is_left(
    spool: Spool, tmp_path: Path
) -> None:
    with largest_file(2 * FRAME), pytest.raises(SpoolError, match="spool cannot be written to: "):
        spool.write(parts(3 * FRAME))
    assert list((tmp_path / "spool").iterdir()) == []
    assert spool.take(spool.write(parts(5)))[0].size == 5
