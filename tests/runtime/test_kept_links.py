"""Links between roles that are kept for the next session, and what may happen to them meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.services import links as links_module
from srcompile.runtime.services.client import deploy
from srcompile.runtime.services.links import PROTOCOL, Links
from srcompile.runtime.services.service import Service
from tests.runtime.test_faults import Proxied, check
from tests.support.services import PROGRAM, client, running, settings_in, wait_until


@contextmanager
def proxied(folder: Path, **given: Any) -> Iterator[Proxied]:
    """Run a cluster with proxies and the pool deployed."""
    settings = settings_in(folder, **given)
    found = Proxied(settings)
    for role in found.roles:
        role.start()
    deploy(PROGRAM, settings)
    try:
        yield found
    finally:
        for role in found.roles:
            role.stop()
        for proxy in found.proxies.values():
            proxy.close()


def between_roles(cluster: Proxied) -> list[int]:
    """Return how many connections party 1 has made to party 0 and to the dealer."""
    return [cluster.proxies["party1", peer].connections for peer in ("party0", "dealer")]


def resting(roles: tuple[Service, ...]) -> list[int]:
    """Return on how many links each role waits for the next visit."""
    return [len(role._resting) for role in roles]


def free(roles: tuple[Service, ...]) -> list[int]:
    """Return how many kept links each role may take for the next session."""
    kept = [[k for ks in role._links._kept.values() for k in ks] for role in roles]
    return [sum(k.channel.has_something() for k in links) for links in kept]


def ask(cluster: Proxied) -> None:
    """Run a session, and wait until its links are at rest."""
    with client(cluster.client) as session:
        check(session)
    wait_until(lambda: free(cluster.roles) == [0, 1, 2])


def test_sessions_one_after_the_other_share_links_between_the_roles(tmp_path: Path) -> None:
    with proxied(tmp_path) as cluster:
        for _ in range(4):
            ask(cluster)
        assert between_roles(cluster) == [1, 1]


def test_links_are_not_kept_if_the_setting_says_so(tmp_path: Path) -> None:
    with proxied(tmp_path, keep_links=0) as cluster:
        for number in range(1, 4):
            with client(cluster.client) as session:
                check(session)
            assert between_roles(cluster) == [number, number]
        assert resting(cluster.roles) == [0, 0, 0]


def test_sessions_at_the_same_time_have_links_of_their_own(tmp_path: Path) -> None:
    with proxied(tmp_path) as cluster:
        ask(cluster)
        with client(cluster.client) as first, client(cluster.client) as second:
            check(first)
            check(second)
        assert between_roles(cluster) == [2, 2]


def test_a_kept_link_that_broke_is_replaced(tmp_path: Path) -> None:
    with proxied(tmp_path) as cluster:
        ask(cluster)
        for proxy in cluster.proxies.values():
            proxy.cut_all()
        ask(cluster)
        assert between_roles(cluster) == [2, 2]


def test_a_session_that_failed_leaves_no_link_behind(tmp_path: Path) -> None:
    with proxied(tmp_path) as cluster:
        session = client(cluster.client).__enter__()
        check(session)
        session._close("this one ends with an error")
        wait_until(lambda: cluster.running() == [0, 0, 0])
        wait_until(lambda: not any(role._open for role in cluster.roles))
        assert resting(cluster.roles) == [0, 0, 0]
        ask(cluster)
        assert between_roles(cluster) == [2, 2]


def test_kept_links_are_closed_after_a_while(tmp_path: Path) -> None:
    with proxied(tmp_path, keep_links=0.2) as cluster:
        with client(cluster.client) as session:
            check(session)
        wait_until(lambda: not any(any(role._links._kept.values()) for role in cluster.roles))
        wait_until(lambda: not any(role._open for role in cluster.roles))
        with client(cluster.client) as session:
            check(session)


DAY_S = 86400.0
LATER = {  # by how much each clock goes on, and for how long a link may live by the settings
    "its age": (DAY_S / 2, 0.0, {"keep_links": DAY_S, "link_age": DAY_S / 2}),
    "its certificates": (0.0, 400 * DAY_S, {"keep_links": DAY_S, "link_age": DAY_S}),
    "nothing": (DAY_S / 2, DAY_S / 2, {"keep_links": DAY_S, "link_age": DAY_S}),
}


@pytest.mark.parametrize("ended_by", LATER)
def test_a_kept_link_gets_no_session_beyond_its_age_and_its_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    seconds, date, given = LATER[ended_by]
    with proxied(tmp_path, **given) as cluster:
        ask(cluster)
        # given links at rest that a busy cluster would still take, and some time later
        clock = SimpleNamespace(
            monotonic=lambda: time.monotonic() + seconds, time=lambda: time.time() + date
        )
        monkeypatch.setattr(links_module, "time", clock)
        # when there is another session
        with client(cluster.client) as session:
            check(session)
        # then it has new links, with handshakes of their own, if one of the ends has come
        made = 1 if ended_by == "nothing" else 2
        assert between_roles(cluster) == [made, made]


def test_a_link_that_only_the_visited_role_finds_too_old_is_replaced(tmp_path: Path) -> None:
    with proxied(tmp_path) as cluster:
        # given a dealer and a party 0 with another age for links than party 1
        for role in cluster.roles[:2]:
            role._links.settings = replace(role.settings, link_age=0.0)
        # when there are sessions one after the other
        for number in range(1, 4):
            with client(cluster.client) as session:
                check(session)
            # then each has links of its own, and no error
            assert between_roles(cluster) == [number, number]


def test_a_role_that_is_started_again_is_come_to_again(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings) as cluster:
        with client(settings) as session:
            check(session)
        # given a dealer that was started again while links to it were kept
        cluster.dealer.stop()
        with running_again(cluster.dealer), client(settings) as session:
            check(session)


@contextmanager
def running_again(service: Service) -> Iterator[None]:
    """Run a new service with the role and the settings of one that was stopped."""
    from srcompile.runtime.services.dealer import DealerService

    with DealerService(service.settings, service.log):
        yield


def test_a_role_that_stops_does_not_wait_for_links_at_rest(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, drain=3600.0)
    with running(settings), client(settings) as session:
        check(session)


def test_who_comes_on_a_kept_link_is_the_one_who_came_before(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings) as cluster:
        with client(settings) as session:
            check(session)
        wait_until(lambda: free(cluster.roles) == [0, 1, 2])
        # given a link of party 1 to party 0, on which it says that it is the model owner
        channel = cluster.parties[1]._links._taken("party0")
        assert channel is not None
        channel.send_json({"protocol": PROTOCOL, "role": "owner", "purpose": "deploy"})
        channel.wait_at_most(10)
        with pytest.raises(ProtocolError, match="showed the certificate of party 1"):
            channel.receive_json()
        channel.close()


def test_a_client_that_party_0_refuses_does_not_keep_a_session_of_party_1(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, sessions=2, client_sessions=0, timeout=60.0)
    with running(settings) as cluster:
        # given a client that came to party 1, and not to party 0
        links = Links("client", settings)
        fields: dict[str, Any] = {"session": "0" * 32, "digest": PROGRAM.digest()}
        channel, _ = links.dial("party1", "infer", **fields)
        wait_until(lambda: cluster.parties[1].state()["sessions"] == 1)
        # when it leaves
        channel.fail("party 0 has no room")
        # then neither party waits for it any longer
        wait_until(lambda: cluster.parties[1].state()["sessions"] == 0)
        wait_until(lambda: not any(role._visits for role in cluster.roles))
