"""Parties over a connection that is given to them: the same results, the same handshake."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.channels.tcp import TcpChannel, admit, introduce
from srcompile.runtime.cluster import LocalCluster
from srcompile.runtime.errors import ProtocolError
from tests.bench.links import link, probe
from tests.support.builds import BUILDS, compiled

MLP = BUILDS["mlp"]
TOKEN = b"t" * 32


def test_parties_run_over_the_connection_that_they_are_given() -> None:
    # given a connection that somebody else made
    program, sample = compiled(MLP).program, MLP.samples[0]
    with link("loopback") as found:
        ends = found.connect()
        # when an inference runs over it
        with LocalCluster(program, link=ends) as cluster:
            result = cluster.infer(sample)
    # then the result is the model's, what was sent is as compiled, and only the parties had ends
    want, _ = evaluate(MLP.module, sample, registry())
    np.testing.assert_allclose(result.outputs["y"], want["y"], atol=0.01)
    assert result.online_bytes == compiled(MLP).cost.total().online_bytes
    assert [end.fileno() for end in ends] == [-1, -1]


def test_all_that_parties_say_to_each_other_goes_over_that_connection() -> None:
    # given two connections, with an end of each for one party, and a relay between the other ends
    build = compiled(MLP)
    with link("loopback") as found:
        first, second = found.connect(), found.connect()
    passed = [0, 0]

    def relay(source: socket.socket, sink: socket.socket, party: int) -> None:
        while data := source.recv(1 << 16):
            passed[party] += len(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    ways = ((first[1], second[0], 0), (second[0], first[1], 1))
    relays = [threading.Thread(target=relay, args=way) for way in ways]
    for thread in relays:
        thread.start()
    # when the parties run
    with LocalCluster(build.program, link=(first[0], second[1])) as cluster:
        result = cluster.infer(MLP.samples[0])
        setup = cluster.setup_bytes
    for thread in relays:
        thread.join(10)
    for end in (first[1], second[0]):
        end.close()
    # then at least what they count has come by, but for what the client got
    output = build.cost.client_download // 2
    for party in (0, 1):
        assert passed[party] >= setup[party] + result.online_bytes[party] - output


@pytest.mark.parametrize("wrong", ["token", "program", "role"])
def test_who_is_at_the_other_end_is_checked_on_a_given_connection_too(wrong: str) -> None:
    # given a party that has one end, and somebody who lacks something at the other
    with link("loopback") as found:
        ours, theirs = found.connect()
    refused: list[str] = []

    def party() -> None:
        with pytest.raises(ProtocolError):
            admit(ours, {"party1": "party 1"}, TOKEN, "d")
        refused.append(wrong)

    waiting = threading.Thread(target=party)
    waiting.start()
    # when that introduces itself, then it is refused, and the connection is closed
    token = b"x" * 32 if wrong == "token" else TOKEN
    digest = "another" if wrong == "program" else "d"
    with pytest.raises(ProtocolError):
        introduce(theirs, "dealer" if wrong == "role" else "party1", "party 0", token, digest)
    waiting.join(10)
    assert refused == [wrong]
    assert [ours.fileno(), theirs.fileno()] == [-1, -1]


def test_the_right_peer_is_admitted_on_a_given_connection() -> None:
    with link("loopback") as found:
        ours, theirs = found.connect()
    admitted: list[tuple[str, TcpChannel]] = []
    waiting = threading.Thread(
        target=lambda: admitted.append(admit(ours, {"party1": "party 1"}, TOKEN, "d"))
    )
    waiting.start()
    channel = introduce(theirs, "party1", "party 0", TOKEN, "d")
    waiting.join(10)
    ((role, other),) = admitted
    channel.send(b"hello")
    assert (role, bytes(other.receive(5))) == ("party1", b"hello")
    channel.close()
    other.close()


def test_a_link_is_probed_without_the_product() -> None:
    with link("loopback") as found:
        rate_mbit, rtt_ms = probe(found, size=1 << 16)
    assert rate_mbit > 0
    assert rtt_ms >= 0


def test_an_emulated_link_needs_its_script() -> None:
    with pytest.raises(SystemExit, match="give the script with --netlab"), link("wan"):
        pass


def test_a_script_that_fails_is_named(tmp_path: Path) -> None:
    script = tmp_path / "links"
    script.write_text("#!/bin/sh\necho no devices here >&2\nexit 1\n")
    script.chmod(0o700)
    with (
        pytest.raises(SystemExit, match="links up wan failed: no devices here"),
        link("wan", script),
    ):
        pass
