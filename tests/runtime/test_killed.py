"""Processes killed at random moments: no block is used twice, and every use was marked before."""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.roles import LISTENING
from srcompile.runtime.services.client import Client, deploy
from srcompile.runtime.services.settings import Settings
from srcompile.runtime.services.state import _read_limit, _read_ranges, stored_opened
from tests.support.services import POOL, PROGRAM, Processes, settings_in

KILLS = 8


@dataclass
class Seen:
    """What a client saw of blocks, also in sessions that failed."""

    offered: list[tuple[int, int]] = field(default_factory=list)  # (party, block)
    masks: list[tuple[int, bytes]] = field(default_factory=list)  # (party, its share of the mask)
    results: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class _Watched:
    """A channel of the client that notes the block and the mask of each inference."""

    def __init__(self, inner: Any, party: int, seen: Seen) -> None:
        self._inner, self._party, self._seen = inner, party, seen
        self._mask_is_next = False

    def receive_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = self._inner.receive_json()
        if "block" in fields:
            self._seen.offered.append((self._party, fields["block"]))
            self._mask_is_next = True
        return fields

    def receive(self, size: int) -> bytes:
        data = bytes(self._inner.receive(size))
        if self._mask_is_next:
            self._seen.masks.append((self._party, data))
            self._mask_is_next = False
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def ask(settings: Settings, seen: Seen, ended: threading.Event) -> None:
    """Open one session after the other and run inferences, whatever fails."""
    samples = POOL.samples[:5]
    wanted = [evaluate(POOL.module, sample, registry())[0]["y"] for sample in samples]
    while not ended.is_set():
        with contextlib.suppress(ProtocolError), Client(PROGRAM, settings) as session:
            session._channels[:] = [
                _Watched(channel, party, seen)  # type: ignore[misc]
                for party, channel in enumerate(session._channels)
            ]
            for k in range(20):
                got = session.infer(samples[k % 5]).outputs["y"]
                np.testing.assert_allclose(got, wanted[k % 5], atol=0.01)
                seen.results += 1
                if ended.is_set():
                    break
        time.sleep(0.01)


def test_no_block_is_used_twice_whenever_a_process_is_killed(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"random.Random({seed})")
    rng = random.Random(seed)
    settings = settings_in(tmp_path, timeout=5.0)
    seen, ended = Seen(), threading.Event()
    with Processes(tmp_path, settings) as processes:
        deploy(PROGRAM, settings)
        # given two clients that run sessions without end, while processes are killed at any moment
        clients = [threading.Thread(target=ask, args=(settings, seen, ended)) for _ in range(2)]
        for thread in clients:
            thread.start()
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.0, 0.4))
            victims = rng.sample(LISTENING, rng.choice([1, 1, 2, 3]))
            for role in victims:
                processes.kill(role)
            processes.start(*victims)
        before = seen.results
        end = time.monotonic() + 60
        while seen.results < before + 10 and time.monotonic() < end:
            time.sleep(0.05)
        ended.set()
        for thread in clients:
            thread.join()
        assert seen.results >= before + 10
    # then each party offered each block once, and no mask came twice
    assert len(seen.offered) >= seen.results
    assert max(Counter(seen.offered).values()) == 1
    assert max(Counter(seen.masks).values()) == 1
    (dealt,) = (settings.state / "dealer").glob("deployments/*/numbers")
    for party in (0, 1):
        (file,) = (settings.state / f"party{party}").glob("deployments/*/used")
        ranges = _read_ranges(file)
        # and all that was offered is marked as used, once, and was dealt
        marked = Counter(b for first, last in ranges for b in range(first, last + 1))
        assert max(marked.values()) == 1
        assert {block for p, block in seen.offered if p == party} <= set(marked)
        assert max(marked) < _read_limit(dealt)


def test_weights_are_opened_under_one_mask_whenever_a_party_is_killed(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"random.Random({seed})")
    rng = random.Random(seed)
    settings = settings_in(tmp_path, timeout=5.0)
    with Processes(tmp_path, settings) as processes:
        for _ in range(4):
            # given a fresh deployment, one of whose parties is killed around its first session
            deploy(PROGRAM, settings)
            victim = rng.choice(["party0", "party1"])
            killing = threading.Timer(rng.uniform(0.0, 0.06), processes.kill, (victim,))
            killing.start()
            with contextlib.suppress(ProtocolError), Client(PROGRAM, settings):
                pass
            killing.join()
            processes.start(victim)
            # then the next session works, and both parties have opened the same
            with Client(PROGRAM, settings) as session:
                want = evaluate(POOL.module, POOL.samples[0], registry())[0]["y"]
                got = session.infer(POOL.samples[0]).outputs["y"]
                np.testing.assert_allclose(got, want, atol=0.01)
            opened = [
                stored_opened(folder, PROGRAM)
                for folder in sorted(settings.state.glob("party?/deployments/*"))
            ]
            assert len(opened) == 2
            for name in PROGRAM.opened_weights():
                first, second = (found[name] for found in opened if found is not None)
                np.testing.assert_array_equal(first, second)


def test_the_dealer_forgets_no_number_whenever_it_is_killed(tmp_path: Path) -> None:
    """A dealer that dealt a number twice would give the same masks for two inferences."""
    settings = settings_in(tmp_path, timeout=5.0)
    seen = Seen()
    with Processes(tmp_path, settings) as processes:
        deploy(PROGRAM, settings)
        for _ in range(4):
            ended = threading.Event()
            asking = threading.Thread(target=ask, args=(settings, seen, ended))
            before = seen.results
            asking.start()
            while seen.results < before + 2:
                time.sleep(0.01)
            processes.kill("dealer")
            ended.set()
            asking.join()
            processes.start("dealer")
    assert max(Counter(seen.offered).values()) == 1
    assert max(Counter(seen.masks).values()) == 1
