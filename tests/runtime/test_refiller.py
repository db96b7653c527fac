"""Which stock party 1's thread fills next, and when it waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from srcompile.runtime.services.refiller import Turns
from srcompile.runtime.services.stockpile import Stockpile
from tests.support.services import PROGRAM
from tests.support.stocks import fill, stockpile

SEGMENTS = len(PROGRAM.segments)


def stock_of(folder: Path, each: int, low: int = 2) -> Stockpile:
    """Return a stock with so many blocks of each segment, which nobody asks to be filled."""
    stock, _ = stockpile(folder, low=low, high=8)
    stock.store_seed(bytes(16))
    fill(stock, *((block, block % SEGMENTS) for block in range(each * SEGMENTS)))
    with stock.run():
        pass
    return stock


def test_a_full_stock_that_was_compared_is_looked_at_once_a_second(tmp_path: Path) -> None:
    stock, turns = stock_of(tmp_path, 8), Turns()
    stock.call()  # as after a start
    assert turns.next({"a": stock}, 0.0) == "a"
    with stock.run():
        pass
    turns.ended("a", stock, 1.0, 0)
    for now in (1.0, 3.5, 60.0, 1000.0):
        assert turns.next({"a": stock}, now) is None
        assert turns.wait_s({"a": stock}, now) == 1.0


def test_a_stock_for_which_there_is_no_room_is_tried_again_ever_later(tmp_path: Path) -> None:
    stocks, turns, now, runs = {"a": stock_of(tmp_path, 1)}, Turns(), 0.0, list[float]()
    while now < 400:
        if turns.next(stocks, now):
            runs.append(now)
            turns.ended("a", stocks["a"], now, 0)
        now += turns.wait_s(stocks, now)
    assert runs == pytest.approx([0, 2, 6, 14, 30, 62, 122, 182, 242, 302, 362])


def test_a_stock_has_a_turn_when_a_block_was_used_since_there_was_no_room(tmp_path: Path) -> None:
    stock, journal = stockpile(tmp_path, low=3)
    stock.store_seed(bytes(16))
    fill(stock, *((block, block % SEGMENTS) for block in range(2 * SEGMENTS)))
    with stock.run():
        pass
    turns = Turns()
    for now in (0.0, 10.0, 30.0):
        turns.ended("a", stock, now, 0)
    # given a block that a session holds, which makes no room
    block = stock.hold(0, (), 0.0)
    assert block is not None
    assert turns.next({"a": stock}, 31.0) is None
    # when it is used, then there is room
    journal.mark(block)
    stock.release(block)
    assert turns.next({"a": stock}, 31.0) == "a"


def test_who_asks_for_a_run_waits_two_seconds_at_most(tmp_path: Path) -> None:
    stock, turns = stock_of(tmp_path, 1), Turns()
    for _ in range(10):
        turns.ended("a", stock, 100.0, 0)
    assert turns.next({"a": stock}, 102.0) is None
    stock.call()
    assert turns.next({"a": stock}, 101.9) is None
    assert turns.next({"a": stock}, 102.0) == "a"


def test_a_run_that_failed_is_tried_again_within_two_seconds(tmp_path: Path) -> None:
    stocks, turns, now, runs = {"a": stock_of(tmp_path, 1)}, Turns(), 0.0, list[float]()
    while now < 8:
        if turns.next(stocks, now):
            runs.append(now)
            turns.ended("a", stocks["a"], now, None)
        now += turns.wait_s(stocks, now)
    assert runs == pytest.approx([0, 0.2, 0.6, 1.4, 3.0, 5.0, 7.0])
    # and one that fetched something is gone on with at once
    turns.ended("a", stocks["a"], 8.0, 4)
    assert turns.next(stocks, 8.0) == "a"


def test_the_emptiest_stock_is_filled_first_and_before_it_one_that_is_asked_for(
    tmp_path: Path,
) -> None:
    turns = Turns()
    stocks = {
        name: stock_of(tmp_path / name, each, low=3)
        for name, each in zip("abcd", (1, 0, 2, 0), strict=True)
    }
    assert turns.next(stocks, 0.0) == "b"
    stocks["d"].call()
    assert turns.next(stocks, 0.0) == "d"
    # among equals it is the one whose last run ended first
    stocks["b"].call()
    turns.ended("b", stocks["b"], 0.0, 1)
    assert turns.next(stocks, 1.0) == "d"
    turns.ended("d", stocks["d"], 1.0, 1)
    assert turns.next(stocks, 1.0) == "b"
    # and one that failed does not keep the others waiting
    turns.ended("b", stocks["b"], 2.0, None)
    turns.ended("d", stocks["d"], 2.0, None)
    assert turns.next(stocks, 2.0) == "a"


def test_a_run_ends_early_for_a_lower_stock_and_is_gone_on_with_afterwards(tmp_path: Path) -> None:
    turns = Turns()
    stocks = {"a": stock_of(tmp_path / "a", 4), "b": stock_of(tmp_path / "b", 3)}
    # given a stock that is neither low nor full, its run goes on while no other is low
    assert turns.goes_on("a", stocks, 0.0)
    low = stocks | {"c": stock_of(tmp_path / "c", 1)}
    assert not turns.goes_on("a", low, 0.0)
    turns.ended("a", low["a"], 0.0, 16, early=True)
    assert turns.next(low, 0.0) == "c"
    # when the other one is low no more, then it has another turn, though it is not low
    assert turns.next(stocks, 0.0) == "a"
    turns.ended("a", stocks["a"], 1.0, 16)
    assert turns.next(stocks, 1.0) is None


def test_a_run_goes_on_while_a_lower_stock_cannot_be_filled(tmp_path: Path) -> None:
    turns = Turns()
    stocks = {"a": stock_of(tmp_path / "a", 4), "b": stock_of(tmp_path / "b", 0)}
    turns.ended("b", stocks["b"], 0.0, None)
    assert turns.goes_on("a", stocks, 0.1)
    assert not turns.goes_on("a", stocks, 0.2)


def test_a_run_ends_when_its_program_was_deployed_again(tmp_path: Path) -> None:
    assert not Turns().goes_on("a", {"b": stock_of(tmp_path, 4)}, 0.0)
