"""What a network may do: each fault ends its session on all sides, and nothing else."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.services import client as client_module
from srcompile.runtime.services.client import Client, deploy
from srcompile.runtime.services.dealer import DealerService
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.party import PartyService
from srcompile.runtime.services.settings import Endpoint, Settings
from tests.support.proxy import FAULTS, Proxy, after
from tests.support.services import POOL, PROGRAM, client, settings_in, wait_until


@dataclass(frozen=True)
class Link:
    """A direction of a link: who connects to whom, and whether what comes back is meant."""

    dialler: str
    listener: str
    back: bool

    def __str__(self) -> str:
        ends = (self.dialler, self.listener)
        return "-to-".join(reversed(ends) if self.back else ends)


LINKS = (
    Link("client", "party0", back=False),
    Link("client", "party1", back=True),
    Link("party1", "party0", back=False),
    Link("party1", "party0", back=True),
    Link("party1", "dealer", back=True),
)


class Proxied:
    """A cluster in this process with a proxy on each link."""

    def __init__(self, settings: Settings) -> None:
        self.proxies: dict[tuple[str, str], Proxy] = {}
        own: dict[str, Settings] = {}
        for link in LINKS:
            key = link.dialler, link.listener
            if key not in self.proxies:
                proxy = self.proxies[key] = Proxy(settings.endpoint(link.listener).port)
                place = Endpoint("127.0.0.1", proxy.port)
                changed: dict[str, Any] = {link.listener: place}
                own[link.dialler] = replace(own.get(link.dialler, settings), **changed)
        self.client = own["client"]
        quiet = [Log(role, stream=io.StringIO()) for role in ("dealer", "party0", "party1")]
        self.roles = (
            DealerService(settings, quiet[0]),
            PartyService(0, settings, quiet[1]),
            PartyService(1, own["party1"], quiet[2]),
        )

    def running(self) -> list[int]:
        """Return how many sessions each role runs."""
        return [role.state()["sessions"] for role in self.roles]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """Return a running cluster whose time-outs are short."""
    settings = settings_in(tmp_path_factory.mktemp("faults"), timeout=5.0)
    found = Proxied(settings)
    for role in found.roles:
        role.start()
    deploy(PROGRAM, settings)
    yield found
    for role in found.roles:
        role.stop()
    for proxy in found.proxies.values():
        proxy.close()


def check(session: Client) -> None:
    """Run an inference; its result is the model's."""
    sample = POOL.samples[0]
    want, _ = evaluate(POOL.module, sample, registry())
    np.testing.assert_allclose(session.infer(sample).outputs["y"], want["y"], atol=0.01)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("link", LINKS, ids=str)
def test_a_fault_ends_its_session_and_no_other(
    cluster: Proxied, link: Link, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "REASON_S", 0.5)  # some faults have no better reason
    proxy = cluster.proxies[link.dialler, link.listener]
    with client(cluster.client) as bystander:
        # given two sessions, on one of whose links something happens during an inference
        proxy.watch()
        victim = client(cluster.client).__enter__()
        check(victim)
        proxy.arm(FAULTS[fault], back=link.back)
        # then the client gets no result, and an error that names a peer
        with pytest.raises(ProtocolError) as caught:
            victim.infer(POOL.samples[0])
        assert proxy.happened()
        assert any(name in str(caught.value) for name in ("party 0", "party 1", "the dealer"))
        # and the session ends at all roles, while the other one goes on
        wait_until(lambda: cluster.running() == [1, 1, 1])
        check(bystander)
    # and new sessions are served
    with client(cluster.client) as session:
        check(session)


@pytest.mark.parametrize("fault", ["cut", "stall", "flip"])
def test_an_error_between_the_parties_names_peer_round_and_instruction(
    cluster: Proxied, fault: str
) -> None:
    proxy = cluster.proxies["party1", "party0"]
    proxy.watch()
    victim = client(cluster.client).__enter__()
    check(victim)
    # given a fault on the first round's message, the second one that party 0 sends
    proxy.arm(after(1, FAULTS[fault]), back=True)
    with pytest.raises(ProtocolError) as caught:
        victim.infer(POOL.samples[0])
    assert re.search(r"party [01] in round \d+, (open|route) %\S+: ", str(caught.value))


def test_a_fault_while_weights_are_opened_leaves_a_deployment_that_works(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = settings_in(tmp_path_factory.mktemp("opening"), timeout=3.0)
    found = Proxied(settings)
    for role in found.roles:
        role.start()
    deploy(PROGRAM, settings)
    proxy = found.proxies["party1", "party0"]
    # given a link between the parties that breaks at the n-th record of a first session
    for records in range(4):
        proxy.cut_next(records)
        with pytest.raises(ProtocolError):
            client(found.client).__enter__()
    # then the weights are opened by the next session, and results are right
    with client(found.client) as session:
        assert sum(session.setup_bytes) > 0
        check(session)
    for role in found.roles:
        role.stop()
    for proxy in found.proxies.values():
        proxy.close()
