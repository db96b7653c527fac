"""Visits to roles: how many there may be, what they may say, and what happens without room."""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from srcompile.runtime.channels import tls as tls_module
from srcompile.runtime.channels.tcp import HEADER, SHORT_JSON, list_json
from srcompile.runtime.client import report_bytes
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.services import links as links_module
from srcompile.runtime.services.dealer import DealerService
from srcompile.runtime.services.entrance import ADDRESS, CLIENT, Entrance, network
from srcompile.runtime.services.links import PROTOCOL, Links
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.settings import MOST_STOCK, Settings
from tests.runtime.test_batches import named
from tests.runtime.test_faults import check
from tests.support.services import (
    PROGRAM,
    Processes,
    certificates,
    client,
    free_ports,
    running,
    settings_in,
    wait_until,
)


def status(settings: Settings, who: str = "owner") -> None:
    """Ask the dealer for its state."""
    channel, answer = Links(who, settings).dial("dealer", "status")
    channel.close()
    assert answer["role"] == "dealer"


# -- no room in the system ------------------------------------------------------------------------


def test_a_role_without_free_descriptors_goes_on_when_there_are_some(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    processes = Processes(tmp_path, settings)
    try:
        processes.start("dealer")
        # given a dealer that may open few files more, and more connections than that
        pid = processes.processes["dealer"].pid
        few = len(os.listdir(f"/proc/{pid}/fd")) + 5
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, before[1]))
        place = (settings.dealer.host, settings.dealer.port)
        connections = [socket.create_connection(place) for _ in range(20)]
        wait_until(lambda: "cannot take visits now" in processes.log("dealer"))
        # when they are gone, then it serves whoever comes
        for connection in connections:
            connection.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        status(settings)
        # and has said once what the matter was
        (said,) = [line for line in processes.log("dealer").splitlines() if "cannot take" in line]
        assert "Too many open files" in said
    finally:
        processes.stop()
    assert "Traceback" not in processes.log("dealer")


def test_a_role_that_can_start_no_thread_goes_on_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path, insecure=True, timeout=5.0)
    start, full = threading.Thread.start, [True]
    with DealerService(settings, Log("dealer", "error")) as dealer:

        def refused(thread: threading.Thread) -> None:
            if full[0] and getattr(thread, "_target", None) == dealer._visit:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refused)
        # given a visit for which there is no thread, which ends
        with pytest.raises(ProtocolError, match=r"the connection|closed"):
            status(settings)
        assert (dealer.counts.refused_visits, len(dealer._visits)) == (1, 0)
        # when there is one again, then the next visit is served
        full[0] = False
        status(settings)


def test_a_role_that_takes_no_visits_any_more_says_so_in_its_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    settings = settings_in(tmp_path, insecure=True, health_port=port)
    # given a role whose thread for visits has ended
    monkeypatch.setattr(DealerService, "_accept", lambda self: None)
    with DealerService(settings, Log("dealer", "error")) as dealer:
        dealer._acceptor.join()
        # when its health is asked for, then it is not well
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
        with caught.value as answer:
            assert (answer.status, json.load(answer)["listening"]) == (503, False)


# -- what they may say ----------------------------------------------------------------------------

LONG = {"text": "x" * SHORT_JSON}


def greeting(**fields: Any) -> dict[str, Any]:
    """Return the first words of a client that asks for a status."""
    return {"protocol": PROTOCOL, "role": "client", "purpose": "status", **fields}


@pytest.mark.parametrize("insecure", [False, True])
def test_a_visitor_whose_first_words_are_long_is_told_so_before_they_are_read(
    tmp_path: Path, insecure: bool
) -> None:
    settings = settings_in(tmp_path, insecure=insecure)
    with DealerService(settings, Log("dealer", "error")):
        # given a client whose first words would take much memory
        channel = Links("client", settings)._connected("dealer")
        channel.send_json(greeting(**LONG))
        # when it waits for an answer, then it is refused
        with pytest.raises(ProtocolError, match=f"where at most {SHORT_JSON} were expected"):
            channel.receive_json()
        channel.close()


def test_a_client_whose_command_is_long_ends_its_session(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings) as cluster:
        session = client(settings).__enter__()
        session._channels[1].send_json({"command": "infer", **LONG})
        with pytest.raises(ProtocolError, match=f"where at most {SHORT_JSON} were expected"):
            session._channels[1].receive_json()
        session._close("it is of no use")
        wait_until(lambda: not any(role._visits for role in cluster.roles))


@pytest.mark.parametrize("count", [0, 1000])
def test_a_list_that_is_expected_fits_into_what_a_message_may_take(count: int) -> None:
    most = 1 << 64
    listed = {"blocks": [[most, most, most >> 8]] * count}
    assert len(json.dumps(listed)) <= list_json(count)


def test_all_blocks_of_a_full_stock_are_listed_in_one_message() -> None:
    numbers = [[(1 << 64) - 1, 99]] * MOST_STOCK
    assert len(json.dumps({"blocks": numbers, "room": 1 << 60})) <= list_json(MOST_STOCK)


def test_a_report_of_an_inference_fits_into_what_is_expected_of_it() -> None:
    online = [[segment, 1 << 20, 1 << 40] for segment, _ in PROGRAM.instructions("online")]
    offline = [[segment, 1 << 40] for segment in range(len(PROGRAM.segments))]
    report = {"online": online, "offline": offline, "memory": 1 << 40}
    assert len(json.dumps(report)) <= report_bytes(PROGRAM)


# -- how many there may be ------------------------------------------------------------------------

FEW = 17  # places that each one has beside a single session


@pytest.mark.parametrize("insecure", [False, True])
def test_who_says_its_first_words_bit_by_bit_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, insecure: bool
) -> None:
    # given a client of which something comes now and then, and never all of it
    monkeypatch.setattr(links_module, "HANDSHAKE_S", 1.0)
    settings = settings_in(tmp_path, insecure=insecure)
    with DealerService(settings, Log("dealer", "error")) as dealer:
        channel = Links("client", settings)._connected("dealer")
        channel._socket.send(HEADER.pack(0, 1000))

        def ended() -> bool:
            channel._socket.send(b"{")
            return channel.has_something(0.2)

        # when its time is over, then it is told so, and its place is free
        wait_until(ended)
        with pytest.raises(ProtocolError, match="took too long to say what it wants"):
            channel.receive_json()
        channel.close()
        wait_until(lambda: not dealer._visits)
    assert not dealer._entrance._each


def test_a_client_that_takes_all_its_places_takes_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "HANDSHAKE_S", 60.0)
    settings = settings_in(tmp_path, sessions=1)
    mallory, alice = (named(settings, certificates(), name) for name in ("mallory", "alice"))
    with running(settings) as cluster:
        entrance = cluster.parties[0]._entrance
        # given a client with many connections on which it says nothing
        silent = [Links("client", mallory)._connected("party0") for _ in range(FEW)]
        wait_until(lambda: entrance._each == {(CLIENT, "mallory"): FEW})
        # when it comes once more, then it is refused and told why
        with pytest.raises(ProtocolError, match=f"party 0 has {FEW} visits of mallory that are"):
            Links("client", mallory).dial("party0", "status")
        # and others are served
        Links("dealer", settings).dial("party0", "status")[0].close()
        with client(alice) as session:
            check(session)
        # and when its connections are gone, so is it
        for channel in silent:
            channel.close()
        wait_until(lambda: not entrance._each[CLIENT, "mallory"])
        with client(mallory) as session:
            check(session)


def test_sessions_take_no_places_of_their_client(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings) as cluster, client(settings) as session:
        check(session)
        assert [party._entrance._all[CLIENT] for party in cluster.parties] == [0, 0]


def test_an_address_that_takes_all_its_places_takes_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_module, "HANDSHAKE_S", 60.0)
    settings = settings_in(tmp_path, sessions=1)
    place = (settings.dealer.host, settings.dealer.port)
    with DealerService(settings, Log("dealer", "error")) as dealer:
        # given an address from which many come, and do not say who they are
        strangers = [socket.create_connection(place) for _ in range(FEW)]
        wait_until(lambda: dealer._entrance._each == {(ADDRESS, "127.0.0.1"): FEW})
        # when one more comes from there, then it is turned away, and from elsewhere it is served
        with pytest.raises(ProtocolError):
            status(settings)
        links = Links("owner", settings)
        connection = socket.create_connection(place, source_address=("127.0.0.2", 0))
        channel = links._outgoing(connection, "dealer")
        assert links._asked(channel, "dealer", "status", {}, lambda channel: None)["role"]
        channel.close()
        for stranger in strangers:
            stranger.close()
        wait_until(lambda: not dealer._visits)
        status(settings)


def test_places_are_counted_for_each_one_and_in_all() -> None:
    # given a role with two sessions
    entrance, (each, all_) = Entrance("party0", 2), (18, 68)
    # when there are many clients, each with some visits, then there is an end
    places = []
    for number in range(all_):
        places.append(entrance.enter(f"10.0.0.{number}"))
        places[-1].known("client", f"client {number // each}")
    late = entrance.enter("10.0.1.1")
    with pytest.raises(ProtocolError, match=f"party 0 has {all_} visits that are not admitted"):
        late.known("client", "another")
    # and another role has a place nevertheless, as long as it has not too many
    late.known("party1", "party 1")
    # and whose place is free may be followed by another
    places[0].leave()
    entrance.enter("10.0.1.1").known("client", "another")
    # and in the end nothing is left
    for place in (*places, late):
        place.leave()
        place.leave()
    assert (entrance._each, entrance._all[CLIENT]) == ({(CLIENT, "another"): 1}, 1)


def test_an_address_of_ipv6_counts_by_its_network() -> None:
    assert network("2001:db8:1:2::1") == network("2001:db8:1:2:ffff::9") != network("2001:db8::1")
    assert network("fe80::1%eth0") == network("fe80::2")
    assert network("10.0.0.1") == "10.0.0.1"
