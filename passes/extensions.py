"""Where rings are extended: a local search for what is fastest on a network.

A chain of shifts and products demands ring width of all that is before it. An extension behind a
shift takes a masked wire into a larger ring, so that the wire itself needs but the bits of its
value, and one. It costs an opening and a round. Some users of a shift may take the extension and
others the wire as it is: the variance of a layer norm is on its way while its argument is extended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from srcompile.ir.graph import Node
from srcompile.ir.types import FixType
from srcompile.passes.cost import Network
from srcompile.runtime.isa import packed_bytes

LIMITS = (48, 40, 32)
"""The search begins with the best plan in which every chain goes on until it passes a limit."""

NARROW = 32
"""Rings of up to so many bits have elements of 32 bits, which compute faster than those of 64."""
ROUND_S = 2e-4
"""What a round takes beside its latency: two processes wake up and look at a message."""
OPENED_S, EXTENDED_S = 4e-9, 8e-9
"""What an element takes that is masked, packed and unpacked, or extended from an opened one."""

Cut = frozenset[int]
"""The edges, from a shift to a user of it, that take an extension of the shift instead."""


class Chains:
    """The nodes of a fixed-level module by position, and the edges between them.

    An edge asks of its operand for a ring of `fixed` bits or, if that is 0, for the ring of the
    user and `more` bits. `work` tells how long a node computes in a ring of so many bits, `unsent`
    how many low bits of a value an opening would drop.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        demand: Callable[[Node, int], tuple[int, int]],
        work: Callable[[Node, int], float],
        unsent: Mapping[str, int],
    ):
        at = {node.out: k for k, node in enumerate(nodes) if node.out}
        types = [n.type if isinstance(n.type, FixType) else FixType((0,), 0, 0) for n in nodes]
        self.bits = [type_.bits for type_ in types]
        self.size = [math.prod(type_.shape) for type_ in types]
        self.work = [(work(n, NARROW), work(n, NARROW + 1)) for n in nodes]
        self.unsent = [unsent.get(n.out, 0) for n in nodes]
        self.edges: list[tuple[int, int]] = []  # (operand, user)
        self.operands: list[list[tuple[int, int, int, int]]] = []  # (edge, operand, fixed, more)
        self.shifts: dict[int, list[int]] = {k: [] for k, n in enumerate(nodes) if n.op == "shift"}
        for user, node in enumerate(nodes):
            row = []
            for name in dict.fromkeys(i for i in node.inputs if not i.startswith("@")):
                operand, edge = at[name], len(self.edges)
                fixed, more = demand(node, self.bits[operand])
                self.edges.append((operand, user))
                row.append((edge, operand, fixed, more))
                if operand in self.shifts and not fixed:
                    self.shifts[operand].append(edge)
            self.operands.append(row)

    def rings(self, cut: Cut) -> tuple[list[int], list[int]]:
        """Return the ring widths of values and of their extensions, 0 where there is none."""
        own, extended = [0] * len(self.bits), [0] * len(self.bits)
        for k in range(len(self.bits) - 1, -1, -1):
            mine = own[k]
            if extended[k] and mine <= self.bits[k]:
                mine = own[k] = self.bits[k] + 1
            for edge, operand, fixed, more in self.operands[k]:
                asked = fixed or mine + more
                rings = extended if edge in cut else own
                if rings[operand] < asked:
                    rings[operand] = asked
        return own, extended

    def up_to(self, limit: int) -> Cut:
        """Return the cut in which each chain, from behind, goes on until it passes `limit` bits."""
        cut: set[int] = set()
        own = [0] * len(self.bits)
        for k in range(len(self.bits) - 1, -1, -1):
            if k in self.shifts and self.bits[k] + 1 < own[k]:
                (_, _, _, by) = self.operands[k][0]
                if own[k] + by > limit:
                    cut.update(self.shifts[k])
                    own[k] = self.bits[k] + 1
            for _, operand, fixed, more in self.operands[k]:
                own[operand] = max(own[operand], fixed or own[k] + more)
        return frozenset(cut)

    def before(self) -> dict[int, dict[int, set[int]]]:
        """Return, for each shift, the shifts next before it and their edges on the way to it."""
        near: list[dict[int, set[int]]] = []  # by node: shift -> its edges towards the node
        for row in self.operands:
            found: dict[int, set[int]] = {}
            for edge, operand, fixed, _ in row:
                reached = {operand: {edge}} if operand in self.shifts else near[operand]
                for shift, edges in reached.items():
                    if not fixed:
                        found[shift] = found.get(shift, set()) | edges
            near.append(found)
        return {shift: near[shift] for shift in self.shifts}


def place_extensions(chains: Chains, opened: Collection[int], network: Network, widest: int) -> Cut:
    """Return a cut that is fast on `network`, with no ring wider than `widest` bits.

    From the best of a few simple plans each extension, for one user or all of them, is added,
    removed or moved to the shift before as long as that helps. `opened` are the nodes whose results
    are opened.
    """
    tried: dict[Cut, tuple[int, float]] = {}

    def cost(cut: Cut) -> tuple[int, float]:
        if cut not in tried:
            tried[cut] = _cost(chains, cut, opened, network, widest)
        return tried[cut]

    limits = [widest, *(limit for limit in LIMITS if limit < widest)]
    found = min((chains.up_to(limit) for limit in limits), key=cost)
    before = chains.before()
    near = {shift: {shift, *before[shift]} for shift in before}
    for shift in before:
        for other in before[shift]:
            near[other].add(shift)
    waiting = dict.fromkeys(chains.shifts)
    while waiting:
        shift = next(iter(waiting))
        del waiting[shift]
        all_users = frozenset(chains.shifts[shift])
        others = [found - all_users, found | all_users, *(found ^ {e} for e in all_users)]
        for earlier, edges in before[shift].items():
            others += [(found - all_users) | edges, (found - all_users - edges) | all_users]
            others.append((found - all_users) | set(chains.shifts[earlier]))
        best = min(others, key=cost)
        if cost(best) < cost(found):
            found = best
            waiting.update(dict.fromkeys(near[shift]))
    return found


def _cost(
    chains: Chains, cut: Cut, opened: Collection[int], network: Network, widest: int
) -> tuple[int, float]:
    """Return (bits above the widest ring, seconds of messages and of what hangs on rings)."""
    own, extended = chains.rings(cut)
    depth, behind = [0] * len(own), [0] * len(own)  # rounds before a value, and its extension
    sent, seconds = 0, 0.0
    for k, row in enumerate(chains.operands):
        level = 0
        for edge, operand, _, _ in row:
            needed = behind[operand] if edge in cut else depth[operand]
            if level < needed:
                level = needed
        if k in opened:
            level += 1
            seconds += chains.size[k] * OPENED_S
            sent += packed_bytes(chains.size[k], own[k] - chains.unsent[k])
        depth[k] = level
        seconds += chains.work[k][own[k] > NARROW]
        if extended[k]:
            behind[k] = level + 1
            seconds += chains.size[k] * (OPENED_S + EXTENDED_S)
            sent += packed_bytes(chains.size[k], extended[k])
    too_wide = sum(w - widest for ring in (own, extended) for w in ring if w > widest)
    rounds = max((*depth, *behind), default=0)
    return too_wide, seconds + network.seconds(sent, rounds) + rounds * ROUND_S
