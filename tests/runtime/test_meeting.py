"""Visits that wait for the other side of their session, and links that break meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.services.links import Visit
from srcompile.runtime.services.meeting import Guest, Meeting
from tests.runtime.test_faults import check
from tests.runtime.test_kept_links import ask, between_roles, proxied
from tests.runtime.test_tls import plain_pair
from tests.support.proxy import Pipe, Proxy, cut
from tests.support.services import client, wait_until

SESSION = "0" * 32
SOON_S = 0.5
LONG_S = 60.0


@pytest.fixture
def visits() -> Iterator[Callable[[str], tuple[Visit, LinkChannel]]]:
    """Return what makes a visit of a role, and the visitor's end of its link."""
    made: list[LinkChannel] = []

    def visit(role: str) -> tuple[Visit, LinkChannel]:
        ends = plain_pair()
        made.extend(ends)
        return Visit(ends[1], role, role, "peer", {}), ends[0]

    yield visit
    for channel in made:
        channel.close()


def end_of(work: Callable[[], Any]) -> tuple[threading.Thread, list[Exception]]:
    """Run work on a thread; return that, and a list for what it raises."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, errors


def found(meeting: Meeting, until_s: float = LONG_S) -> Guest | None:
    """Wait for party 1, as party 0 does."""
    return meeting.wait_for(SESSION, "party1", time.monotonic() + until_s, lambda: None)


def test_a_guest_whose_link_broke_is_not_met_but_the_one_who_comes_again(
    visits: Callable[[str], tuple[Visit, LinkChannel]],
) -> None:
    # given a visit whose link has broken before anybody has met it
    meeting = Meeting()
    (first, gone), (second, _) = visits("party1"), visits("party1")
    guest = meeting.arrive(SESSION, first)
    gone.close()
    assert found(meeting, SOON_S) is None
    staying, errors = end_of(lambda: meeting.stay(guest, time.monotonic() + LONG_S, "nobody"))
    # when the visitor comes again
    again = meeting.arrive(SESSION, second)
    # then that is met, the first one's thread ends, and the second one's stays
    assert found(meeting) is again
    staying.join(10)
    assert not staying.is_alive()
    assert "party 1" in str(errors[0])
    staying, errors = end_of(lambda: meeting.stay(again, time.monotonic() + LONG_S, "nobody"))
    meeting.end(guest)
    assert found(meeting, SOON_S) is None
    assert staying.is_alive()
    meeting.end(again)
    staying.join(10)
    assert (staying.is_alive(), errors) == (False, [])


def test_who_comes_again_after_the_session_has_begun_ends_it_and_is_told_why(
    visits: Callable[[str], tuple[Visit, LinkChannel]],
) -> None:
    # given a session that has begun with a visit
    meeting = Meeting()
    (first, _), (second, _) = visits("party1"), visits("party1")
    guest = meeting.arrive(SESSION, first)
    assert found(meeting) is guest
    waiting, errors = end_of(first.channel.receive_json)
    # when the visitor comes again
    with pytest.raises(ProtocolError, match="the link of party 1 broke when its session began"):
        meeting.arrive(SESSION, second)
    # then who uses the first link waits for it no longer
    waiting.join(10)
    assert (waiting.is_alive(), len(errors), guest.came_again) == (False, 1, True)
    # and for a session that has ended, anybody may come
    meeting.end(guest)
    meeting.arrive(SESSION, second)


def test_a_pair_is_made_of_two_who_wait_and_only_once(
    visits: Callable[[str], tuple[Visit, LinkChannel]],
) -> None:
    # given a party at the dealer whose link has broken
    meeting = Meeting()
    (broken, gone), (again, _), (other, _) = visits("party0"), visits("party0"), visits("party1")
    meeting.arrive(SESSION, broken)
    gone.close()
    # when the other party comes, then there is no pair, until the first one has come again
    second = meeting.arrive(SESSION, other)
    assert meeting.pair(second, "party0") is None
    first = meeting.arrive(SESSION, again)
    assert meeting.pair(first, "party1") is second
    # and none of them is in two pairs
    assert meeting.pair(second, "party0") is None


def test_a_guest_whom_nobody_meets_is_told_so_and_one_who_leaves_is_forgotten(
    visits: Callable[[str], tuple[Visit, LinkChannel]],
) -> None:
    meeting = Meeting()
    (first, _), (second, gone) = visits("party1"), visits("party1")
    guest = meeting.arrive(SESSION, first)
    with pytest.raises(ProtocolError, match="nobody came"):
        meeting.stay(guest, time.monotonic(), "nobody came")
    guest = meeting.arrive(SESSION, second)
    gone.close()
    with pytest.raises(ProtocolError, match="party 1 left before its session began"):
        meeting.stay(guest, time.monotonic() + LONG_S, "nobody came")
    assert found(meeting, SOON_S) is None


# -- between services -----------------------------------------------------------------------------


def passed_and_cut(pipe: Pipe, record: bytes) -> None:
    """Forward the record, and close the connection behind it."""
    pipe.sink.sendall(record)
    pipe.cut()


@contextmanager
def held_back(proxy: Proxy) -> Iterator[None]:
    """Let the next one who comes through a proxy wait meanwhile."""
    may_go = threading.Event()

    def wait(pipe: Pipe, record: bytes) -> None:
        may_go.wait(LONG_S)
        pipe.sink.sendall(record)

    proxy.happens_next(wait)
    try:
        yield
    finally:
        may_go.set()


@pytest.mark.parametrize("peer", ["party0", "dealer"])
def test_a_kept_link_that_breaks_behind_the_visit_is_replaced(tmp_path: Path, peer: str) -> None:
    with proxied(tmp_path) as cluster:
        ask(cluster)
        # given a link of party 1 that breaks when its peer has heard what it comes for
        meeting = {role.role: role for role in cluster.roles}[peer]._meeting
        cluster.proxies["party1", peer].arm(passed_and_cut, back=False)
        session = client(cluster.client)
        with held_back(cluster.proxies["client", "party0"]):
            opening, errors = end_of(session.__enter__)
            # when party 1 comes again before the other side of the session has come
            wait_until(lambda: between_roles(cluster)[peer == "dealer"] == 2)
            wait_until(lambda: any(guest.waits for guest in list(meeting._guests.values())))
        # then the session is served
        opening.join(30)
        assert errors == []
        check(session)
        session.__exit__()
        # and nobody waits for another one
        wait_until(
            lambda: not any(guest for role in cluster.roles for guest in role._meeting._guests)
        )


@pytest.mark.parametrize("peer", ["party0", "dealer"])
def test_a_kept_link_that_breaks_under_the_answer_ends_the_session_and_says_so(
    tmp_path: Path, peer: str
) -> None:
    with proxied(tmp_path, timeout=LONG_S) as cluster:
        ask(cluster)
        # given a link of party 1 that breaks under its peer's answer, when the session has begun
        proxy = cluster.proxies["party1", peer]
        proxy.arm(cut, back=True)
        # then the client learns what happened, and neither role waits for long
        with pytest.raises(ProtocolError, match="the link of party 1 broke when its session began"):
            client(cluster.client).__enter__()
        assert proxy.happened()
        wait_until(lambda: cluster.running() == [0, 0, 0])
        wait_until(lambda: not any(role._meeting._guests for role in cluster.roles))
        # and the next session is served
        ask(cluster)
