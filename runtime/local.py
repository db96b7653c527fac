"""Everything in one process: dealer, parties on threads, client. For tests and tries."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from srcompile.runtime.channels.local import LocalChannel, local_pair
from srcompile.runtime.client import (
    Array,
    Shares,
    one_inference,
    receive_outputs,
    send_inputs,
    share_weights,
)
from srcompile.runtime.dealer import Dealer
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.material import material_bytes, rounds_of
from srcompile.runtime.openings import Counters
from srcompile.runtime.party import Inference, Party, Prepared
from srcompile.runtime.program import Program
from srcompile.runtime.progress import Ticker, Watch
from srcompile.runtime.randomness import Randomness, Seeded
from srcompile.runtime.stock import Stock

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """One inference: outputs by name, the route taken, and both parties' counters."""

    outputs: dict[str, Array]
    route: int | None
    counters: tuple[Counters, Counters]


@dataclass
class Offline:
    """Bytes the dealer sent to each party, by segment: (blocks, to P0, to P1)."""

    blocks: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def add(self, segment: int, sizes: tuple[int, int]) -> None:
        """Count one block."""
        count, first, second = self.blocks.get(segment, (0, 0, 0))
        self.blocks[segment] = (count + 1, first + sizes[0], second + sizes[1])


class LocalSession:
    """Runs inferences of a program with both parties on threads of this process."""

    def __init__(
        self,
        program: Program,
        kernels: Kernels,
        shares: Shares | None = None,
        sources: tuple[Randomness, Randomness] | None = None,
        peers: tuple[Any, Any] | None = None,
        watch: Watch | None = None,
        stocks: tuple[Stock, Stock] | None = None,
    ) -> None:
        self.program, self.kernels = program, kernels
        self._ticker, self._rounds = Ticker(watch or (lambda progress: None)), rounds_of(program)
        self.offline = Offline()
        shares = shares or share_weights(program)
        self.dealer = Dealer(program, kernels, sources)
        own = sources or tuple(Seeded(seed, kernels) for seed in self.dealer.seeds)
        self._peers = peers or local_pair("party 0", "party 1")
        clients = [local_pair(f"party {p}", "the client") for p in (0, 1)]
        self._clients: list[LocalChannel] = [ends[1] for ends in clients]
        public = program.for_parties()
        stocks = stocks or (Stock(), Stock())
        self.parties = [
            Party(public, p, kernels, own[p], self._peers[p], clients[p][0], stocks[p])
            for p in (0, 1)
        ]
        self._stock: dict[int, list[Prepared]] = {}
        names = program.weights()
        self._both(lambda p: self.parties[p].load_weights(shares[p][name] for name in names))

    def _both(self, work: Callable[[int], T]) -> list[T]:
        """Run `work` for both parties at once. Raises what the first failing one raised."""
        results: list[Any] = [None, None]
        errors: list[tuple[int, BaseException]] = []

        def run(party: int) -> None:
            try:
                results[party] = work(party)
            except BaseException as error:
                errors.append((party, error))
                self._peers[party].close()
                self._clients[party].close()

        threads = [threading.Thread(target=run, args=(p,), daemon=True) for p in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            first = next((e for _, e in errors if not isinstance(e, ProtocolError)), errors[0][1])
            raise first
        return results

    def _block(self, segment: int) -> list[Prepared]:
        material = self.dealer.deal(segment)
        channels = [local_pair(f"party {p}", "the dealer") for p in (0, 1)]
        sizes, total = [0, 0], material_bytes(self.program, segment)[0]
        for messages in material.messages:
            for p, message in enumerate(messages):
                if message.size:
                    channels[p][1].send(message.data)
                    sizes[p] += message.size
            self._ticker.tell("offline", sizes[0], total)
        self.offline.add(segment, (sizes[0], sizes[1]))
        return [
            self.parties[p].prepare(material.block, segment, channels[p][0].receive) for p in (0, 1)
        ]

    def infer(self, inputs: Mapping[str, Array]) -> Result:
        """Run one inference on floats by name.

        Raises InputError, before anything is dealt or sent, if they do not fit, and RangeError if a
        guarded program finds a value out of its range. The session goes on after either.
        """
        inputs = one_inference(self.program, inputs)
        shared = self._block(0)
        routed = [k for k, s in enumerate(self.program.segments) if s.route is not None]
        routed.sort(key=lambda k: self.program.segments[k].route or 0)
        for segment in routed:
            if segment not in self._stock:
                self._stock[segment] = self._block(segment)

        def work(p: int) -> Inference:
            self.parties[p].send_input_masks(shared[p])
            branches = [self._stock[k][p] for k in routed]
            run = self.parties[p].infer(shared[p], branches, self._observed if p == 0 else None)
            self.parties[p].send_outputs(run)
            return run

        client = threading.Thread(target=self._send_inputs, args=(inputs,), daemon=True)
        client.start()
        runs = self._both(work)
        client.join()
        route = runs[0].route
        if route is not None:
            del self._stock[routed[route]]
        outputs = receive_outputs(self.program, self._clients, self.kernels)
        return Result(outputs, route, (runs[0].counters, runs[1].counters))

    def _observed(self, done: int) -> None:
        self._ticker.tell("online", done, self._rounds)

    def _send_inputs(self, inputs: Mapping[str, Array]) -> None:
        with contextlib.suppress(ProtocolError):  # the party that ended the channel says why
            send_inputs(self.program, inputs, self._clients, self.kernels)
