"""Shelves: every chunk once, in any order, within the budget, and no one waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from srcompile.runtime.engine import Env
from srcompile.runtime.errors import ProtocolError, SpoolError
from srcompile.runtime.gates import Bytes
from srcompile.runtime.isa import RingType
from srcompile.runtime.program import Constant
from srcompile.runtime.spool import Spool
from srcompile.runtime.stock import Shelf, Stock, default_memory
from tests.support.builds import BUILDS, compiled

COUNT, SIZE = 12, 100


def finish(number: int, record: Sequence[Bytes]) -> Env:
    return {f"%{number}": record[0].copy()}


def record(number: int) -> list[Bytes]:
    return [np.full(SIZE, number, np.uint8)]


def a_shelf(stock: Stock, order: Sequence[int] = range(COUNT), waits: bool = False) -> Shelf:
    return Shelf(stock, finish, [SIZE] * COUNT, order, waits)


@pytest.mark.parametrize("memory", [0, 350, 10 * SIZE * COUNT])
@pytest.mark.parametrize("order", [range(COUNT), range(COUNT)[::-1]], ids=["forth", "back"])
def test_chunks_come_back_once_and_what_does_not_fit_was_on_disk(
    memory: int, order: Sequence[int], tmp_path: Path
) -> None:
    # given a shelf that is full
    stock = Stock(memory, Spool(tmp_path))
    shelf = a_shelf(stock, order)
    for number in range(COUNT):
        shelf.put(number, record(number))
    in_memory = min(COUNT, memory // SIZE)
    assert len(list(tmp_path.iterdir())) == COUNT - in_memory
    # when all is taken, then it is what was put there
    for number in order:
        values = shelf.take(number)
        assert values.keys() == {f"%{number}"}
        assert values[f"%{number}"].tolist() == [number] * SIZE
    # and neither memory nor disk is used any more
    shelf.close()
    assert stock.used == 0
    assert list(tmp_path.iterdir()) == []


def test_a_shelf_that_is_closed_leaves_nothing(tmp_path: Path) -> None:
    stock = Stock(350, Spool(tmp_path))
    shelf = a_shelf(stock)
    for number in range(COUNT):
        shelf.put(number, record(number))
    shelf.take(0)
    shelf.close()
    assert stock.used == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("order", [range(COUNT), range(COUNT)[::-1]], ids=["forth", "back"])
def test_who_puts_waits_for_who_takes_unless_that_one_waits(order: Sequence[int]) -> None:
    # given a shelf that waits, and one that puts chunks there
    stock = Stock(350)
    shelf = a_shelf(stock, order, waits=True)
    most = []

    def put() -> None:
        for number in range(COUNT):
            shelf.put(number, record(number))
            most.append(stock.used)

    thread = threading.Thread(target=put)
    thread.start()
    # when another takes them in any order, then both come to their end
    for number in order:
        assert shelf.take(number).keys() == {f"%{number}"}
    thread.join()
    # and in the order of dealing the budget held
    if order == range(COUNT):
        assert max(most) <= 350
    assert stock.used == 0


@pytest.mark.parametrize("waits", [True, False])
def test_who_takes_is_told_if_nothing_will_come(waits: bool) -> None:
    shelf = a_shelf(Stock(), waits=waits)
    thread = threading.Thread(target=shelf.fail, args=(ProtocolError("the dealer is gone"),))
    thread.start()
    with pytest.raises(ProtocolError, match="the dealer is gone"):
        shelf.take(0)
    thread.join()


def test_who_takes_is_told_if_a_file_was_changed(tmp_path: Path) -> None:
    # given a shelf on disk, with a file that somebody has changed
    shelf = a_shelf(Stock(0, Spool(tmp_path)))
    for number in range(COUNT):
        shelf.put(number, record(number))
    (tmp_path / "record-5").write_bytes(b"something else")
    # when chunks are taken, then those before it come, and its own place is an error
    for number in range(5):
        shelf.take(number)
    with pytest.raises(SpoolError, match="is not as it was written"):
        shelf.take(5)
    shelf.close()
    assert list(tmp_path.iterdir()) == []


def test_material_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    shelf = a_shelf(Stock(0, Spool(folder)))
    folder.rmdir()
    with pytest.raises(SpoolError, match="cannot be written to: No such file or directory"):
        shelf.put(0, record(0))


@pytest.mark.parametrize(
    ("weights", "width", "expected"),
    [(1 << 20, 32, 640 << 20), (200 << 20, 32, (2 << 30) - (1600 << 20)), (1 << 30, 33, 256 << 20)],
)
def test_large_weights_leave_less_memory_for_material(
    weights: int, width: int, expected: int
) -> None:
    program = compiled(BUILDS["mlp"]).program
    large = {"@w": Constant(RingType("share", width, (weights,)))}
    assert default_memory(replace(program, constants=large)) == expected


@pytest.mark.parametrize("memory", [0, 10 * SIZE * COUNT])
def test_what_comes_after_the_end_is_forgotten(memory: int, tmp_path: Path) -> None:
    stock = Stock(memory, Spool(tmp_path))
    shelf = a_shelf(stock, waits=True)
    shelf.put(0, record(0))
    shelf.close()
    shelf.put(1, record(1))
    assert stock.used == 0
    assert list(tmp_path.iterdir()) == []
