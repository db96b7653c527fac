"""Sessions that begin at once use one copy of the weights, at each party and at the dealer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srcompile.runtime.dealer import Dealer
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.services import dealer as dealer_module
from srcompile.runtime.services import party as party_module
from srcompile.runtime.services.settings import Settings
from srcompile.runtime.services.state import stored_weights
from tests.support.services import POOL, Running, client, running, settings_in

SESSIONS = 4


def together(work: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that begins, for each role, when as many threads as sessions are there."""
    lock, barriers = threading.Lock(), dict[int, threading.Barrier]()

    def begin(self: Any, *given: Any) -> Any:
        with lock:
            barrier = barriers.setdefault(id(self), threading.Barrier(SESSIONS))
        barrier.wait(30)
        return work(self, *given)

    return begin


def run_sessions(settings: Settings) -> None:
    """Run sessions at once, each with an inference."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with client(settings) as session:
                session.infer(POOL.samples[0])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def idle(cluster: Running) -> list[list[Any]]:
    """Return the objects that both parties and the dealer keep, when no session uses them."""
    end = time.monotonic() + 30
    while any(role.state()["sessions"] for role in cluster.roles):
        assert time.monotonic() < end
        time.sleep(0.01)
    parties = [d._idle for party in cluster.parties for d in party._loaded.values()]
    return [*parties, *(d._idle for d in cluster.dealer._loaded.values())]


@pytest.mark.parametrize("opened", [False, True], ids=["first", "restarted"])
def test_parties_keep_one_copy_of_the_weights_of_sessions_that_begin_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    settings, reads = settings_in(tmp_path), Counter[int]()
    if opened:
        with running(settings):
            run_sessions(settings)
    load = party_module._Deployment._load

    def counted(folder: Path, program: Any, party: int) -> Any:
        reads[party] += 1
        time.sleep(0.1)  # as a large file takes
        return stored_weights(folder, program, party)

    monkeypatch.setattr("srcompile.runtime.services.party.stored_weights", counted)
    monkeypatch.setattr(party_module._Deployment, "_load", together(load))
    with running(settings, deployed=not opened) as cluster:
        run_sessions(settings)
        kept = idle(cluster)[:2]
    assert [len(found) for found in kept] == [SESSIONS, SESSIONS]
    for found in kept:
        assert len({id(ready.party._shares) for ready in found}) == 1
        assert len({id(ready.party._opened) for ready in found}) == 1
    # once they are opened, they are not even in memory more than once for a moment
    if opened:
        assert reads == {0: 1, 1: 1}


def test_opened_weights_that_are_lost_while_a_session_begins_end_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    with running(settings), client(settings):
        pass
    load = party_module._Deployment._load

    def without(self: Any, party: Any, both: bool) -> None:
        if both:
            (self.folder / "opened.npz").unlink(missing_ok=True)
        load(self, party, both)

    with running(settings, deployed=False):
        # given a party whose file is gone after it told the other one that it has it
        monkeypatch.setattr(party_module._Deployment, "_load", without)
        with pytest.raises(ProtocolError, match="lost its opened weights"):
            client(settings).__enter__()
        # then the next session opens them again
        monkeypatch.setattr(party_module._Deployment, "_load", load)
        with client(settings) as session:
            session.infer(POOL.samples[0])
            assert min(session.setup_bytes) > 0


def test_the_dealer_keeps_one_copy_of_the_masks_of_sessions_that_begin_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Dealer):
        def __init__(self, *given: Any) -> None:
            time.sleep(0.1)  # as the masks of a large model take
            super().__init__(*given)

    deal = dealer_module._Deployment.dealer
    monkeypatch.setattr("srcompile.runtime.services.dealer.Dealer", Slow)
    monkeypatch.setattr(dealer_module._Deployment, "dealer", together(deal))
    settings = settings_in(tmp_path)
    with running(settings) as cluster:
        run_sessions(settings)
        dealers = idle(cluster)[2]
    assert len(dealers) == SESSIONS
    assert len({id(dealer._weight_masks) for dealer in dealers}) == 1
