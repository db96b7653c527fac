"""What an inference could gain if parties computed while a round's messages are on their way.

    python tests/bench/overlap.py PROGRAM.srp .. [--link lan,wan,mobile] [--profile FILE] [--rounds]

Nothing is run: times of instructions are those that a profile projects, bytes are exact, and three
schedules of the same instructions are compared.

- `now`: a round's message is sent when all of it is computed, and nothing is computed until the
  peer's is there.
- `openings`: each opening is sent as soon as it is computed, and what depends on it alone is
  computed when it is there: both parties run the instruction whose results are waited for most, of
  those whose operands are there. A message costs its system calls.
- `bound`: no schedule in which a party computes during a round, cut as finely as one likes, gains
  more than the sum over rounds of min(transfer, computing before and after it), where each second
  of computing counts for one of the two rounds beside it.

`--rounds` lists, round by round, how many openings there are, the computing before the message, its
transfer, and what part of the transfer the largest opening is.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])

from srcompile.passes.cost import Network, network
from srcompile.passes.machine import Machine, Timer, machines
from srcompile.runtime.isa import INSTRUCTIONS
from srcompile.runtime.openings import message_bytes, rounds
from srcompile.runtime.program import Instruction, Program, load

LARGE = 1 << 15
"""An opening of fewer bytes goes together with the others of its round."""
CALLS_S = 12e-6
"""What one message more takes a party: a call to send it, one to wait and one to read."""


@dataclass(frozen=True)
class Piece:
    """An instruction: seconds of computing, bytes that it sends, and what it waits for."""

    seconds: float
    sent: int
    needs: tuple[int, ...]  # places of other pieces


@dataclass(frozen=True)
class Route:
    """All that one route runs, in order: its pieces, and the places of each round's messages."""

    pieces: tuple[Piece, ...]
    rounds: tuple[tuple[int, ...], ...]


def longest_path(program: Program, machine: Machine) -> Route:
    """Return the first segment and the branch that sends most."""
    types, timer = program.types("online"), Timer(program, machine, 0)
    bodies = program.functions["online"]
    timed = [[timer.seconds(i) for i in body] for body in bodies]
    sizes = [sum(_sent(i, types) for i in body) for body in bodies]
    chosen = [0] + ([max(range(1, len(bodies)), key=sizes.__getitem__)] if bodies[1:] else [])
    pieces: list[Piece] = []
    made: dict[str, int] = {}
    found: list[tuple[int, ...]] = []
    last_route: tuple[int, ...] = ()
    for segment in chosen:
        body, start = bodies[segment], len(pieces)
        for i, seconds in zip(body, timed[segment], strict=True):
            needs = tuple(dict.fromkeys(made[n] for n in i.inputs if n in made)) + last_route
            made[i.out] = len(pieces)
            pieces.append(Piece(seconds, _sent(i, types), needs))
        for first, stop in rounds(body).items():
            places = tuple(k for k in range(first, stop) if body[k].op != "output")
            if places:
                found.append(tuple(start + k for k in places))
        last_route = tuple(start + k for k, i in enumerate(body) if i.op == "route")
    return Route(tuple(pieces), tuple(found))


def _sent(i: Instruction, types: dict) -> int:  # type: ignore[type-arg]
    if not INSTRUCTIONS[i.op].communicates or i.op == "output":
        return 0
    return message_bytes(i, types)


def now_s(path: Route, at: Network) -> float:
    """Return the seconds of the schedule in which nothing overlaps."""
    sent, count = sum(p.sent for p in path.pieces), len(path.rounds)
    return sum(p.seconds for p in path.pieces) + count * CALLS_S + at.seconds(sent, count)


def openings_s(path: Route, at: Network) -> float:
    """Return the seconds if each opening goes out when it is computed, the peer's likewise."""
    calls = {}
    for places in path.rounds:
        for k in places:
            calls[k] = CALLS_S if path.pieces[k].sent >= LARGE else CALLS_S / len(places)
    readers: list[list[int]] = [[] for _ in path.pieces]
    for place, piece in enumerate(path.pieces):
        for k in piece.needs:
            readers[k].append(place)
    flight = [at.seconds(p.sent, 1) if p.sent else 0.0 for p in path.pieces]
    tail = [0.0] * len(path.pieces)
    for k in reversed(range(len(tail))):
        after = max((tail[n] for n in readers[k]), default=0.0)
        tail[k] = path.pieces[k].seconds + flight[k] + after
    missing = [len(p.needs) for p in path.pieces]
    arriving = [(0.0, k) for k, count in enumerate(missing) if not count]  # when, which
    heapq.heapify(arriving)
    ready: list[tuple[float, int]] = []
    free = line = end = 0.0  # when the processor and the line are free
    there = [0.0] * len(path.pieces)
    for _ in path.pieces:
        if not ready:
            free = max(free, arriving[0][0])
        while arriving and arriving[0][0] <= free:
            k = heapq.heappop(arriving)[1]
            heapq.heappush(ready, (-1e9 * bool(path.pieces[k].sent) - tail[k], k))
        k = heapq.heappop(ready)[1]
        piece = path.pieces[k]
        free += piece.seconds + calls.get(k, 0.0)
        there[k] = free
        if piece.sent:
            line = max(line, free) + at.seconds(piece.sent, 0)
            there[k] = line + at.rtt_ms / 2e3
        end = max(end, there[k])
        for n in readers[k]:
            missing[n] -= 1
            if not missing[n]:
                heapq.heappush(arriving, (max(there[m] for m in path.pieces[n].needs), n))
    return end


def intervals(path: Route, at: Network) -> list[tuple[float, float]]:
    """Return for each round the seconds of computing since the one before, and of its transfer.

    The last one has no transfer: it is what follows the last round.
    """
    found, start = [], 0
    for places in path.rounds:
        end = places[-1] + 1
        computing = sum(p.seconds for p in path.pieces[start:end])
        found.append((computing, at.seconds(sum(path.pieces[k].sent for k in places), 0)))
        start = end
    return [*found, (sum(p.seconds for p in path.pieces[start:]), 0.0)]


def bound_s(path: Route, at: Network) -> float:
    """Return the most that overlap inside rounds gains, in seconds."""
    gained = 0.0
    parts = intervals(path, at)
    spare = parts[0][0]  # of the computing before a round, what does not count for the one before
    for (_, transfer), (after, _) in itertools.pairwise(parts):
        needed = max(0.0, transfer - spare)
        gained += min(transfer, spare) + min(needed, after)
        spare = max(0.0, after - needed)
    return gained


def print_rounds(path: Route, at: Network) -> None:
    """Print a line for each round."""
    print(f"{'round':>5} {'openings':>8} {'bytes':>9} {'before ms':>9} {'transfer':>9} largest")
    for number, (places, (computing, transfer)) in enumerate(
        zip(path.rounds, intervals(path, at), strict=False), 1
    ):
        sent = [path.pieces[k].sent for k in places]
        print(
            f"{number:5} {len(sent):8} {sum(sent):9} {1e3 * computing:9.3f} {1e3 * transfer:9.3f} "
            f"{max(sent) / sum(sent):7.2f}"
        )


def main() -> int:
    """Print a line for each program and link."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("programs", nargs="+", type=Path)
    parser.add_argument("--link", default="lan,wan,mobile", help="or RATE_MBIT:RTT_MS; commas")
    parser.add_argument("--profile", help="a file of srrun calibrate; default: the stored one")
    parser.add_argument("--rounds", action="store_true", help="list the rounds")
    options = parser.parse_args()
    machine, _ = machines([options.profile] if options.profile else ())
    print(
        f"{'program':<24} {'link':<8} {'now ms':>9} {'compute':>9} {'transfer':>9} "
        f"{'openings':>9} {'gain':>7} {'bound':>7}"
    )
    for file in options.programs:
        program = load(file)
        path = longest_path(program, machine)
        for at in map(network, options.link.split(",")):
            now, other, bound = now_s(path, at), openings_s(path, at), bound_s(path, at)
            transfer = at.seconds(sum(p.sent for p in path.pieces), 0)
            print(
                f"{file.stem:<24} {at.name:<8} {1e3 * now:9.2f} "
                f"{1e3 * sum(p.seconds for p in path.pieces):9.2f} {1e3 * transfer:9.2f} "
                f"{1e3 * other:9.2f} {1 - other / now:7.1%} {bound / now:7.1%}"
            )
            if options.rounds:
                print_rounds(path, at)
    return 0


if __name__ == "__main__":
    sys.exit(main())
