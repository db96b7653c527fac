"""What a simulation of one party's view needs: a tape, ideal keys, and a recorded session."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srcompile.runtime.channels import Channel, Sendable
from srcompile.runtime.channels.local import local_pair
from srcompile.runtime.client import Shares
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import Kernels, dcf_key_bytes, dpf_key_bytes, ring_dtype
from srcompile.runtime.kernels.definition import NumpyKernels
from srcompile.runtime.kernels.interface import Bytes, Ring, Words
from srcompile.runtime.local import LocalSession
from srcompile.runtime.party import Prepared
from srcompile.runtime.program import Program
from srcompile.runtime.randomness import Randomness


class Tape:
    """Randomness that is written down: what is not on it comes from `base`."""

    def __init__(self, base: Randomness) -> None:
        self._base = base
        self._written: dict[tuple[int, int], NDArray[Any]] = {}

    def ring(self, block: int, slot: int, type_: RingType) -> NDArray[Any]:
        if (block, slot) not in self._written:
            return self._base.ring(block, slot, type_)
        found = self._written[block, slot]
        assert found.shape == type_.shape
        return found.copy()

    def roots(self, block: int, slot: int, count: int) -> Bytes:
        return self._base.roots(block, slot, count)

    def move(self, block: int, slot: int, type_: RingType, by: NDArray[Any]) -> None:
        """Add `by` to what stands at a slot."""
        before = self.ring(block, slot, type_)
        self._written[block, slot] = np.asarray(before + by.astype(before.dtype))


def _stretched(size: int, *parts: bytes) -> bytes:
    """Return pseudorandom bytes that depend on all parts."""
    state = hashlib.shake_256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big") + part)
    return state.digest(size)


def _elements(size: int, w: int, *parts: bytes) -> NDArray[np.uint64]:
    words = np.frombuffer(_stretched(8 * size, *parts), np.uint64)
    return words & np.uint64((1 << w) - 1)


@dataclass
class _Secret:
    """What an ideal functionality keeps of the keys it handed out."""

    alpha: NDArray[Any]
    beta: NDArray[Any]
    seeds: Bytes  # of the observed party


class IdealKeys(NumpyKernels):
    """Kernels whose function keys are ideal, as seen by one party.

    The key is a handle that depends on the observed party's roots only. Evaluation gives that party
    a PRG of its roots and the public arguments, and the other the true value minus that.
    """

    def __init__(self, observed: int) -> None:
        super().__init__()
        self.observed = observed
        self._secrets: dict[bytes, _Secret] = {}

    def _deal(
        self, size: int, alpha: NDArray[Any], beta: NDArray[Any], seeds: tuple[Bytes, Bytes]
    ) -> Bytes:
        own = np.ascontiguousarray(seeds[self.observed])
        stream = _stretched(size * len(alpha), b"handle", own.tobytes(), size.to_bytes(4, "big"))
        handle = np.frombuffer(stream, np.uint8).reshape(len(alpha), size)
        self._secrets[handle.tobytes()] = _Secret(alpha.copy(), beta.copy(), own.copy())
        return handle

    def dpf_keys(
        self, alpha: Words, n: int, beta: Ring, w: int, seeds0: Bytes, seeds1: Bytes
    ) -> Bytes:
        size = dpf_key_bytes(n, beta.shape[1], w)
        return self._deal(size, alpha, beta, (seeds0, seeds1))

    def dpf_table(
        self,
        party: int,
        index: NDArray[np.uint32],
        low: Ring | None,
        n: int,
        w: int,
        seeds: Bytes,
        keys: Bytes,
        tables: Sequence[Ring],
    ) -> Ring:
        secret = self._secrets[np.ascontiguousarray(keys).tobytes()]
        given = (index, low, *tables)
        public = [np.ascontiguousarray(a).tobytes() for a in given if a is not None]
        shape = (tables[0].shape[0], len(index))
        first = _elements(math.prod(shape), w, b"table", secret.seeds.tobytes(), *public)
        first = first.reshape(shape)
        if party == self.observed:
            assert np.array_equal(seeds, secret.seeds)
            return first.astype(ring_dtype(w))
        u = (index.astype(np.uint64) - secret.alpha) & np.uint64((1 << n) - 1)
        value = tables[0][:, u].astype(np.uint64)
        for m, table in enumerate(tables[1:], 1):
            assert low is not None
            d = low.astype(np.uint64) - secret.beta[:, 1].astype(np.uint64)
            value += table[:, u].astype(np.uint64) * d ** np.uint64(m)
        return np.asarray((value - first) & np.uint64((1 << w) - 1)).astype(ring_dtype(w))

    def dcf_keys(
        self,
        alpha: Words,
        n: int,
        beta: Words,
        widths: Sequence[int],
        seeds0: Bytes,
        seeds1: Bytes,
    ) -> Bytes:
        return self._deal(dcf_key_bytes(n, widths), alpha, beta, (seeds0, seeds1))

    def dcf_eval(
        self, party: int, x: Words, n: int, widths: Sequence[int], seeds: Bytes, keys: Bytes
    ) -> Words:
        secret = self._secrets[np.ascontiguousarray(keys).tobytes()]
        columns = []
        for c, w in enumerate(widths):
            parts = (f"sign {c}".encode(), secret.seeds.tobytes(), x.tobytes())
            first = _elements(len(x), w, *parts)
            value = np.where(x < secret.alpha, secret.beta[:, c], np.uint64(0))
            rest = (value - first) & np.uint64((1 << w) - 1)
            columns.append(first if party == self.observed else rest)
        return np.stack(columns, axis=1)


@dataclass
class View:
    """All that one party receives, and what it sends to its peer, in order."""

    material: list[bytes] = field(default_factory=list)
    inputs: list[bytes] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)


class _Recorder:
    """A channel that writes down what passes through it."""

    def __init__(self, channel: Channel, sent: list[bytes], received: list[bytes]) -> None:
        self._channel, self._sent, self._received = channel, sent, received
        self.traffic = channel.traffic

    def send(self, data: Sendable) -> None:
        self._sent.append(bytes(data))
        self._channel.send(data)

    def receive(self, size: int) -> bytes:
        data = bytes(self._channel.receive(size))
        self._received.append(data)
        return data

    def exchange(self, data: Sequence[memoryview], into: Sequence[memoryview]) -> None:
        self.send(b"".join(data))
        got, place = self.receive(sum(map(len, into))), 0
        for part in into:
            part[:] = got[place : place + len(part)]
            place += len(part)

    def close(self) -> None:
        self._channel.close()


class RecordedSession(LocalSession):
    """A local session that writes down the views of both parties."""

    def __init__(
        self,
        program: Program,
        kernels: Kernels,
        shares: Shares | None = None,
        sources: tuple[Randomness, Randomness] | None = None,
    ) -> None:
        self.views = (View(), View())
        self.blocks: dict[int, int] = {}
        ends = local_pair("party 0", "party 1")
        peers = tuple(
            _Recorder(end, view.sent, view.received)
            for end, view in zip(ends, self.views, strict=True)
        )
        super().__init__(program, kernels, shares, sources, (peers[0], peers[1]))
        for party, view in zip(self.parties, self.views, strict=True):
            party._client = _Recorder(party._client, [], view.inputs)

    def _block(self, segment: int) -> list[Prepared]:
        material = self.dealer.deal(segment)
        self.blocks[segment] = material.block
        dealt = list(material.messages)
        prepared = []
        for p, (party, view) in enumerate(zip(self.parties, self.views, strict=True)):
            messages = [pair[p].tobytes() for pair in dealt if pair[p].size]
            view.material.append(b"".join(messages))
            prepared.append(party.prepare(material.block, segment, one_by_one(messages)))
        return prepared


def one_by_one(messages: Sequence[bytes]) -> Callable[[int], bytes]:
    """Return what hands out messages in order, each of the size that is asked for."""
    left = iter(messages)

    def receive(size: int) -> bytes:
        message = next(left)
        assert len(message) == size
        return message

    return receive
