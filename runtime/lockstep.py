"""Inferences side by side: one message in each round for all of them.

A run goes on by itself until it needs somebody else: a mark that a block is used, or the other
party's message. `run_together` lets each run go so far, does for all at once what they wait for,
and so on to the end. Runs need not be on the same route: those with more rounds go on when the
others have ended. Both parties have the same runs in the same order, so that the parts of a message
are known by their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from srcompile.runtime.channels import Channel
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.openings import Round


@dataclass(frozen=True)
class Use:
    """A run waits until it is written down that it uses this block."""

    block: int


Stop = Use | Round
Mark = Callable[[Sequence[int]], None]
"""Writes down that blocks are used; raises ProtocolError if one was used before."""


def unmarked(blocks: Sequence[int]) -> None:
    """Write nothing down, where blocks end with the process that uses them."""


class Stopping(Protocol):
    """A run, as the places where it waits for somebody else."""

    stops: Iterator[Stop]
    segment: int


def run_together(runs: Sequence[Stopping], peer: Channel, peer_name: str, mark: Mark) -> None:
    """Bring all runs to their end. Raises ProtocolError, naming the peer and the round.

    In each round runs of one segment go on one after the other, so that they find its weights in
    the caches.
    """
    with np.errstate(over="ignore"):
        if len(runs) == 1:  # the same in fewer steps
            _run_alone(runs[0], peer, peer_name, mark)
            return
        stopped = _stopped(runs)
        while stopped:
            used = [stop.block for _, stop in stopped if isinstance(stop, Use)]
            if used:
                mark(used)
                going = [run for run, stop in stopped if isinstance(stop, Use)]
                stopped = [pair for pair in stopped if not isinstance(pair[1], Use)]
                stopped = _in_order(runs, [*stopped, *_stopped(going)])
                continue
            _exchange([stop for _, stop in stopped if isinstance(stop, Round)], peer, peer_name)
            by_segment = sorted((run for run, _ in stopped), key=lambda run: run.segment)
            stopped = _in_order(runs, _stopped(by_segment))


def _run_alone(run: Stopping, peer: Channel, peer_name: str, mark: Mark) -> None:
    for stop in run.stops:
        if isinstance(stop, Use):
            mark([stop.block])
        else:
            _exchange([stop], peer, peer_name)


def _exchange(rounds: Sequence[Round], peer: Channel, peer_name: str) -> None:
    try:
        peer.exchange([r.ours for r in rounds], [r.theirs for r in rounds])
    except ProtocolError as error:
        raise ProtocolError(f"{peer_name} in {rounds[0].where}: {error}") from None


def _stopped(runs: Sequence[Stopping]) -> list[tuple[Stopping, Stop]]:
    """Let runs go on; return those that have not ended, and where they wait."""
    found = ((run, next(run.stops, None)) for run in runs)
    return [(run, stop) for run, stop in found if stop is not None]


def _in_order(
    runs: Sequence[Stopping], stopped: list[tuple[Stopping, Stop]]
) -> list[tuple[Stopping, Stop]]:
    """Return stopped runs in the order of `runs`, which both parties have."""
    places = {id(run): place for place, run in enumerate(runs)}
    return sorted(stopped, key=lambda pair: places[id(pair[0])])
