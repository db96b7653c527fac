"""A role that is stopped: its sessions end, at the latest after `drain`, and all learn why."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from srcompile.runtime.channels.link import EndedError
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.party import Prepared
from srcompile.runtime.roles import LISTENING, NAMES
from srcompile.runtime.services.links import Links
from srcompile.runtime.services.session import Session
from srcompile.runtime.services.state import Journal
from tests.runtime.test_faults import check
from tests.runtime.test_kept_links import ask, proxied
from tests.runtime.test_meeting import end_of
from tests.support.proxy import stall
from tests.support.services import POOL, PROGRAM, Running, client, running, settings_in, wait_until


def role_of(cluster: Running, role: str) -> Any:
    return cluster.roles[LISTENING.index(role)]


@pytest.mark.parametrize("role", LISTENING)
def test_a_session_between_two_inferences_ends_when_a_role_stops_and_says_which(
    tmp_path: Path, role: str
) -> None:
    settings = settings_in(tmp_path, drain=60.0)
    with running(settings) as cluster:
        # given a session between two inferences
        session = client(settings).__enter__()
        check(session)
        # when a role is stopped, then it does not wait for the client
        stopping, errors = end_of(role_of(cluster, role).stop)
        stopping.join(30)
        assert (stopping.is_alive(), errors) == (False, [])
        # and the session ends at the other roles, none of which takes it for a fault of its peer
        wait_until(lambda: not any(other._visits for other in cluster.roles))
        said = [line for line in cluster.log().splitlines() if "a visit failed" in line]
        assert said
        assert [line for line in said if f"{NAMES[role]} shuts down" not in line] == []
        # and the client learns it with its next inference
        with pytest.raises(ProtocolError, match=f"{NAMES[role]} shuts down and has ended the ses"):
            session.infer(POOL.samples[0])


@pytest.mark.parametrize("role", LISTENING)
def test_an_inference_that_runs_when_a_role_stops_ends_well_and_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    settings = settings_in(tmp_path, drain=60.0)
    with running(settings) as cluster:
        # given an inference that has its material, and goes on when the role is being stopped
        stopped, begun, agreed = role_of(cluster, role), threading.Barrier(3), Session._agreed

        def held(self: Session, blocks: Sequence[Prepared], together: bool) -> bool:
            begun.wait(30)
            wait_until(lambda: stopped.stopping)
            return agreed(self, blocks, together)

        monkeypatch.setattr(Session, "_agreed", held)
        session = client(settings).__enter__()
        asking, errors = end_of(lambda: check(session))
        begun.wait(30)
        # when that is so
        stopping, _ = end_of(stopped.stop)
        # then the client has its result, and no other
        asking.join(30)
        assert (asking.is_alive(), errors) == (False, [])
        stopping.join(30)
        assert not stopping.is_alive()
        with pytest.raises(ProtocolError, match=f"{NAMES[role]} shuts down and has ended the ses"):
            session.infer(POOL.samples[0])


@pytest.mark.parametrize("stock", [0, 2])
@pytest.mark.parametrize("index", [0, 1])
def test_a_command_that_came_to_one_party_only_when_the_other_stops_uses_no_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int, stock: int
) -> None:
    marked, mark = list[int](), Journal.mark

    def noted(self: Journal, *blocks: int) -> None:
        marked.extend(blocks)
        mark(self, *blocks)

    monkeypatch.setattr(Journal, "mark", noted)
    settings = settings_in(tmp_path, drain=60.0, stock_high=stock)
    with running(settings) as cluster:
        # given a session in which the client's command has come to one party
        session = client(settings).__enter__()
        check(session)
        before = list(marked)
        assert before
        session._channels[1 - index].send_json({"command": "infer"})
        # when the other one is stopped
        stopping, _ = end_of(cluster.parties[index].stop)
        # then the session ends, and the client is told why
        with pytest.raises(ProtocolError, match=f"party {index} shuts down and has ended the ses"):
            session._answer(session._channels[1 - index])
        stopping.join(30)
        session._close("it is over")
        wait_until(lambda: not cluster.parties[1 - index].state()["sessions"])
        # and no block is used for it
        assert marked == before


@pytest.mark.parametrize("index", [0, 1])
def test_an_inference_that_outlasts_the_drain_ends_and_says_who_shuts_down(
    tmp_path: Path, index: int
) -> None:
    with proxied(tmp_path, drain=0.0, timeout=60.0) as cluster:
        ask(cluster)
        session = client(cluster.client).__enter__()
        check(session)
        # given an inference in which party 0 waits for a message of party 1, which is lost
        proxy = cluster.proxies["party1", "party0"]
        proxy.arm(stall, back=index == 1)
        asking, errors = end_of(lambda: session.infer(POOL.samples[0]))
        wait_until(proxy.happened)
        # when the party that waits is stopped
        cluster.roles[1 + index].stop()
        # then the client is told why its inference ends
        asking.join(30)
        assert f"party {index} shuts down and has ended the sessions" in str(errors[0])


@pytest.mark.parametrize("role", ["party0", "dealer"])
def test_who_waits_for_the_other_side_of_a_session_is_told_that_it_does_not_come(
    tmp_path: Path, role: str
) -> None:
    settings = settings_in(tmp_path, drain=60.0, timeout=60.0)
    with running(settings) as cluster:
        # given a party 1 that came for a session, and nobody else
        (name,) = cluster.dealer.store.deployed().values()
        fields: dict[str, Any] = {
            "session": "0" * 32,
            "deployment": name,
            "digest": PROGRAM.digest(),
        }
        links, purpose = Links("party1", settings), {"party0": "peer", "dealer": "material"}[role]
        coming, errors = end_of(lambda: links.dial(role, purpose, **fields))
        wait_until(lambda: bool(role_of(cluster, role)._meeting._guests))
        # when that role is stopped
        role_of(cluster, role).stop()
        # then party 1 is told so at once
        coming.join(30)
        assert isinstance(errors[0], EndedError)
        assert f"{NAMES[role]} shuts down" in str(errors[0])
