"""What a role keeps on disk: marks that survive a crash, numbers given once, whole deployments."""

from __future__ import annotations

import errno
import os
import random
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcompile.runtime.errors import ConfigError, ProtocolError
from srcompile.runtime.randomness import SETUP_BLOCK
from srcompile.runtime.services import state
from srcompile.runtime.services.ranges import Ranges
from srcompile.runtime.services.state import (
    Journal,
    Numbers,
    Store,
    _read_limit,
    _read_ranges,
    checked_digest,
    checked_id,
    claim_setup,
    new_id,
)
from tests.support.services import PROGRAM

ENTRY = 20


def test_a_block_is_marked_once_also_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "used"
    journal = Journal(file)
    for block in (0, 1, 7, 3):
        journal.mark(block)
    for same in (journal, Journal(file), Journal(file)):
        for block in (0, 1, 3, 7):
            assert block in same
            with pytest.raises(ProtocolError, match=f"block {block} is used already"):
                same.mark(block)
        assert 2 not in same


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(0, 60))
def test_marks_are_what_a_set_holds(blocks: list[int], restart: int) -> None:
    file = Path(os.environ.get("TMPDIR", "/tmp")) / f"srcompile-used-{os.getpid()}"
    file.unlink(missing_ok=True)
    journal, used = Journal(file), set[int]()
    for step, block in enumerate(blocks):
        if step == restart:
            journal = Journal(file)
        assert (block in journal) == (block in used)
        if block not in used:
            journal.mark(block)
            used.add(block)
    again = Journal(file)
    assert {b for b in range(41) if b in again} == used
    assert len(file.read_bytes()) <= ENTRY * 21  # what touches is one entry
    file.unlink()


def test_a_mark_that_does_not_fit_on_the_disk_is_none_and_the_next_ones_are_whole(
    tmp_path: Path,
) -> None:
    # given room for two marks and a half
    file = tmp_path / "used"
    journal = Journal(file)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * ENTRY + ENTRY // 2, hard))
    try:
        journal.mark(0)
        journal.mark(2)
        with pytest.raises(OSError, match="File too large"):
            journal.mark(4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    # when there is room again
    journal.mark(6)
    # then all marks that returned are there, and the block that was not marked is not used here
    again = Journal(file)
    assert [b for b in range(8) if b in again] == [0, 2, 6]
    with pytest.raises(ProtocolError, match="block 4 is used already"):
        journal.mark(4)


def test_a_file_of_marks_stays_small_while_the_role_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given room for eight entries that could be fewer
    monkeypatch.setattr(state, "_SPARE", 8)
    file = tmp_path / "used"
    journal, most = Journal(file), 0
    # when many blocks are marked, then the file says so each time, and has few entries
    for block in range(0, 300, 3):
        journal.mark(block, block + 1)
        there = Ranges(_read_ranges(file))
        assert list(there) == [(0, block + 1)]
        journal.give_up(block, block + 1, block + 2)
        most = max(most, file.stat().st_size)
    assert most <= 12 * ENTRY


@pytest.mark.parametrize("failing", ["fsync", "replace", "sync_folder"])
def test_a_file_of_marks_that_cannot_be_made_smaller_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    # given a disk that fails while the file is written anew
    monkeypatch.setattr(state, "_SPARE", 8)
    file, synced = tmp_path / "used", list[Path]()
    journal = Journal(file)
    sync_folder, write_durably = state.sync_folder, state.write_durably

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def rewritten(target: Path, content: bytes) -> None:
        with monkeypatch.context() as broken:
            where = {"fsync": os, "replace": Path, "sync_folder": state}[failing]
            broken.setattr(where, failing, fails)
            write_durably(target, content)

    def noted(folder: Path) -> None:
        synced.append(folder)
        sync_folder(folder)

    monkeypatch.setattr(state, "write_durably", rewritten)
    monkeypatch.setattr(state, "sync_folder", noted)
    # when blocks are marked, then all are there after each, and a new name is made durable before
    # the next mark returns
    for block in range(40):
        journal.mark(block)
        assert {b for b in range(41) if b in journal} == set(range(block + 1))
        there = Ranges(_read_ranges(file))
        assert all(b in there for b in range(block + 1))
    assert 1 <= len(synced) <= 40 // 8


@pytest.mark.parametrize("block", [-1, SETUP_BLOCK])
def test_a_block_that_does_not_exist_cannot_be_marked(tmp_path: Path, block: int) -> None:
    with pytest.raises(ProtocolError, match="there is no block"):
        Journal(tmp_path / "used").mark(block)


def test_the_mark_is_synchronised_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, synchronised = Journal(tmp_path / "used"), list[int]()
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synchronised.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    journal.mark(5)
    assert synchronised == [ENTRY]


@pytest.mark.parametrize("filled", [False, True], ids=["short", "zeros"])
@pytest.mark.parametrize("cut", range(1, ENTRY + 1))
def test_a_mark_that_was_cut_off_is_no_mark_and_the_others_stay(
    tmp_path: Path, cut: int, filled: bool
) -> None:
    file = tmp_path / "used"
    journal = Journal(file)
    for block in (1, 3, 5):
        journal.mark(block)
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut] + (bytes(cut) if filled and cut >= 4 else b""))
    again = Journal(file)
    assert [b for b in range(7) if b in again] == [1, 3]
    again.mark(5)
    assert 5 in Journal(file)


@pytest.mark.parametrize("there", range(0, 3 * ENTRY, 4))  # a disk writes whole words at least
def test_a_mark_of_several_blocks_that_was_cut_off_is_no_mark_of_those_that_are_not_there(
    tmp_path: Path, there: int
) -> None:
    # given a mark of a batch of which the disk has the length, and the first bytes
    file = tmp_path / "used"
    journal = Journal(file)
    journal.mark(1)
    size = len(file.read_bytes())
    journal.mark(5, 7, 9)
    whole = file.read_bytes()
    file.write_bytes(whole[: size + there] + bytes(3 * ENTRY - there))
    # then what was marked before is marked, and what is there of the batch
    again = Journal(file)
    assert [b for b in range(11) if b in again] == [1, 5, 7, 9][: 1 + there // ENTRY]
    again.mark(9)
    assert 9 in Journal(file)


def test_zeros_in_front_of_a_mark_are_damage(tmp_path: Path) -> None:
    file = tmp_path / "used"
    journal = Journal(file)
    for block in (1, 3, 5):
        journal.mark(block)
    whole = file.read_bytes()
    file.write_bytes(whole[:ENTRY] + bytes(ENTRY) + whole[2 * ENTRY :])
    with pytest.raises(ConfigError, match="damaged"):
        Journal(file)


def test_a_mark_whose_checksum_is_zero_is_a_mark(tmp_path: Path) -> None:
    # given a range whose checksum has no bits
    last = 0xF2CC0C16
    assert zlib.crc32(struct.pack(">QQ", 0, last)) == 0
    (tmp_path / "used").write_bytes(struct.pack(">QQI", 0, last, 0))
    # when it is the last one in the file, then it is not taken for one that was cut off
    assert last in Journal(tmp_path / "used")


def test_a_damaged_file_of_used_blocks_is_not_guessed_at(tmp_path: Path) -> None:
    file = tmp_path / "used"
    journal = Journal(file)
    for block in (1, 3, 5):
        journal.mark(block)
    whole = file.read_bytes()
    for position in range(3 * ENTRY):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << random.Random(position).randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match="damaged: it no longer says which blocks were used"):
            Journal(file)


def test_numbers_are_given_once_also_after_a_restart(tmp_path: Path) -> None:
    file, given_out = tmp_path / "numbers", list[int]()
    for count in (1, 100, 0, 3):
        numbers = Numbers(file)
        given_out += [numbers.take() for _ in range(count)]
    assert len(set(given_out)) == len(given_out)
    assert given_out == sorted(given_out)


def test_a_number_is_reserved_before_it_is_given(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path / "numbers")
    for _ in range(70):
        assert numbers.take() < _read_limit(tmp_path / "numbers")


@pytest.mark.parametrize("content", [b"", b"x" * ENTRY, b"1"])
def test_damaged_numbers_are_not_guessed_at(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "numbers").write_bytes(content)
    with pytest.raises(ConfigError, match="no longer says which blocks were dealt"):
        Numbers(tmp_path / "numbers")


def test_weights_are_covered_by_one_seed_for_ever(tmp_path: Path) -> None:
    claim_setup(tmp_path, "a" * 64)
    claim_setup(tmp_path, "a" * 64)
    with pytest.raises(ProtocolError, match="has other seeds than when the program was deployed"):
        claim_setup(tmp_path, "b" * 64)


def test_a_deployment_that_was_cut_off_leaves_the_one_before(tmp_path: Path) -> None:
    program, digest = PROGRAM.for_parties(), PROGRAM.digest()
    store, first, second = Store(tmp_path, 3), new_id(), new_id()
    with store.adding(first, program):
        pass
    store.activate(first, digest)
    with pytest.raises(KeyError), store.adding(second, program):
        raise KeyError
    with store.adding(second, program):  # complete, but never activated
        pass
    store.close()
    again = Store(tmp_path, 3)
    assert again.current(digest) == first
    assert [p.name for p in (tmp_path / "deployments").iterdir()] == [first]
    assert again.program(first).digest() == digest
    with (
        pytest.raises(ProtocolError, match="exists already"),
        again.adding(first, program),
    ):
        pass
    again.close()


def test_a_store_has_one_holder(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", 3)
    assert state.is_held(tmp_path / "s")
    with pytest.raises(ConfigError, match="is in use by another process"):
        Store(tmp_path / "s", 3)
    store.close()
    assert not state.is_held(tmp_path / "s")
    Store(tmp_path / "s", 3).close()


@pytest.mark.parametrize("wrong", ["", "../x", "A" * 32, "a" * 33, None, 3, "a" * 31 + "/"])
def test_what_becomes_part_of_a_path_is_checked(wrong: object) -> None:
    with pytest.raises(ProtocolError, match="no identifier"):
        checked_id(wrong)
    with pytest.raises(ProtocolError, match="no digest"):
        checked_digest(wrong)
    assert checked_id("0" * 32) == "0" * 32
    assert checked_digest("f" * 64) == "f" * 64


MARKS = """
import sys
from pathlib import Path
from srcompile.runtime.services import state
state._SPARE = int(sys.argv[2])
journal = state.Journal(Path(sys.argv[1]))
for block in range(100000):
    journal.mark(block)
    sys.stdout.write(f"{block}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("spare", [3, 1 << 12])
def test_what_was_marked_before_a_kill_is_marked_after_it(tmp_path: Path, spare: int) -> None:
    # given a process that says each block after marking it, and is killed in between
    process = subprocess.Popen(
        [sys.executable, "-c", MARKS, str(tmp_path / "used"), str(spare)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as said:
        lines = [said.readline() for _ in range(50)]
        process.kill()
        lines += said.readlines()
    process.wait()
    # then all that it said are marked
    told = [int(line) for line in lines if line.endswith("\n")]
    journal = Journal(tmp_path / "used")
    assert len(told) >= 50
    assert all(block in journal for block in told)
