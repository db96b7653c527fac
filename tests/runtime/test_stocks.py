"""Stocks of several deployments at a party: none of them stops another, in time or on the disk."""

from __future__ import annotations

import io
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.dealing import send_block
from srcompile.runtime.errors import ConfigError, ProtocolError
from srcompile.runtime.services import stocks as stocks_module
from srcompile.runtime.services.client import Client, deploy
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.refill import size_in
from srcompile.runtime.services.settings import Settings
from srcompile.runtime.services.stockpile import Stockpile
from srcompile.runtime.services.stocks import Stocks
from tests.support.builds import BUILDS, compiled
from tests.support.services import POOL, Running, client, running, settings_in, wait_until
from tests.support.stocks import fill, stockpile

SMALL = BUILDS["mlp"]
OTHER = compiled(SMALL).program


def ask_other(settings: Settings) -> None:
    """Run an inference of the other program; its result is the model's."""
    want, _ = evaluate(SMALL.module, SMALL.samples[0], registry())
    with Client(OTHER.without_weights(), settings) as session:
        got = session.infer(SMALL.samples[0]).outputs["y"]
    np.testing.assert_allclose(got, want["y"], atol=0.01)


def wait_until_both_are_filled(cluster: Running, high: int) -> None:
    """Wait until each party has so many blocks of each segment of two programs."""

    def full() -> bool:
        found = [list(party.state()["stock"].values()) for party in cluster.parties]
        return all(
            len(stocks) == 2 and all(set(s["blocks"].values()) == {high} for s in stocks)
            for stocks in found
        )

    wait_until(full)


@pytest.mark.parametrize("party", [0, 1])
def test_a_damaged_deployment_does_not_stop_the_stock_of_another_program(
    tmp_path: Path, party: int
) -> None:
    settings = settings_in(tmp_path, stock_low=1, stock_high=2)
    with running(settings) as cluster:
        deploy(OTHER, settings)
        wait_until_both_are_filled(cluster, 2)
        damaged = cluster.parties[party].store.current(OTHER.digest())
    assert damaged is not None
    # given a party whose marks of one program are damaged
    marks = settings.state / f"party{party}" / "deployments" / damaged / "used"
    marks.write_bytes(b"x" * 20)
    with running(settings, deployed=False) as cluster:
        # then the other program's stock is filled again and again
        with client(settings) as session:
            for number in range(6):
                session.infer(POOL.samples[number % 5])
        # and of the damaged one is said once what is wrong
        with pytest.raises(ProtocolError, match="no longer says which blocks were used"):
            ask_other(settings)
    said = [line for line in cluster.logs["party1"].getvalue().splitlines() if damaged[:8] in line]
    assert len([line for line in said if "not filled" in line]) == 1
    assert "used is damaged" in said[0]


def test_a_deployment_that_cannot_be_loaded_is_left_out_and_tried_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, tries, now = io.StringIO(), Counter[str](), [0.0]
    stock, _ = stockpile(tmp_path / "good")

    def load(digest: str) -> Stockpile | None:
        tries[digest] += 1
        if digest == "bad":
            raise ConfigError("it is damaged")
        return stock if digest == "good" else None

    monkeypatch.setattr(stocks_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    names = {name: name for name in ("bad", "good", "without")}
    stocks = Stocks(lambda: names, load, Log("party1", stream=stream), tmp_path, 1 << 20)
    assert [list(stocks.all()) for _ in range(3)] == [["good"]] * 3
    assert (tries["bad"], tries["good"]) == (1, 3)
    # and when it is, nothing is said that was said before
    now[0] = 100.0
    assert list(stocks.all()) == ["good"]
    assert tries["bad"] == 2
    assert stream.getvalue().count("it is damaged") == 1


def test_a_stock_for_which_there_is_no_room_is_not_said_to_be_filled(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, stock_low=10_000, stock_high=10_000, stock_mib=1)
    with running(settings) as cluster:
        # given a stock that takes all it may and is still low, after two runs that fetched nothing
        last = cluster.parties[1]._refiller._turns._last
        wait_until(lambda: any(run.wait_s >= 4.0 for run in last.values()))
    said = [line for line in cluster.log().splitlines() if "filled the stock" in line]
    assert len(said) == 1
    assert "blocks=0" not in said[0]


def test_a_program_that_is_filled_for_long_does_not_keep_another_one_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = threading.Event()

    def slow(material: Any, channels: Any) -> int:
        fast.wait(0.15)  # as a large block takes
        return send_block(material, channels)

    monkeypatch.setattr("srcompile.runtime.services.dealer.send_block", slow)
    settings = settings_in(tmp_path, stock_low=1, stock_high=32, timeout=2.0)
    with running(settings) as cluster:
        # given a program of which a batch takes longer than the setting `timeout`
        wait_until(lambda: cluster.parties[0]._filling.runs > 0)
        # then another one that is deployed meanwhile is served in between
        deploy(OTHER, settings)
        ask_other(settings)
        (first,) = [
            d.stock
            for d in cluster.parties[0]._loaded.values()
            if d.stock is not None and len(d.stock.names) > 1
        ]
        assert min(first.counts()) < 32
        # and the first one is gone on with
        fast.set()
        wait_until_both_are_filled(cluster, 32)


# -- the disk -------------------------------------------------------------------------------------


def stocks_in(state: Path, most: int, low: int, *each: int) -> tuple[Stocks, list[Stockpile]]:
    """Return stocks with so many blocks of each segment, which may take `most` blocks of each."""
    found = {}
    for name, count in zip("abc", each, strict=False):
        found[name], _ = stockpile(state / "deployments" / name, low=low)
        segments = len(found[name].names)
        fill(found[name], *((block, block % segments) for block in range(count * segments)))
    log, size = Log("party1", stream=io.StringIO()), found["a"].bytes_of_each()
    stocks = Stocks(
        lambda: {name: name for name in found}, found.__getitem__, log, state, most * size
    )
    return stocks, list(found.values())


def least(stock: Stockpile) -> int:
    return min(stock.counts())


def test_a_stock_leaves_room_for_the_first_blocks_of_the_others(tmp_path: Path) -> None:
    stocks, (first, second, third) = stocks_in(tmp_path, 10, 2, 4, 1, 0)
    each = first.bytes_of_each()
    # of ten there are five, and three are for the others to come to two each
    assert stocks.room(first) == 2 * each
    # and those may take what is not kept for another one
    assert stocks.room(second) == 3 * each
    assert stocks.room(third) == 4 * each
    assert [least(stock) for stock in (first, second, third)] == [4, 1, 0]


def test_a_stock_gives_up_its_newest_blocks_for_the_first_ones_of_another(tmp_path: Path) -> None:
    stocks, (first, second) = stocks_in(tmp_path, 10, 2, 10, 0)
    assert stocks.room(first) == 0
    # given another one without blocks, there is room for two of each of its segments
    assert stocks.room(second) == 2 * second.bytes_of_each()
    assert set(first.counts()) == {8}
    assert max(block for block, _ in first.blocks()) == 8 * len(first.names) - 1
    files = {path.name for path in (tmp_path / "deployments" / "a" / "stock").iterdir()}
    assert files == {f"{block}.{segment}" for block, segment in first.blocks()}
    # and one that has its first blocks takes none of another's
    for _ in range(3):
        fill(second, *((100 + second.size() + s, s) for s in range(len(second.names))))
    assert stocks.room(second) == 0
    assert set(first.counts()) == {8}


def test_what_was_given_up_is_kept_for_the_stock_that_lacks_it(tmp_path: Path) -> None:
    stocks, (first, second) = stocks_in(tmp_path, 10, 2, 10, 0)
    stocks.room(second)
    assert stocks.room(second) == 2 * second.bytes_of_each()
    assert set(first.counts()) == {8}
    assert stocks.room(first) == 0


def test_what_a_session_holds_is_not_given_up_nor_what_is_kept(tmp_path: Path) -> None:
    stock, _ = stockpile(tmp_path)
    segments = len(stock.names)
    fill(stock, *((block, block % segments) for block in range(3 * segments)))
    held = stock.hold(0, (), 0.0)
    assert stock.give_up(0, 0) == 0
    stock.give_up(1 << 40, 1)
    assert set(stock.counts()) == {1}
    stock.give_up(1 << 40, 0)
    assert stock.blocks() == [(held, 0)]


def test_stocks_too_large_for_a_lower_limit_make_room_for_another(tmp_path: Path) -> None:
    stocks, (first, second) = stocks_in(tmp_path, 4, 1, 9, 0)
    assert stocks.room(second) == second.bytes_of_each()
    assert set(first.counts()) == {3}


def test_without_room_for_a_block_of_each_nothing_is_given_up(tmp_path: Path) -> None:
    stocks, (first, second) = stocks_in(tmp_path, 1, 2, 1, 0)
    assert stocks.room(second) == 0
    assert set(first.counts()) == {1}


def test_a_program_deployed_when_the_stock_is_full_is_served(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, stock_low=1, stock_high=10_000, stock_mib=1)
    with running(settings) as cluster, client(settings) as session:
        session.infer(POOL.samples[0])
        # given a program whose stock takes all of the disk that stocks may take
        wait_until(lambda: not cluster.parties[0]._filling.runs)
        # then another one has material, and so has the first
        deploy(OTHER, settings)
        for number in range(3):
            ask_other(settings)
            session.infer(POOL.samples[number])
    for party in ("party0", "party1"):
        assert size_in(settings.state / party) <= 1 << 20
