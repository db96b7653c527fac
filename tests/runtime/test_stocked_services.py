"""Services with a stock: blocks made ahead, agreed by number, each used once, with or without the
dealer."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.material import material_bytes
from srcompile.runtime.roles import PARTIES
from srcompile.runtime.services.client import Client, deploy
from srcompile.runtime.services.dealer import DealerService
from srcompile.runtime.services.doctor import examine
from srcompile.runtime.services.party import PartyService
from srcompile.runtime.services.refill import room_in
from srcompile.runtime.services.settings import Settings
from srcompile.runtime.services.state import Journal
from srcompile.runtime.services.vault import sealed_size
from tests.support.services import (
    POOL,
    PROGRAM,
    Running,
    client,
    free_ports,
    running,
    settings_in,
    wait_until,
)

SEGMENTS = len(PROGRAM.segments)
LOW, HIGH = 3, 5


def stocked(folder: Path, **given: Any) -> Settings:
    return settings_in(folder, **{"stock_low": LOW, "stock_high": HIGH, **given})


def files(settings: Settings, party: int) -> list[Path]:
    """Return the files of a party's stock, without the seed."""
    found = (settings.state / f"party{party}").glob("deployments/*/stock/*.*")
    return sorted(path for path in found if path.suffix != ".part")


def names(settings: Settings, party: int) -> list[str]:
    return [path.name for path in files(settings, party)]


def used(settings: Settings, party: int) -> Journal:
    """Return the marks of a party that does not run."""
    (file,) = (settings.state / f"party{party}").glob("deployments/*/used")
    return Journal(file)


def wait_until_full(cluster: Running) -> None:
    """Wait until both parties have as many blocks of each segment as they should."""

    def full() -> bool:
        stocks = [list(party.state()["stock"].values()) for party in cluster.parties]
        return all(
            len(found) == 1 and set(found[0]["blocks"].values()) == {HIGH} for found in stocks
        )

    wait_until(full)


def wait_until_settled(cluster: Running) -> None:
    """Wait until neither party is short of blocks, and nothing is fetched."""
    stocks = [d.stock for party in cluster.parties for d in party._loaded.values() if d.stock]
    wait_until(lambda: not any(stock.is_low() or stock.filling.runs for stock in stocks))


def check(session: Client, number: int = 0) -> None:
    """Run an inference of the pool; its result is the model's."""
    sample = POOL.samples[number % 5]
    want, route = evaluate(POOL.module, sample, registry())
    result = session.infer(sample)
    assert result.route == route
    np.testing.assert_allclose(result.outputs["y"], want["y"], atol=0.01)


def check_many(session: Client, count: int) -> None:
    for number in range(count):
        check(session, number)


@contextlib.contextmanager
def parties_only(settings: Settings) -> Iterator[tuple[PartyService, PartyService]]:
    """Run the parties without a dealer."""
    cluster = Running(settings)
    first, second = cluster.parties
    with first, second:
        yield first, second


def test_blocks_are_there_before_the_first_session_and_are_filled_up_again(tmp_path: Path) -> None:
    settings = stocked(tmp_path)
    with running(settings) as cluster:
        wait_until_full(cluster)
        first = names(settings, 0)
        assert len(first) == HIGH * SEGMENTS
        assert names(settings, 1) == first
        with client(settings) as session:
            check_many(session, 2 * HIGH)
        wait_until_settled(cluster)
    # then both have the same blocks, of which none is used
    again = names(settings, 0)
    assert again == names(settings, 1)
    journal = used(settings, 0)
    assert not any(int(name.split(".")[0]) in journal for name in again)


def test_sessions_go_on_without_the_dealer_until_the_stock_is_empty(tmp_path: Path) -> None:
    settings = stocked(tmp_path, timeout=5.0)
    with running(settings) as cluster:
        wait_until_full(cluster)
        cluster.dealer.stop()
        # given parties without a dealer, sessions take the blocks that are there
        with client(settings) as session:
            check_many(session, HIGH)
            # when none is left, then the error says of what, and why it was not filled
            with pytest.raises(
                ProtocolError,
                match=r"the stock of material for segment '\S+' of deployment \S+ is empty and "
                r"cannot be filled: .*the dealer cannot be reached at 127\.0\.0\.1:\d+",
            ):
                check_many(session, HIGH)
        # and when the dealer is back, so is the service
        with DealerService(settings), client(settings) as session:
            check(session)


def test_parties_that_were_restarted_need_no_dealer(tmp_path: Path) -> None:
    settings = stocked(tmp_path)
    with running(settings) as cluster:
        with client(settings) as session:
            check(session)
        wait_until_settled(cluster)
    with parties_only(settings), client(settings) as session:
        check_many(session, LOW)


def test_a_stock_that_is_too_small_is_waited_for(tmp_path: Path) -> None:
    settings = stocked(tmp_path, stock_low=1, stock_high=1)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with client(settings) as session:
                for number in range(4):
                    check(session, number)
        except BaseException as error:
            errors.append(error)

    with running(settings):
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_sessions_at_once_never_take_the_same_block(tmp_path: Path) -> None:
    settings = stocked(tmp_path)
    blocks: list[int] = []
    with running(settings) as cluster:
        begun = Client._begun

        def noted(self: Client, offers: Any) -> None:
            blocks.append(offers[0]["block"])
            begun(self, offers)

        def work() -> None:
            with client(settings) as session:
                for number in range(5):
                    check(session, number)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Client, "_begun", noted)
            threads = [threading.Thread(target=work) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        wait_until_settled(cluster)
    assert len(blocks) == 30
    assert max(Counter(blocks).values()) == 1
    assert names(settings, 0) == names(settings, 1)


def test_what_a_session_did_not_use_is_in_stock_again(tmp_path: Path) -> None:
    settings = stocked(tmp_path)
    with running(settings) as cluster:
        wait_until_full(cluster)
        before = set(names(settings, 0))
        cluster.dealer.stop()
        with client(settings) as session:
            check(session)
        wait_until(lambda: [p.state()["sessions"] for p in cluster.parties] == [0, 0])
        # one block of the first segment and one of the branch that was taken
        gone = before - set(names(settings, 0))
        assert sorted({name.split(".")[1] for name in gone})[0] == "0"
        assert len(gone) == 2
        assert names(settings, 1) == names(settings, 0)
        counts = cluster.parties[0].state()["stock"].values()
        assert [sum(found["blocks"].values()) for found in counts] == [HIGH * SEGMENTS - 2]


@pytest.mark.parametrize("party", [0, 1])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "exchanged"])
def test_a_damaged_file_costs_one_block(tmp_path: Path, party: int, damage: str) -> None:
    settings = stocked(tmp_path)
    with running(settings) as cluster:
        wait_until_full(cluster)
        cluster.dealer.stop()
        # given a first block of the first segment that is not as it was written
        first, second = [p for p in files(settings, party) if p.suffix == ".0"][:2]
        content = first.read_bytes()
        if damage == "changed":
            first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        elif damage == "cut":
            first.write_bytes(content[:-1])
        elif damage == "exchanged":
            first.write_bytes(second.read_bytes())
        else:
            first.unlink()
        # then sessions run, with the others
        with client(settings) as session:
            check_many(session, HIGH - 1)
        assert "a block of the stock is damaged and is not used" in cluster.log()
        wait_until(lambda: not [n for n in names(settings, 1 - party) if n.endswith(".0")])


@pytest.mark.parametrize("party", [0, 1])
def test_what_one_party_lost_is_removed_at_the_other(tmp_path: Path, party: int) -> None:
    settings = stocked(tmp_path)
    with running(settings) as cluster:
        wait_until_full(cluster)
    # given parties of which one lost half of its blocks
    lost = [path for path in files(settings, party) if int(path.stem) // SEGMENTS % 2]
    for path in lost:
        path.unlink()
    # then sessions run without the dealer
    with parties_only(settings), client(settings) as session:
        check(session)
    # and with the dealer both have the same again
    with running(settings, deployed=False) as cluster:
        wait_until(lambda: all(p.state()["stock"] for p in cluster.parties))
        wait_until_settled(cluster)
        assert names(settings, 0) == names(settings, 1)
        assert not {path.name for path in lost} & set(names(settings, 0))


def test_a_lost_key_costs_the_blocks_and_nothing_else(tmp_path: Path) -> None:
    settings = stocked(tmp_path)
    with running(settings) as cluster:
        wait_until_full(cluster)
    (settings.state / "party1" / "stock.key").unlink()
    with running(settings, deployed=False), client(settings) as session:
        check_many(session, HIGH)


def test_a_block_that_is_marked_is_not_in_stock_after_a_restart(tmp_path: Path) -> None:
    settings = stocked(tmp_path)
    with running(settings) as cluster:
        wait_until_full(cluster)
    # given a party that was killed between the mark of a block and the end of its file
    block = int(names(settings, 0)[0].split(".")[0])
    used(settings, 0).mark(block)
    with running(settings, deployed=False), client(settings) as session:
        check(session)
        for party in (0, 1):
            assert block not in {int(name.split(".")[0]) for name in names(settings, party)}


def test_a_party_without_a_stock_is_told_apart(tmp_path: Path) -> None:
    settings = stocked(tmp_path)
    cluster = Running(settings)
    other = PartyService(1, replace(settings, stock_high=0))
    with cluster.dealer, cluster.parties[0], other:
        deploy(PROGRAM, settings)
        with pytest.raises(ProtocolError, match="give both the same 'stock_high'"):
            client(settings).__enter__()


def test_a_deployment_replaced_takes_its_stock_along(tmp_path: Path) -> None:
    settings = stocked(tmp_path)
    with running(settings) as cluster:
        wait_until_full(cluster)
        session = client(settings).__enter__()
        check(session)
        folders = {path.parent for path in files(settings, 0)}
        deploy(PROGRAM, settings)
        with pytest.raises(ProtocolError, match="was deployed again or taken away; open another"):
            check_many(session, 2)
        wait_until(lambda: len(files(settings, 1)) == HIGH * SEGMENTS)
        assert not any(folder.exists() for folder in folders)
        with client(settings) as session:
            check(session)


def test_a_dealer_that_lost_its_seeds_fills_no_stock(tmp_path: Path) -> None:
    settings = stocked(tmp_path)
    with running(settings) as cluster:
        wait_until_full(cluster)
    (seeds,) = (settings.state / "dealer" / "deployments").glob("*/seeds")
    seeds.write_bytes(bytes(32))
    with running(settings, deployed=False), client(settings) as session:
        check_many(session, HIGH)
        with pytest.raises(ProtocolError, match="has other seeds than when the program was"):
            check_many(session, HIGH)


def test_the_stock_takes_no_more_of_the_disk_than_it_may(tmp_path: Path) -> None:
    settings = stocked(tmp_path, stock_high=10_000, stock_mib=1)
    with running(settings) as cluster, client(settings) as session:
        check(session)

        # given room for a MiB at each party, it is used up and not more
        def room(party: int) -> int:
            return room_in(settings.state / f"party{party}", 1 << 20)

        largest = [
            max(sealed_size(material_bytes(PROGRAM, k)[party]) for k in range(SEGMENTS))
            for party in (0, 1)
        ]
        wait_until(lambda: any(room(party) < largest[party] for party in (0, 1)))
        wait_until(lambda: not any(map(_active, cluster.parties)))
        for party in (0, 1):
            assert sum(path.stat().st_size for path in files(settings, party)) <= 1 << 20
        check(session)


def test_files_of_the_stock_are_the_owners_alone_and_tell_nothing(tmp_path: Path) -> None:
    settings = stocked(tmp_path)
    with running(settings) as cluster:
        wait_until_full(cluster)
        (deployment,) = cluster.dealer._loaded.values()
        for party in PARTIES:
            folder = settings.state / party
            assert {p.stat().st_mode & 0o077 for p in (folder, *folder.rglob("*"))} == {0}
            found = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
            assert all(seed not in found for seed in deployment.seeds)
        # and what the dealer sent is not there in the clear
        block, segment = map(int, names(settings, 1)[0].split("."))
        with deployment.dealer() as dealer:
            messages = list(dealer._messages(block, segment))
        sealed = files(settings, 1)[0].read_bytes()
        assert any(theirs.size >= 16 for _, theirs in messages)
        for _, theirs in messages:
            assert theirs.size < 16 or theirs.tobytes()[:16] not in sealed


def test_health_and_metrics_show_the_stock(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    settings = stocked(tmp_path)
    cluster = Running(settings)
    watched = PartyService(0, replace(settings, health_port=port))
    with watched, cluster.parties[1], cluster.dealer:
        deploy(PROGRAM, settings)
        wait_until(lambda: len(files(settings, 0)) == HIGH * SEGMENTS)
        wait_until(lambda: watched._refiller is not None and not _active(watched))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            (stock,) = json.load(answer)["stock"].values()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    size = sum(path.stat().st_size for path in files(settings, 0))
    assert stock == {
        "blocks": {segment.name: HIGH for segment in PROGRAM.segments},
        "bytes": size,
        "problem": "",
    }
    pattern = r'srcompile_stock_blocks\{role="party0",deployment="\w{8}",segment="(.+)"\} (\d+)'
    assert dict(re.findall(pattern, text)) == {s.name: str(HIGH) for s in PROGRAM.segments}
    assert re.search(rf'srcompile_stock_bytes{{role="party0",deployment="\w{{8}}"}} {size}', text)


def _active(party: PartyService) -> bool:
    return party._filling.runs > 0


def test_doctor_says_if_the_disk_is_too_small_for_the_stock(tmp_path: Path) -> None:
    settings = stocked(tmp_path)
    with running(settings) as cluster:
        wait_until_full(cluster)
        (finding,) = [f for f in examine("party0", settings) if f.what == "stock"]
        assert finding.good
        assert f"{HIGH} blocks" in finding.found
        large = replace(settings, stock_low=10_000, stock_high=10_000, stock_mib=1)
        (finding,) = [f for f in examine("party1", large) if f.what == "stock"]
        assert not finding.good
        assert "stock_mib" in finding.advice
        assert not [f for f in examine("dealer", settings) if f.what == "stock"]
