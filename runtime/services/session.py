"""A client's session at one party: inferences one after the other, in processes and in services.

For each inference the session gets material, agrees on it with the peer, has it written down that a
block is used, gives the client its shares of the masks, takes the inputs, runs, and reports.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from srcompile.runtime.channels.tcp import TcpChannel, list_json
from srcompile.runtime.dealing import Offline
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.lockstep import Mark
from srcompile.runtime.material import rounds_of
from srcompile.runtime.party import PEERS, Inference, Party, Prepared
from srcompile.runtime.program import Program
from srcompile.runtime.progress import Progress, Ticker
from srcompile.runtime.services.material import Source
from srcompile.runtime.usage import peak_memory

Observe = Callable[[int], None]
Beat = Callable[[], None]
"""Lets the dealer know that a session still runs."""


class Runner(Protocol):
    """Runs inferences, alone or together with those of other sessions."""

    def inference(self) -> AbstractContextManager[bool]:
        """Give, while an inference lasts, whether it runs together with others; party 0 decides.

        Raises ProtocolError if it is one too many now.
        """

    def run(
        self, shared: Prepared, branches: Sequence[Prepared], observe: Observe, together: bool
    ) -> Inference:
        """Take the client's inputs, masked with the block `shared`, and return the inference.

        Raises ProtocolError, naming the peer and the round.
        """


@dataclass(frozen=True)
class Alone:
    """Runs each inference by itself; `beat` is called in each round."""

    party: Party
    mark: Mark
    beat: Beat = lambda: None

    def inference(self) -> AbstractContextManager[bool]:
        """Give False."""
        return nullcontext(False)

    def run(
        self, shared: Prepared, branches: Sequence[Prepared], observe: Observe, together: bool
    ) -> Inference:
        """Take the inputs and run an inference."""

        def observed(done: int) -> None:
            self.beat()
            observe(done)

        return self.party.infer(shared, branches, observed, self.mark)


def route_segments(program: Program) -> list[int]:
    """Return the segments of a program's routes, in their order."""
    routed = [(s.route, k) for k, s in enumerate(program.segments) if s.route is not None]
    return [segment for _, segment in sorted(routed)]


@dataclass
class Session:
    """One client's inferences. `mark` writes down that blocks are used, before anything that
    depends on them is sent; `count` is told of each inference that has ended well,
    and how many seconds it took from the masks to the end of its rounds."""

    party: Party
    client: TcpChannel
    peer: TcpChannel
    material: Source
    runner: Runner
    mark: Mark
    count: Callable[[Inference, Offline, float], None]
    wait_for_client: Callable[[bool], None]  # True for a command, which may take long to come
    tell: Callable[[str, int, int], None]

    def __post_init__(self) -> None:
        self.routed = route_segments(self.party.program)
        self.rounds = rounds_of(self.party.program)

    def serve(self, setup_bytes: int, **said: Any) -> None:
        """Do what the client says until it says stop."""
        self.party.attach(self.peer, self.client)
        self.client.send_json(
            {"setup_bytes": setup_bytes, "kernels": self.party.kernels.name, **said}
        )
        try:
            while self._asked():
                self._infer()
        finally:
            self.material.close()
        self.material.stop()

    def _asked(self) -> bool:
        self.wait_for_client(True)
        command = self.client.receive_json().get("command")
        self.wait_for_client(False)
        if command not in ("infer", "stop"):
            raise ProtocolError("the client asked for something that a session does not do")
        return bool(command == "infer")

    def _infer(self) -> None:
        """Run one inference.

        Material for branches is there before: until the route is revealed nobody knows which runs.
        """
        with self.runner.inference() as together:
            self._run(together)

    def _run(self, together: bool) -> None:
        offline = self.material.begin([*self.routed, 0])
        branches = [self.material.take(segment, offline) for segment in self.routed]
        shared = self.material.take(0, offline)
        together = self._agreed([shared, *branches], together)
        self.mark([shared.block])
        self.client.send_json({"block": shared.block})
        began = time.perf_counter()
        self.party.send_input_masks(shared)
        run = self.runner.run(shared, branches, self._observed, together)
        seconds = time.perf_counter() - began
        self.material.finish()
        for route, branch in enumerate(branches):
            if route != run.route:
                self.material.give_back(branch)
        self.client.send_json(inference_report(run) | offline.report() | {"memory": peak_memory()})
        self.party.send_outputs(run)
        self.count(run, offline, seconds)

    def _observed(self, done: int) -> None:
        self.tell("online", done, self.rounds)

    def _agreed(self, blocks: Sequence[Prepared], together: bool) -> bool:
        """Compare the numbers of the blocks with the peer's; return whether to run together."""
        mine = {"blocks": [[b.block, b.segment] for b in blocks], "together": together}
        self.peer.send_json(mine)
        theirs = self.peer.receive_json(list_json(len(blocks)))
        if theirs.get("blocks") != mine["blocks"]:
            raise ProtocolError(f"{PEERS[self.party.index]} has other blocks from the dealer")
        return together if self.party.index == 0 else theirs.get("together") is True


def told(party: int, client: TcpChannel) -> Callable[[str, int, int], None]:
    """Return what lets the client know how far its inference is; party 0 speaks for both."""
    if party != 0:
        return lambda phase, done, total: None

    def send(progress: Progress) -> None:
        client.send_json({"progress": [progress.phase, progress.done, progress.total]})

    return Ticker(send).tell


def inference_report(run: Inference) -> dict[str, Any]:
    """Return what a party tells the client of an inference."""
    return {
        "route": run.route,
        "rounds": run.counters.rounds,
        "online": [[segment, index, n] for (segment, index), n in run.counters.online.items()],
    }
