"""The blocks of a stock: each held by one session, used once, and gone with its mark."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcompile.runtime.errors import ProtocolError, RunError
from srcompile.runtime.material import material_bytes
from srcompile.runtime.services import stockpile as stockpile_module
from srcompile.runtime.services.refill import BATCH, BATCH_BYTES, Sizes, to_fetch
from srcompile.runtime.services.stockpile import Waiting
from srcompile.runtime.services.vault import sealed_size
from tests.support.services import PROGRAM
from tests.support.stocks import fill, stockpile

SIZES = [material_bytes(PROGRAM, segment) for segment in range(len(PROGRAM.segments))]


class Calls:
    """Counts how often the stock asked to be filled."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "stock").iterdir()}


def test_messages_come_back_as_the_dealer_sent_them(tmp_path: Path) -> None:
    stock, _ = stockpile(tmp_path)
    assert stock.sizes == [sizes[1] for sizes in SIZES]
    sent = [bytes([k]) * size for k, size in enumerate(stock.messages[0])]
    following = iter(sent)
    stock.write(7, 0, lambda size: next(following))
    with stock.reading(7, 0) as get:
        assert [bytes(get(len(message))) for message in sent] == sent


def test_the_lowest_block_is_held_and_nobody_else_gets_it(tmp_path: Path) -> None:
    stock, _ = stockpile(tmp_path)
    fill(stock, (9, 0), (3, 0), (5, 1))
    assert stock.hold(0, (), 0.0) == 3
    assert stock.hold(0, {9}, 0.0) is None
    assert stock.lowest(0) == 3
    assert stock.hold(0, (), 0.0) == 9
    assert stock.hold(0, (), 0.01) is None
    # a block that is given back is the lowest again
    stock.release(3)
    assert stock.hold(0, (), 0.0) == 3
    assert stock.blocks() == [(3, 0), (5, 1), (9, 0)]


def test_what_the_other_party_names_is_ready_busy_or_lacking(tmp_path: Path) -> None:
    stock, journal = stockpile(tmp_path)
    fill(stock, (3, 0), (5, 1))
    assert stock.hold_block(0, 3, 0.0) == "ready"
    assert stock.hold_block(0, 3, 0.01) == "busy"
    assert stock.hold_block(1, 3, 0.0) == "lacks"
    assert stock.hold_block(0, 5, 0.0) == "lacks"
    # and one that is given back meanwhile is waited for
    threading.Timer(0.05, stock.release, (3,)).start()
    assert stock.hold_block(0, 3, 30.0) == "ready"
    # a block that was used is not given back
    journal.mark(3)
    stock.release(3)
    assert stock.hold_block(0, 3, 0.0) == "lacks"
    assert files(tmp_path) == {"5.1"}


def test_many_takers_get_each_block_once(tmp_path: Path) -> None:
    stock, _ = stockpile(tmp_path)
    fill(stock, *((block, 0) for block in range(60)))
    taken: list[int] = []

    def take() -> None:
        while (block := stock.hold(0, (), 0.0)) is not None:
            taken.append(block)

    threads = [threading.Thread(target=take) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == Counter(range(60))


def test_a_restart_finds_what_is_whole_and_not_used(tmp_path: Path) -> None:
    stock, journal = stockpile(tmp_path)
    fill(stock, (3, 0), (4, 0), (5, 1), (6, 0))
    stock.store_seed(bytes(16))
    folder = tmp_path / "stock"
    # given a mark whose block is still there, a file that is cut off, and others that are none
    journal.mark(3)
    (folder / "4.0").write_bytes((folder / "4.0").read_bytes()[:-1])
    for name in ("7.0.part", "7", "8.99", "x"):
        (folder / name).write_bytes(b"x")
    again, _ = stockpile(tmp_path)
    assert again.blocks() == [(5, 1), (6, 0)]
    assert again.seed == bytes(16)
    assert files(tmp_path) == {"5.1", "6.0", "seed"}


def test_only_what_both_have_is_kept_unless_a_session_holds_it(tmp_path: Path) -> None:
    stock, _ = stockpile(tmp_path)
    fill(stock, (3, 0), (4, 0), (5, 1), (6, 0), (8, 0))
    assert stock.hold(0, (), 0.0) == 3
    stock.keep_only([(4, 0), (6, 1), (8, 0)])
    assert stock.blocks() == [(3, 0), (4, 0), (8, 0)]
    stock.drop_below(0, 8)
    assert stock.blocks() == [(3, 0), (8, 0)]
    assert files(tmp_path) == {"3.0", "8.0"}


def test_a_block_that_the_dealer_sent_before_is_refused(tmp_path: Path) -> None:
    stock, journal = stockpile(tmp_path)
    fill(stock, (3, 0))
    journal.mark(4)
    for block, segment in ((3, 0), (3, 1), (4, 0)):
        with pytest.raises(ProtocolError, match=f"sent block {block}, which it has sent before"):
            fill(stock, (block, segment))


def test_a_low_stock_asks_to_be_filled(tmp_path: Path) -> None:
    calls = Calls()
    stock, _ = stockpile(tmp_path, calls, low=2)
    stock.store_seed(bytes(16))
    fill(stock, *((block, block % len(SIZES)) for block in range(3 * len(SIZES))))
    assert stock.is_low()  # until the parties have compared what they have
    with stock.run():
        pass
    assert not stock.is_low()
    stock.hold(0, (), 0.0)
    assert (calls.count, stock.is_low()) == (0, False)
    stock.hold(0, (), 0.0)
    assert (calls.count, stock.is_low()) == (1, True)


def test_who_waits_is_told_why_a_later_run_failed(tmp_path: Path) -> None:
    stock, _ = stockpile(tmp_path)

    def fail(reason: str) -> None:
        with pytest.raises(RunError), stock.run():
            raise ProtocolError(reason)

    fail("an old reason")
    waiting = Waiting(stock, 60.0)
    waiting.check("nothing is there")
    fail("the dealer is gone")
    with pytest.raises(ProtocolError, match="nothing is there and cannot be filled: the dealer is"):
        waiting.check("nothing is there")
    # and after a run that went well nobody hears of it any more
    with stock.run():
        pass
    waiting.check("nothing is there")
    with pytest.raises(ProtocolError, match="was not filled within 0 s; look at the logs"):
        Waiting(stock, 0.0).check("nothing is there")


def test_who_waits_while_another_stock_is_filled_goes_on_waiting(tmp_path: Path) -> None:
    stock, _ = stockpile(tmp_path)
    waiting = Waiting(stock, 0.0)
    with stock.filling.run():
        waiting.check("nothing is there")
    with pytest.raises(ProtocolError, match="was not filled within 0 s"):
        waiting.check("nothing is there")


def test_who_waits_has_all_its_time_when_the_run_of_another_stock_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(stockpile_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    stock, _ = stockpile(tmp_path)
    waiting = Waiting(stock, 10.0)
    with stock.filling.run():
        now[0] = 130.0
    for now[0] in (130.0, 140.0):
        waiting.check("nothing is there")
    now[0] = 140.1
    with pytest.raises(ProtocolError, match="was not filled within 10 s"):
        waiting.check("nothing is there")


def test_large_blocks_are_fetched_in_small_batches() -> None:
    rooms, many = (1 << 40, 1 << 40), 100
    third = BATCH_BYTES // 6
    assert to_fetch([0, 0], many, [(third, third), (third, third)], rooms) == [0, 1, 0]
    # and at least one block is fetched at once
    assert to_fetch([0, 0], many, [(BATCH_BYTES, 0), (8, BATCH_BYTES)], rooms) == [0]


@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    rooms=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
    high=st.integers(1, 6),
)
def test_the_scarcest_is_fetched_and_all_of_it_fits(
    counts: list[int], rooms: Sizes, high: int
) -> None:
    sizes = [(100 * k, 50 * k + 10) for k in range(1, len(counts) + 1)]
    batch = to_fetch(counts, high, sizes, rooms)
    assert len(batch) <= BATCH
    for party in (0, 1):
        assert sum(sealed_size(sizes[segment][party]) for segment in batch) <= rooms[party]
    after = [count + batch.count(segment) for segment, count in enumerate(counts)]
    assert all(count <= max(high, before) for count, before in zip(after, counts, strict=True))
    # no segment gets another block while one has fewer
    for segment in set(batch):
        assert after[segment] <= min(after) + 1
