"""Inferences of many sessions together: which wait, which run, and how the parties agree on it.

A session comes here when it has its material, its marks and the client's inputs, so that nothing
in a batch waits for a client. Party 0 leads:

1. Party 1 says `ready` on the session's link when it has all that, too; then the session waits at
   party 0, in the queue of its client.
2. When a batch may begin, party 0 takes inferences from the queues, one of each client in turn. The
   first one's session leads: on its link party 0 says which sessions are in the batch, in order,
   party 1 answers which of them it has, and the rounds of all run there (`runtime.lockstep`).
3. The other sessions are told to `join`. Each gets its outcome and serves its own client.

A session that ends before its batch begins is left out. What a client does afterwards changes
nothing for the others; an error between the parties ends all sessions of the batch.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.dealing import BEAT_S
from srcompile.runtime.errors import ProtocolError, RunError
from srcompile.runtime.lockstep import Mark, run_together
from srcompile.runtime.party import PEERS, Inference, Party, Prepared, Running
from srcompile.runtime.services.session import Alone, Beat

MOST = 1000  # sessions in a batch

Observe = Callable[[int], None]


@dataclass
class Member:
    """An inference whose inputs are there. Its session's thread waits for `wake`."""

    session: str
    client: str
    party: Party
    peer: LinkChannel
    shared: Prepared
    branches: Sequence[Prepared]
    beat: Beat = lambda: None  # for its own thread only
    since: float = field(default_factory=time.monotonic)
    wake: threading.Event = field(default_factory=threading.Event)
    link: threading.Lock = field(default_factory=threading.Lock)  # who says something to the peer
    joined: bool = False
    lead: tuple[Member, ...] = ()  # the batch that its thread is to run
    rounds: int = 0  # so far
    _inference: Inference | None = None
    _error: BaseException | None = None

    def start(self) -> Running:
        """Return its run."""
        return self.party.start(self.shared, self.branches, self._count)

    def end(self, inference: Inference) -> None:
        """Let its session have the result."""
        self._inference = inference
        self.wake.set()

    def fail(self, error: BaseException) -> None:
        """Let its session end with an error."""
        self._error = error
        self.wake.set()

    def outcome(self) -> Inference:
        """Return the result. Raises what ended the batch."""
        if isinstance(self._error, RunError):  # each thread raises one of its own
            raise type(self._error)(str(self._error)) from None
        if self._error is not None:
            raise self._error
        assert self._inference is not None
        return self._inference

    def _count(self, rounds: int) -> None:
        self.rounds = rounds
        if self.lead:
            self.beat()


@dataclass(frozen=True)
class Limits:
    """How large batches are, how many run at once, and how long one waits to become larger."""

    size: int
    at_once: int
    wait_s: float
    queue: int


class Batches:
    """The batches of one deployment at one party.

    `silence_s` is how long the peer may be silent in one inference; `count` is called for each
    batch that has ended well.
    """

    def __init__(
        self,
        index: int,
        mark: Mark,
        silence_s: float,
        limits: Limits,
        count: Callable[[], None] = lambda: None,
    ) -> None:
        self._index, self._mark, self._silence_s, self.limits = index, mark, silence_s, limits
        self._batch_ended = count
        self._lock = threading.Lock()
        self._queues: dict[str, deque[Member]] = {}  # party 0's, by client; the next one first
        self._running = self._coming = 0
        self._ready: dict[str, Member] = {}  # party 1's, by session

    def admit(self) -> None:
        """Raise ProtocolError if party 0 has as many waiting inferences as are allowed."""
        waiting = self.waiting()
        if waiting >= self.limits.queue:
            raise ProtocolError(
                f"{waiting} inferences wait for this program, which is all that the setting "
                "'queue' allows; try again later"
            )

    @contextlib.contextmanager
    def coming(self) -> Iterator[bool]:
        """Count an inference while it lasts; give whether it should wait for a batch.

        One that is alone need not, unless inferences are to wait for others.
        """
        with self._lock:
            self._coming += 1
            several = self._coming > 1 or self.limits.wait_s > 0
        try:
            yield several
        finally:
            with self._lock:
                self._coming -= 1

    def waiting(self) -> int:
        """Return how many inferences wait for their batch."""
        with self._lock:
            return sum(map(len, self._queues.values()))

    def run(self, member: Member, observe: Observe) -> Inference:
        """Return an inference, when it has run in a batch.

        `observe` is called from time to time with the rounds so far. Raises ProtocolError, naming
        the peer and the round, if the batch fails, and what `observe` raises before it begins.
        """
        if self._index == 0:
            return self._queued(member, observe)
        return self._followed(member)

    # -- party 0

    def _queued(self, member: Member, observe: Observe) -> Inference:
        if _word(member.peer) != {"ready": True}:
            raise ProtocolError("party 1 is not ready for this inference")
        with self._lock:
            self._queues.setdefault(member.client, deque()).append(member)
            self._begin_batches()
        wait_s = min(self.limits.wait_s or BEAT_S, BEAT_S)
        while not member.wake.wait(wait_s):
            wait_s = BEAT_S
            with self._lock:
                self._begin_batches()
            member.beat()
            try:
                observe(member.rounds)
                with member.link:
                    if not member.joined:
                        member.peer.send_json({"wait": True})
            except ProtocolError:
                if self._left(member):
                    raise
        if member.lead:
            self._lead(member.lead)
        return member.outcome()

    def _begin_batches(self) -> None:
        """Give batches to their leaders, as long as another one may run. The lock is held."""
        while self._running < self.limits.at_once and self._due():
            batch = self._next()
            self._running += 1
            batch[0].lead = batch
            batch[0].wake.set()

    def _due(self) -> bool:
        """Whether there is a batch that need not wait any longer."""
        waiting = [member for queue in self._queues.values() for member in queue]
        if not waiting:
            return False
        oldest = min(member.since for member in waiting)
        late = time.monotonic() >= oldest + self.limits.wait_s
        return late or len(waiting) >= self.limits.size

    def _next(self) -> tuple[Member, ...]:
        """Take a batch from the queues: one inference of each client in turn."""
        batch: list[Member] = []
        while self._queues and len(batch) < self.limits.size:
            client = next(iter(self._queues))
            queue = self._queues.pop(client)
            batch.append(queue.popleft())
            if queue:
                self._queues[client] = queue  # it is the last one now
        return tuple(batch)

    def _left(self, member: Member) -> bool:
        """Take a member out of its queue; return whether no batch has it."""
        with self._lock:
            queue = self._queues.get(member.client, deque())
            if member not in queue:
                return False
            queue.remove(member)
            if not queue:
                del self._queues[member.client]
            return True

    def _lead(self, batch: tuple[Member, ...]) -> None:
        """Run a batch with party 1, and give each member its outcome."""
        try:
            present = self._present(batch)
        except BaseException as error:
            batch[0].fail(error)
            with self._lock:  # nothing has begun: another one may lead the others
                for member in reversed(batch[1:]):
                    self._queues.setdefault(member.client, deque()).appendleft(member)
                self._running -= 1
                self._begin_batches()
            return
        try:
            self._run(present)
        finally:
            with self._lock:
                self._running -= 1
                self._begin_batches()

    def _present(self, batch: tuple[Member, ...]) -> list[Member]:
        """Tell party 1 who is in a batch, and return those that it has, too."""
        leader = batch[0]
        leader.peer.send_json({"lead": [member.session for member in batch]})
        if len(batch) == 1:
            return [leader]
        have = _word(leader.peer).get("have")
        if not isinstance(have, list) or len(have) != len(batch) or have[0] is not True:
            raise ProtocolError("party 1 does not say who is in the batch")
        present = []
        for member, found in zip(batch, have, strict=True):
            if found is not True:
                member.fail(ProtocolError("party 1 has ended this session"))
                continue
            present.append(member)
            with member.link, contextlib.suppress(ProtocolError):
                member.joined = True
                if member is not leader:
                    member.peer.send_json({"join": True})
        return present

    # -- party 1

    def _followed(self, member: Member) -> Inference:
        with self._lock:
            self._ready[member.session] = member
        try:
            member.peer.send_json({"ready": True})
            word = _word(member.peer)
            lead = word.get("lead")
            if lead is not None:
                self._follow(member, _sessions(lead, member.session))
                return member.outcome()
            with self._lock:
                if word != {"join": True} or member.session in self._ready:
                    raise ProtocolError("party 0 says nothing about a batch")
        except BaseException:
            with self._lock:
                free = self._ready.pop(member.session, None) is not None
            if not free:
                member.wake.wait()  # its batch runs, with what belongs to this session
            raise
        member.wake.wait()
        return member.outcome()

    def _follow(self, leader: Member, sessions: Sequence[str]) -> None:
        """Run the batch that party 0 says. Raises ProtocolError if another one has its leader."""
        with self._lock:
            if leader.session not in self._ready:
                raise ProtocolError("party 0 says that this session is in two batches")
            found = [self._ready.pop(session, None) for session in sessions]
        batch = [member for member in found if member is not None]
        try:
            if len(sessions) > 1:
                leader.peer.send_json({"have": [member is not None for member in found]})
        except BaseException as error:
            for member in batch:
                member.fail(error)
            return
        self._run(batch)

    # -- both

    def _run(self, batch: Sequence[Member]) -> None:
        """Run a batch over its first member's link, and give each member its outcome."""
        leader, count = batch[0], len(batch)
        runs: list[Running] = []
        try:
            leader.peer.wait_at_most(count * self._silence_s)
            runs += [member.start() for member in batch]
            run_together(runs, leader.peer, PEERS[self._index], self._mark)
        except BaseException as error:
            for member in batch:
                member.fail(error)
            if not isinstance(error, RunError):
                raise
        else:
            leader.peer.wait_at_most(self._silence_s)
            self._batch_ended()
            for member, run in zip(batch, runs, strict=True):
                member.end(run.inference())


def _word(peer: LinkChannel) -> dict[str, Any]:
    """Return the next thing that the peer says, but for that an inference still waits."""
    while (word := peer.receive_json()) == {"wait": True}:
        pass
    return word


def _sessions(said: object, leader: str) -> list[str]:
    """Return the sessions of a batch that party 0 named. Raises ProtocolError if they are none."""
    if not isinstance(said, list) or not all(isinstance(session, str) for session in said):
        raise ProtocolError("party 0 names no sessions")
    if len(said) > MOST or len(set(said)) != len(said) or said[:1] != [leader]:
        raise ProtocolError("party 0 names sessions that make no batch")
    return said


@dataclass(frozen=True)
class Together:
    """Runs the inferences of one session in batches with those of others, if there are others."""

    batches: Batches
    session: str
    client: str
    party: Party
    peer: LinkChannel
    mark: Mark
    beat: Beat

    @contextlib.contextmanager
    def inference(self) -> Iterator[bool]:
        """Give, while an inference lasts, whether there are others.

        Raises ProtocolError if too many wait.
        """
        self.batches.admit()
        with self.batches.coming() as several:
            yield several

    def run(
        self, shared: Prepared, branches: Sequence[Prepared], observe: Observe, together: bool
    ) -> Inference:
        """Take the inputs and run an inference."""
        if not together:
            return Alone(self.party, self.mark, self.beat).run(shared, branches, observe, together)
        self.party.receive_inputs(shared)
        member = Member(
            self.session, self.client, self.party, self.peer, shared, branches, self.beat
        )
        return self.batches.run(member, observe)
