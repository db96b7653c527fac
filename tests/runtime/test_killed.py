"""Processes killed at random moments: no block is used twice, and every use was marked before."""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
from pathlib import Path

import numpy as np
import pytest

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.roles import LISTENING
from srcompile.runtime.services.client import Client, deploy
from srcompile.runtime.services.state import stored_opened
from tests.support.kills import (
    check_no_reuse,
    clustered,
    kill_at_random,
    wait_for_results,
)
from tests.support.services import POOL, PROGRAM, Processes, settings_in

KILLS = 10
CLIENTS = 2
SAMPLES = [(sample, evaluate(POOL.module, sample, registry())[0]["y"]) for sample in POOL.samples]


@pytest.mark.parametrize("high", [0, 4], ids=["from the dealer", "from the stock"])
def test_no_block_is_used_twice_whenever_a_process_is_killed(tmp_path: Path, high: int) -> None:
    """`tests/bench/kills.py` does the same at hundreds of moments."""
    seed = secrets.randbits(32)
    print(f"random.Random({seed})")
    settings = settings_in(tmp_path, timeout=5.0, log_level="debug", stock_low=2, stock_high=high)
    # given clients that run sessions without end, while any process is killed at any moment
    with clustered(tmp_path, settings, PROGRAM, SAMPLES, CLIENTS, 20) as (processes, clients):
        victims = [*LISTENING, *range(CLIENTS)]
        kill_at_random(processes, clients, victims, random.Random(seed), KILLS, 1.0)
        # when all are back, so is the service
        wait_for_results(clients, 10)
    # then every result was right or a clear error, and no block was used twice
    noted = clients.read()
    assert noted.wrong == 0
    assert [error for error in noted.errors if error.startswith("not clear")] == []
    check_no_reuse(settings, processes, noted)
    assert "Traceback" not in clients.problems() + "".join(map(processes.log, LISTENING))


@pytest.mark.parametrize("high", [0, 4], ids=["from the dealer", "from the stock"])
def test_the_dealer_forgets_no_number_whenever_it_is_killed(tmp_path: Path, high: int) -> None:
    """A dealer that dealt a number twice would give the same masks for two inferences."""
    settings = settings_in(tmp_path, timeout=5.0, log_level="debug", stock_low=2, stock_high=high)
    with clustered(tmp_path, settings, PROGRAM, SAMPLES, 1, 20) as (processes, clients):
        for _ in range(4):
            wait_for_results(clients, 2)
            processes.kill("dealer")
            processes.start("dealer")
    check_no_reuse(settings, processes, clients.read())


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
