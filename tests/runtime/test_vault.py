"""Sealed files: read as they were written, by who has the key, and never something else."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from srcompile.runtime.errors import SpoolError
from srcompile.runtime.services.vault import FRAME, KEY, SALT, TAG, DamagedError, Vault, sealed_size


def content(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "key")


def write(vault: Vault, file: Path, data: bytes, name: str = "a", step: int = 1 << 17) -> None:
    with vault.writing(file, name, len(data)) as put:
        for start in range(0, len(data), step):
            put(data[start : start + step])


def read(vault: Vault, file: Path, size: int, name: str = "a", step: int = 1 << 17) -> bytes:
    with vault.reading(file, name, size) as get:
        return b"".join(get(min(step, size - start)) for start in range(0, size, step))


@pytest.mark.parametrize("step", [1000, FRAME, 3 * FRAME])
@pytest.mark.parametrize("size", [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 3 * FRAME + 5])
def test_a_file_is_read_as_it_was_written(
    vault: Vault, tmp_path: Path, size: int, step: int
) -> None:
    data, file = content(size), tmp_path / "file"
    write(vault, file, data, step=step)
    assert read(vault, file, size, step=777) == data
    assert file.stat().st_size == sealed_size(size)
    # and by another process that has the key
    assert read(Vault(tmp_path / "key"), file, size) == data


def test_key_and_files_are_the_owners_alone_and_tell_nothing(vault: Vault, tmp_path: Path) -> None:
    data = b"a secret value of sixteen bytes " * 100
    for name in ("one", "two"):
        write(vault, tmp_path / name, data)
    files = [tmp_path / name for name in ("key", "one", "two")]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    sealed = [file.read_bytes() for file in files[1:]]
    assert all(b"secret" not in file for file in sealed)
    # and the same bytes, under the same name, look different each time
    assert sealed[0][SALT:] != sealed[1][SALT:]


SIZE = 3 * FRAME
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit": lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
    "the salt": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "its end cut off": lambda data: data[:-1],
    "a frame cut off": lambda data: data[: SALT + FRAME + TAG],
    "all cut off": lambda data: b"",
    "a byte more": lambda data: data + b"x",
    "frames exchanged": lambda data: (
        data[:SALT]
        + data[SALT + FRAME + TAG : SALT + 2 * (FRAME + TAG)]
        + data[SALT : SALT + FRAME + TAG]
        + data[SALT + 2 * (FRAME + TAG) :]
    ),
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_was_changed_is_found_out(
    change: Callable[[bytes], bytes], vault: Vault, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    write(vault, file, content(SIZE))
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DamagedError, match="is not as it was written"):
        read(vault, file, SIZE)


def test_a_file_under_another_name_or_key_is_found_out(vault: Vault, tmp_path: Path) -> None:
    file = tmp_path / "file"
    write(vault, file, content(100))
    with pytest.raises(DamagedError, match="is not as it was written"):
        read(vault, file, 100, name="b")
    with pytest.raises(DamagedError, match="is not as it was written"):
        read(Vault(tmp_path / "another"), file, 100)
    with pytest.raises(DamagedError, match="cannot be read: No such file"):
        read(vault, tmp_path / "none", 100)


@pytest.mark.parametrize("damaged", [b"", bytes(KEY - 1), bytes(KEY + 1)])
def test_a_key_that_is_none_is_replaced(damaged: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(damaged)
    vault = Vault(tmp_path / "key")
    write(vault, tmp_path / "file", content(100))
    assert len((tmp_path / "key").read_bytes()) == KEY
    assert read(Vault(tmp_path / "key"), tmp_path / "file", 100) == content(100)


def test_what_is_not_written_to_its_end_leaves_nothing(vault: Vault, tmp_path: Path) -> None:
    with vault.writing(tmp_path / "file", "a", 2 * FRAME) as put:
        put(content(FRAME + 1))
        assert {path.name for path in tmp_path.iterdir()} == {"key", "file.part"}
        put(content(FRAME - 1))
    (tmp_path / "file").unlink()
    with pytest.raises(ZeroDivisionError), vault.writing(tmp_path / "file", "a", FRAME):
        1 / 0  # noqa: B018
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_disk_that_takes_no_more_is_an_error_and_leaves_nothing(
    vault: Vault, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * FRAME, hard))
    try:
        with pytest.raises(SpoolError, match=r"cannot be written to: .*; free disk space, or"):
            write(vault, tmp_path / "file", content(SIZE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
