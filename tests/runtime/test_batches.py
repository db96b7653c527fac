"""Inferences of many sessions in batches: how they form, what faults do, and the limits."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.certificates import make_client_certificate
from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.client import send_inputs
from srcompile.runtime.errors import ConfigError, ProtocolError
from srcompile.runtime.lockstep import run_together
from srcompile.runtime.services import batches as module
from srcompile.runtime.services import material
from srcompile.runtime.services.batches import Batches, Limits, Member, _sessions
from srcompile.runtime.services.client import Client
from srcompile.runtime.services.memory import session_bytes
from srcompile.runtime.services.settings import Settings
from tests.support.builds import compiled
from tests.support.services import (
    POOL,
    PROGRAM,
    Running,
    certificates,
    client,
    running,
    settings_in,
    wait_until,
)

COST = compiled(POOL).cost
LONG = 60.0  # a batch that is not full does not begin within a test


def check(session: Client, number: int) -> None:
    """Run an inference of the pool; result, route, bytes and rounds are as compiled."""
    result = session.infer(POOL.samples[number])
    want, route = evaluate(POOL.module, POOL.samples[number], registry())
    assert result.route == route
    np.testing.assert_allclose(result.outputs["y"], want["y"], atol=0.01)
    total = COST.total(route)
    assert (result.online_bytes, result.rounds) == (total.online_bytes, total.rounds)


def at_once(work: Sequence[Callable[[], Any]]) -> list[BaseException | None]:
    """Run functions at the same time; return what each raised."""
    raised: list[BaseException | None] = [None] * len(work)

    def run(place: int) -> None:
        try:
            work[place]()
        except BaseException as error:
            raised[place] = error

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def together(settings: Settings, *numbers: int) -> list[BaseException | None]:
    """Open a session for each of the samples, then run all inferences at once; return errors."""
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(client(settings)) for _ in numbers]
        return at_once([partial(check, *pair) for pair in zip(sessions, numbers, strict=True)])


def without_inputs(session: Client) -> None:
    """Begin an inference and give no inputs."""
    for channel in session._channels:
        channel.send_json({"command": "infer"})
    session._begun([session._answer(channel) for channel in session._channels])


def with_inputs(session: Client) -> None:
    """Begin an inference, give its inputs, and do not wait for what comes of it."""
    without_inputs(session)
    send_inputs(PROGRAM, POOL.samples[0], session._channels, session.kernels)


def leave(session: Client) -> None:
    """Be gone without a word."""
    for channel in session._channels:
        channel.interrupt()
        channel.close()


def counts(cluster: Running) -> list[tuple[int, int]]:
    """Return how many batches and inferences each party has run."""
    return [(p.counts.batches, p.counts.inferences) for p in cluster.parties]


def test_inferences_of_several_sessions_and_routes_run_in_one_batch(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, batch=5, batch_wait=LONG)
    with running(settings) as cluster:
        assert together(settings, 0, 1, 2, 3, 4) == [None] * 5
        wait_until(lambda: counts(cluster) == [(1, 5)] * 2)
        assert together(settings, 0, 1, 2, 3, 4) == [None] * 5
    wait_until(lambda: counts(cluster) == [(2, 10)] * 2)


def test_inferences_that_come_while_a_batch_runs_are_the_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a first inference whose batch does not end before four others wait
    settings = settings_in(tmp_path, batch=8, batch_wait=0.001)
    with running(settings) as cluster:

        def held(runs: Sequence[Any], *given: Any) -> None:
            if len(runs) == 1:
                wait_until(lambda: cluster.parties[0].waiting() == 4)
            run_together(runs, *given)

        monkeypatch.setattr(module, "run_together", held)
        with contextlib.ExitStack() as stack:
            sessions = [stack.enter_context(client(settings)) for _ in range(5)]
            first = threading.Thread(target=check, args=(sessions[0], 0))
            first.start()
            wait_until(lambda: any(d.batches._running for d in cluster.parties[0]._loaded.values()))
            others = [partial(check, sessions[k], k) for k in range(1, 5)]
            assert at_once(others) == [None] * 4
            first.join()
        # then these four run together
        wait_until(lambda: counts(cluster) == [(2, 5)] * 2)


def test_a_lone_inference_needs_no_batch(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings) as cluster:
        with client(settings), client(settings) as session:
            check(session, 0)
        wait_until(lambda: counts(cluster) == [(0, 1)] * 2)


@pytest.mark.parametrize("size", [1, 3])
def test_many_sessions_go_on_for_long_with_batches_of_any_size(tmp_path: Path, size: int) -> None:
    settings = settings_in(tmp_path, batch=size, batches=2)

    def work(k: int) -> None:
        with client(settings) as session:
            for number in range(6):
                check(session, (k + number) % 5)

    with running(settings):
        assert at_once([partial(work, k) for k in range(6)]) == [None] * 6


@pytest.mark.parametrize("begin", [without_inputs, with_inputs])
def test_a_client_that_leaves_before_its_batch_begins_is_left_out(
    tmp_path: Path, begin: Callable[[Client], None]
) -> None:
    settings = settings_in(tmp_path, batch=2, batch_wait=LONG)
    with running(settings) as cluster:
        # given a client that has begun an inference, and leaves before there is a batch
        with client(settings):
            gone = client(settings).__enter__()
            begin(gone)
            leave(gone)
            wait_until(lambda: all(p.state()["sessions"] == 1 for p in cluster.parties))
        # then two others have a batch
        assert together(settings, 0, 1) == [None] * 2
        wait_until(lambda: counts(cluster) == [(1, 2)] * 2)
        assert [p.counts.failed_sessions for p in cluster.parties] == [1, 1]


def test_a_client_that_leaves_while_its_batch_runs_changes_nothing_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path, batch=3, batch_wait=LONG)
    gone: list[Client] = []

    def leaving(runs: Sequence[Any], *given: Any) -> None:
        while gone:
            leave(gone.pop())
        run_together(runs, *given)

    monkeypatch.setattr(module, "run_together", leaving)
    with running(settings) as cluster:
        # given a batch of three, one of whose clients leaves as it begins
        with client(settings) as one, client(settings) as other:
            gone.append(client(settings).__enter__())
            with_inputs(gone[0])
            assert at_once([partial(check, one, 1), partial(check, other, 2)]) == [None] * 2
        wait_until(lambda: all(not p.state()["sessions"] for p in cluster.parties))
        assert [p.counts.batches for p in cluster.parties] == [1, 1]
        assert [p.counts.failed_sessions for p in cluster.parties] == [1, 1]
        # and the next batch is as good
        assert together(settings, 0, 1, 2) == [None] * 3


def test_an_error_between_the_parties_ends_all_sessions_of_its_batch_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path, batch=3, batch_wait=LONG)
    exchange = LinkChannel.exchange
    broken: list[LinkChannel] = []
    with running(settings) as cluster, client(settings) as bystander:
        assert together(settings, 0, 1, 2) == [None] * 3

        def breaking(self: LinkChannel, data: Any, into: Any) -> None:
            if self.peer == "party 0" and not broken:
                broken.append(self)
                self.interrupt()
            exchange(self, data, into)

        # given a link between the parties that breaks in the first round of a batch
        monkeypatch.setattr(LinkChannel, "exchange", breaking)
        raised = together(settings, 0, 1, 2)
        # then each of its clients is told who and where, and gets no result
        for error in raised:
            assert isinstance(error, ProtocolError)
            assert "party 1 in round 1" in str(error) or "party 0 in round 1" in str(error)
        # and the others go on
        with client(settings) as one, client(settings) as other:
            trio = zip((bystander, one, other), range(3), strict=True)
            assert at_once([partial(check, *pair) for pair in trio]) == [None] * 3
        wait_until(lambda: counts(cluster) == [(2, 6)] * 2)


ROUNDS = COST.total(0).rounds
SLOW: dict[str, tuple[dict[str, Any], float, float]] = {  # settings, seconds a round, a pause
    "its inferences wait": ({"batch": 8, "batch_wait": 3.5}, 0.0, 0.0),
    "its batches take long": ({"batch": 8, "batch_wait": 0.001}, 3.5 / ROUNDS, 0.0),
    "its client takes long after an inference": ({"batch": 1}, 3.0 / ROUNDS, 1.0),
}


@pytest.mark.parametrize("why", SLOW)
def test_the_dealer_waits_for_a_session_as_long_as_its_parties_and_its_client_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    given, each_s, pause_s = SLOW[why]
    settings = settings_in(tmp_path, **given)
    exchange = LinkChannel.exchange

    def slow(self: LinkChannel, data: Any, into: Any) -> None:
        time.sleep(each_s if self.peer == "party 1" else 0.0)
        exchange(self, data, into)

    with running(settings) as cluster:
        with client(settings):
            pass  # the weights are opened
        monkeypatch.setattr(LinkChannel, "exchange", slow)
        # given a dealer that takes a session for dead after a silence of three seconds
        for waiting in (module, material):
            monkeypatch.setattr(waiting, "BEAT_S", 0.1)
        cluster.dealer.settings = replace(settings, idle=1.5)
        ((digest, name),) = cluster.dealer.store.deployed().items()
        cluster.dealer._deployment(name, digest).limit_s = 1.5
        with client(settings) as session:
            # when more than that lies between what two inferences ask of it
            check(session, 0)
            time.sleep(pause_s)
            # then the session goes on
            check(session, 1)


def test_an_inference_that_waits_needs_no_dealer_and_the_next_one_says_what_became_of_it(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, batch=2, batch_wait=LONG)
    with running(settings) as cluster, client(settings) as first:
        # given an inference that waits for its batch, and a dealer that ends its session meanwhile
        waiting = threading.Thread(target=check, args=(first, 0))
        waiting.start()
        wait_until(lambda: cluster.parties[0].waiting() == 1)
        (deployment,) = cluster.parties[0]._loaded.values()
        ((waits,),) = deployment.batches._queues.values()
        beat: Any = waits.beat
        for channel in list(cluster.dealer._open):
            channel.stop("the dealer is tired")
        wait_until(lambda: beat.__self__._broke is not None)
        # when there is a batch
        with client(settings) as second:
            check(second, 1)
        waiting.join()
        # then it has its result, and the next one's error says what the dealer said
        with pytest.raises(ProtocolError, match="the dealer is tired"):
            first.infer(POOL.samples[0])


def test_more_waiting_inferences_than_allowed_are_refused(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, batch=3, batch_wait=LONG, queue=2)
    with running(settings) as cluster:
        waiting = [client(settings).__enter__() for _ in range(2)]
        for session in waiting:
            with_inputs(session)
        wait_until(lambda: cluster.parties[0].waiting() == 2)
        with (
            client(settings) as third,
            pytest.raises(ProtocolError, match="2 inferences wait for this program, which is all"),
        ):
            third.infer(POOL.samples[0])
        for session in waiting:
            leave(session)


def member(session: str, whose: str) -> Member:
    """Return something to wait in a queue."""
    nothing: Any = None
    return Member(session, whose, nothing, nothing, nothing, ())


def test_clients_have_their_turns_whoever_asks_most() -> None:
    # given four inferences of one client, and then one of each of two others
    queues = Batches(0, lambda blocks: None, 1.0, Limits(2, 1, 0.0, 10))
    for session, whose in (
        ("a1", "a"),
        ("a2", "a"),
        ("a3", "a"),
        ("a4", "a"),
        ("b", "b"),
        ("c", "c"),
    ):
        queues._queues.setdefault(whose, deque()).append(member(session, whose))
    # when batches of two are taken
    taken = [[m.session for m in queues._next()] for _ in range(3)]
    # then each client has its turn before anybody has a second one
    assert taken == [["a1", "b"], ["c", "a2"], ["a3", "a4"]]
    assert queues.waiting() == 0


@pytest.mark.parametrize(
    "said", [None, "a", [], ["b"], ["a", "a"], ["a", 3], ["b", "a"], ["a", *map(str, range(1000))]]
)
def test_what_party_0_says_of_a_batch_is_checked(said: object) -> None:
    with pytest.raises(ProtocolError, match="party 0 names"):
        _sessions(said, "a")


def named(settings: Settings, folder: Path, name: str) -> Settings:
    """Return settings of a client with a name of its own."""
    if not (folder / "clients" / name).exists():
        make_client_certificate(folder, name)
    return replace(settings, certs=folder / "clients" / name)


def test_more_sessions_of_one_client_than_allowed_are_refused_and_other_clients_are_not(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, client_sessions=1)
    alice, bob = (named(settings, certificates(), name) for name in ("alice", "bob"))
    with running(settings), client(alice) as first, client(bob) as second:
        check(first, 0)
        with pytest.raises(ProtocolError, match="runs 1 sessions of alice, which is all"):
            client(alice).__enter__()
        check(second, 1)
        check(first, 2)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", "a" * 64, ".a", "ä"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a client"):
        make_client_certificate(certificates(), name)


def test_a_session_that_does_not_fit_into_memory_is_refused_until_another_ends(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path)
    size = session_bytes(PROGRAM, settings.memory << 20)
    with running(settings) as cluster:
        for party in cluster.parties:
            party.memory.limit = int(1.5 * size)
        with client(settings) as first:
            check(first, 0)
            with pytest.raises(ProtocolError, match="that the setting 'session_memory' allows"):
                client(settings).__enter__()
        wait_until(lambda: not any(party.state()["sessions"] for party in cluster.parties))
        with client(settings) as second:
            check(second, 1)
        wait_until(lambda: not any(party.state()["sessions"] for party in cluster.parties))
        assert [party.memory.taken for party in cluster.parties] == [size, size]  # it is kept
        for party in cluster.parties:
            party._free()
        assert [party.memory.taken for party in cluster.parties] == [0, 0]
