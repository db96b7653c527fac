"""Filling the stocks of both parties: runs in which the dealer sends blocks that no session waits
for.

A run is like a session without a client: party 1 comes to party 0, both come to the dealer, and
party 0 says what is fetched. First they compare what they have, and remove what only one of them
has. A block is free at party 0 after both have stored it. After each batch party 1 says whether it
wants more, or ends the run so that another stock has its turn.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.channels.tcp import list_json
from srcompile.runtime.dealing import BLOCK, DEALT, REQUEST, STOP
from srcompile.runtime.errors import ProtocolError, SpoolError
from srcompile.runtime.services.settings import MOST_STOCK
from srcompile.runtime.services.stockpile import SEED_BYTES, Number, Stockpile
from srcompile.runtime.services.vault import sealed_size

BATCH = 16
"""Blocks that are asked for at once, at most."""
BATCH_BYTES = 1 << 26
"""What they may take at both parties together, if they are more than one."""
SPARE_BYTES = 1 << 28
"""What the stock leaves free on the disk."""

Sizes = tuple[int, int]
"""Bytes at party 0 and at party 1."""


@dataclass(frozen=True)
class Place:
    """What a run needs at a party: its stock, and how to reach the dealer.

    `dial` connects to the dealer for this run; `check_seed` raises ProtocolError if the seed is not
    the deployment's; `room` is how many bytes the stock may still take here; `sizes` are those of a
    block of each segment, at both parties.
    """

    stock: Stockpile
    dial: Callable[[], AbstractContextManager[LinkChannel]]
    check_seed: Callable[[bytes], object]
    room: Callable[[], int]
    sizes: Sequence[Sizes]


def lead(place: Place, peer: LinkChannel, ended: Callable[[], bool]) -> int:
    """Run party 0's side, until there is enough, it has `ended`, or party 1 wants no more.

    Returns the blocks fetched.

    Raises ProtocolError, naming the peer, if party 1 or the dealer fails, and SpoolError if there
    is no room.
    """
    stock, fetched = place.stock, 0
    with ExitStack() as links:
        theirs = peer.receive_json(_most(stock))
        stock.keep_only(_numbers(theirs.get("blocks")))
        peer.send_json({"blocks": stock.blocks()})
        rooms = place.room(), _whole(theirs.get("room"))
        dealer = None
        while not ended():
            counts = stock.counts()
            batch = to_fetch(counts, stock.levels.high, place.sizes, rooms)
            seeds = stock.seed is not None and theirs.get("seed") is True
            if not batch and (seeds or dealer):
                _check_room(stock, counts)
                break
            peer.send_json({"fetch": batch})
            if dealer is None:
                dealer = links.enter_context(_dealt(place))
            for segment in batch:
                dealer.send(REQUEST.pack(segment))
            for segment in batch:
                with _stored(stock, dealer, segment) as block:
                    dealer.receive(DEALT.size)
                    if peer.receive_json() != {"stored": block}:
                        raise ProtocolError("party 1 stored another block than party 0")
                stock.publish(block, segment)
                fetched += 1
                rooms = _less(rooms, place.sizes[segment])
            if peer.receive_json().get("more") is not True:
                break
        if dealer is not None:
            dealer.send(REQUEST.pack(STOP))
        peer.send_json({"fetch": None})
    return fetched


def follow(place: Place, peer: LinkChannel, more: Callable[[], bool]) -> int:
    """Run party 1's side, until party 0 says that it is done; return the blocks fetched.

    `more` is called after each batch and says whether there is to be another.

    Raises ProtocolError, naming the peer, if one fails, and SpoolError if the disk does.
    """
    stock, fetched = place.stock, 0
    with ExitStack() as links:
        room, seed = place.room(), stock.seed is not None
        peer.send_json({"blocks": stock.blocks(), "room": room, "seed": seed})
        stock.keep_only(_numbers(peer.receive_json(_most(stock)).get("blocks")))
        dealer = None
        while (batch := peer.receive_json().get("fetch")) is not None:
            if dealer is None:
                dealer = links.enter_context(_dealt(place))
            for segment in _segments(batch, len(stock.sizes)):
                with _stored(stock, dealer, segment) as block:
                    pass
                stock.publish(block, segment)
                peer.send_json({"stored": block})
                fetched += 1
            peer.send_json({"more": more()})
    return fetched


def to_fetch(counts: Sequence[int], high: int, sizes: Sequence[Sizes], rooms: Sizes) -> list[int]:
    """Return the segments to fetch a block of, up to BATCH and BATCH_BYTES, the scarcest first.

    `rooms` are the bytes that the stocks of both parties may still take. If the scarcest one does
    not fit there, nothing more is fetched.
    """
    counts, found, size = list(counts), list[int](), 0
    while len(found) < BATCH:
        segment = min(range(len(counts)), key=counts.__getitem__)
        size += sum(sizes[segment])
        if counts[segment] >= high or (found and size > BATCH_BYTES):
            break
        rooms = _less(rooms, sizes[segment])
        if min(rooms) < 0:
            break
        counts[segment] += 1
        found.append(segment)
    return found


def room_in(state: Path, most: int) -> int:
    """Return the bytes that the stocks in a party's state folder may still take, of `most`.

    It is less than 0 if they take too many.
    """
    free = shutil.disk_usage(state).free - SPARE_BYTES
    return min(most - size_in(state), free)


def size_in(state: Path) -> int:
    """Return the bytes that the stocks in a party's state folder take."""
    size = 0
    for file in state.glob("deployments/*/stock/*"):
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def _less(rooms: Sizes, sizes: Sizes) -> Sizes:
    return rooms[0] - sealed_size(sizes[0]), rooms[1] - sealed_size(sizes[1])


def _check_room(stock: Stockpile, counts: Sequence[int]) -> None:
    """Raise SpoolError if there is no block of a segment, and none is fetched."""
    for name, count in zip(stock.names, counts, strict=True):
        if not count:
            raise SpoolError(
                f"there is no room for material of segment '{name}'; free disk space, or raise "
                "'stock_mib', at both parties"
            )


@contextlib.contextmanager
def _dealt(place: Place) -> Iterator[LinkChannel]:
    """Give the link to the dealer, after the seed that it begins with."""
    with place.dial() as dealer:
        seed = bytes(dealer.receive(SEED_BYTES))
        place.check_seed(seed)
        place.stock.store_seed(seed)
        yield dealer


@contextlib.contextmanager
def _stored(stock: Stockpile, dealer: LinkChannel, segment: int) -> Iterator[int]:
    """Receive a block and write it; give its number, and remove it if what follows fails."""
    block, dealt = BLOCK.unpack(dealer.receive(BLOCK.size))
    if dealt != segment:
        raise ProtocolError(f"the dealer sent material for segment {dealt}, not {segment}")
    stock.write(block, segment, dealer.receive)
    try:
        yield block
    except BaseException:
        stock.forget(block, segment)
        raise


def _most(stock: Stockpile) -> int:
    """Return what a list of all blocks that the other party may have takes."""
    return list_json(MOST_STOCK * len(stock.names))


def _numbers(value: Any) -> list[Number]:
    """Return the blocks that a peer says it has. Raises ProtocolError if it is no list of them."""
    if isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(_is_whole(n) for n in pair)
        for pair in value
    ):
        return [(block, segment) for block, segment in value]
    raise ProtocolError("the other party did not say which blocks it has")


def _whole(value: Any) -> int:
    if not _is_whole(value):
        raise ProtocolError("the other party did not say how much room it has")
    return int(value)


def _segments(value: Any, count: int) -> list[int]:
    few = isinstance(value, list) and len(value) <= BATCH
    if few and all(_is_whole(segment) and segment < count for segment in value):
        return list(value)
    raise ProtocolError("party 0 did not say what is to be fetched")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
