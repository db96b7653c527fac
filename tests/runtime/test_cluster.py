"""Real processes over loopback TCP: right results, exact counters, clear errors, no leftovers."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime import node
from srcompile.runtime.channels.tcp import TcpChannel, accept, connect, listen
from srcompile.runtime.cluster import ROLES, LocalCluster
from srcompile.runtime.errors import InputError, ProtocolError
from srcompile.runtime.node import Config
from srcompile.runtime.program import save
from tests.support.builds import BUILDS, compiled, session

POOL = BUILDS["pool"]
STAGES = compiled(POOL)
TOKEN = b"t" * 32


def gone(pid: int) -> bool:
    """Whether there is no such process, not even one that waits to be collected."""
    return not Path(f"/proc/{pid}").exists()


def ended(pid: int) -> bool:
    """Whether a process of somebody else is gone, or waits for them to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Return a running cluster that several tests use."""
    with LocalCluster(STAGES.program) as running:
        yield running


def test_results_and_counters_are_as_compiled(cluster: LocalCluster) -> None:
    program, cost = STAGES.program, STAGES.cost
    assert cluster.setup_bytes == cost.setup_bytes
    stocked: set[int] = set()
    for sample in POOL.samples[:4]:
        # when an inference runs over three processes
        result = cluster.infer(sample)
        # then result and route are the model's
        want, route = evaluate(POOL.module, sample, registry())
        assert result.route == route
        np.testing.assert_allclose(result.outputs["y"], want["y"], atol=0.01)
        # and bytes and rounds are the predicted ones, as in one process
        total = cost.total(route)
        assert result.online_bytes == total.online_bytes
        assert result.rounds == total.rounds
        local = session(program, 1).infer(sample)
        assert result.by_instruction == tuple(c.online for c in local.counters)
        # and material came for the router and for each model that had none in stock
        dealt = [k for k in range(len(program.segments)) if k not in stocked]
        stocked = {k for k, s in enumerate(program.segments) if s.route not in (None, route)}
        for party in (0, 1):
            want_bytes = sum(cost.segments[k].total.offline_bytes[party] for k in dealt)
            assert result.offline_bytes[party] == want_bytes


def test_two_clusters_and_two_sessions_run_side_by_side(cluster: LocalCluster) -> None:
    x, other = POOL.samples[:2]
    mlp = BUILDS["mlp"]
    first, second = session(STAGES.program, 1), session(compiled(mlp).program, 2)
    for sample, small in ((x, mlp.samples[0]), (other, mlp.samples[1])):
        got = cluster.infer(sample).outputs["y"]
        np.testing.assert_allclose(first.infer(sample).outputs["y"], got, atol=0.01)
        want, _ = evaluate(mlp.module, small, registry())
        np.testing.assert_allclose(second.infer(small).outputs["y"], want["y"], atol=0.01)


def test_sessions_of_one_program_may_run_at_the_same_time() -> None:
    sessions = [session(STAGES.program, seed) for seed in (1, 2)]
    outputs: list[list[float]] = [[], []]

    def work(k: int) -> None:
        for sample in POOL.samples[:5]:
            outputs[k].append(float(sessions[k].infer(sample).outputs["y"][0, 0]))

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(outputs[0], outputs[1], atol=0.01)


def test_nothing_is_left_behind() -> None:
    with LocalCluster(STAGES.program) as running:
        folder = Path(running._folder.name)
        pids = [process.pid for process in running._processes.values()]
        assert len(pids) == len(ROLES)
        assert not any(map(gone, pids))
        # the folder with the program is the user's alone, and no weight is in it
        assert folder.stat().st_mode & 0o077 == 0
        running.infer(POOL.samples[0])
        processes = list(running._processes.values())
    assert all(map(gone, pids))
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert not folder.exists()


@pytest.mark.parametrize("role", ROLES)
def test_a_killed_process_ends_the_run_at_once(role: str) -> None:
    # given a running cluster, one process of which dies
    with LocalCluster(STAGES.program) as running:
        running.infer(POOL.samples[0])
        pids = [process.pid for process in running._processes.values()]
        running._processes[role].kill()
        running._processes[role].wait()
        # when the next inference is asked for
        start = time.monotonic()
        with pytest.raises(ProtocolError) as caught:
            running.infer(POOL.samples[0])
        # then it fails promptly, names who is gone, and no process is left
        assert time.monotonic() - start < 5.0
        name = {"dealer": "the dealer", "party0": "party 0", "party1": "party 1"}[role]
        assert name in str(caught.value), str(caught.value)
        assert all(map(gone, pids))


def test_a_program_the_parties_cannot_read_ends_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "srcompile.runtime.cluster.save", lambda program, path, weights: Path(path).write_text("x")
    )
    cluster = LocalCluster(STAGES.program)
    start = time.monotonic()
    with pytest.raises(ProtocolError, match="or it is damaged"), cluster:
        pass
    assert time.monotonic() - start < 10.0
    assert cluster._processes == {}


ORPHANS = """
import sys, time
from srcompile.runtime.cluster import LocalCluster
from srcompile.runtime.program import load
with LocalCluster(load(sys.argv[1])) as running:
    print(*(p.pid for p in running._processes.values()), flush=True)
    time.sleep(60)
"""


def test_the_processes_do_not_outlive_a_killed_client(tmp_path: Path) -> None:
    # given a client with its cluster in a process of its own
    path = tmp_path / "pool.srp"
    save(STAGES.program, path)
    client = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)},
    )
    assert client.stdout is not None
    with client.stdout:
        pids = [int(pid) for pid in client.stdout.readline().split()]
    assert len(pids) == len(ROLES)
    # when it is killed, and can tell nobody
    client.kill()
    client.wait()
    # then its processes find out by themselves
    deadline = time.monotonic() + 5.0
    while not all(map(ended, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(map(ended, pids))


# -- the handshake --------------------------------------------------------------------------------


class Acceptor:
    """A party that waits for one client in the background."""

    def __init__(self, digest: str = "d") -> None:
        self.listener = listen()
        self.port = self.listener.getsockname()[1]
        self.channels: dict[str, TcpChannel] = {}
        self._thread = threading.Thread(target=self._accept, args=(digest,), daemon=True)
        self._thread.start()

    def _accept(self, digest: str) -> None:
        self.channels = accept(self.listener, {"client": "the client"}, TOKEN, digest)

    def finish(self) -> None:
        self._thread.join(5)
        assert not self._thread.is_alive()
        for channel in self.channels.values():
            channel.close()
        self.listener.close()


@pytest.mark.parametrize("wrong", ["token", "program", "role"])
def test_a_stranger_is_turned_away_and_the_right_one_still_let_in(wrong: str) -> None:
    # given a party that waits for its client
    waiting = Acceptor()
    token = b"x" * 32 if wrong == "token" else TOKEN
    digest = "another" if wrong == "program" else "d"
    role = "dealer" if wrong == "role" else "client"
    # when somebody comes who lacks the token, has another program, or is not expected
    with pytest.raises(ProtocolError) as caught:
        connect(waiting.port, role, "party 0", token, digest)
    message = str(caught.value)
    turned_away = "party 0 closed the connection" in message
    assert turned_away or message == "party 0 has another token or another program"
    # then the client is still let in
    channel = connect(waiting.port, "client", "party 0", TOKEN, "d")
    channel.send(b"hello")
    waiting.finish()
    assert set(waiting.channels) == {"client"}
    channel.close()


def test_noise_on_the_port_is_turned_away() -> None:
    waiting = Acceptor()
    with socket.create_connection(("127.0.0.1", waiting.port)) as noise:
        noise.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with socket.create_connection(("127.0.0.1", waiting.port)):
        pass
    channel = connect(waiting.port, "client", "party 0", TOKEN, "d")
    waiting.finish()
    channel.close()


def test_a_party_without_the_token_is_not_trusted_with_a_seed() -> None:
    """The client or dealer that connects checks the party as well."""
    waiting = Acceptor()
    with pytest.raises(ProtocolError, match="another token or another program"):
        connect(waiting.port, "client", "party 0", b"y" * 32, "d")
    connect(waiting.port, "client", "party 0", TOKEN, "d").close()
    waiting.finish()


# -- messages -------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[TcpChannel, TcpChannel]]:
    """Return two connected channels."""
    first, second = _tcp_pair()
    channels = (TcpChannel(first, "party 1", 5.0), TcpChannel(second, "party 0", 5.0))
    yield channels
    for channel in channels:
        channel.close()


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with listen() as listener:
        first = socket.create_connection(listener.getsockname())
        second, _ = listener.accept()
    return first, second


def test_both_may_send_much_at_once(pair: tuple[TcpChannel, TcpChannel]) -> None:
    data = (bytes(3_000_000), bytes([1]) * 3_000_000)
    got = (bytearray(3_000_000), bytearray(3_000_000))

    def exchange(k: int) -> None:
        pair[k].exchange([memoryview(data[k])], [memoryview(got[k])])

    threads = [threading.Thread(target=exchange, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (bytes(got[0]), bytes(got[1])) == (data[1], data[0])
    assert pair[0].traffic == pair[1].traffic
    assert (pair[0].traffic.sent, pair[0].traffic.messages) == (3_000_000, 1)


def test_messages_that_wait_are_read_one_at_a_time(pair: tuple[TcpChannel, TcpChannel]) -> None:
    for data in (b"abc", b"", b"defg"):
        pair[0].send(data)
    assert [bytes(pair[1].receive(size)) for size in (3, 0, 4)] == [b"abc", b"", b"defg"]
    into = bytearray(0)
    pair[0].send_json({})
    assert pair[1].receive_json() == {}
    pair[0].send(b"")
    pair[1].exchange([memoryview(b"h")], [memoryview(into)])
    assert bytes(pair[0].receive(1)) == b"h"


@pytest.mark.parametrize("size", [2, 4, 5000])
def test_an_exchange_of_another_size_is_an_error(
    pair: tuple[TcpChannel, TcpChannel], size: int
) -> None:
    pair[0].send(b"abc")
    with pytest.raises(ProtocolError, match=f"party 0 sent 3 bytes where {size} were expected"):
        pair[1].exchange([memoryview(b"abc")], [memoryview(bytearray(size))])


def test_a_message_of_another_size_is_an_error(pair: tuple[TcpChannel, TcpChannel]) -> None:
    pair[0].send(b"abc")
    with pytest.raises(ProtocolError, match="party 0 sent 3 bytes where 4 were expected"):
        pair[1].receive(4)


def test_a_closed_connection_names_the_peer(pair: tuple[TcpChannel, TcpChannel]) -> None:
    pair[0].close()
    with pytest.raises(ProtocolError, match="party 0 closed the connection"):
        pair[1].receive(1)


def test_a_silent_peer_is_not_waited_for_for_ever() -> None:
    first, second = _tcp_pair()
    channel = TcpChannel(first, "party 1", 0.05)
    with pytest.raises(ProtocolError, match="party 1 did not answer for 0 s"):
        channel.receive(1)
    channel.close()
    second.close()


def test_control_messages_must_be_objects(pair: tuple[TcpChannel, TcpChannel]) -> None:
    pair[0].send(b"[1]")
    with pytest.raises(ProtocolError, match="party 0 sent something that is no control message"):
        pair[1].receive_json()


def test_inputs_that_do_not_fit_leave_the_cluster_running() -> None:
    inputs = POOL.samples[0]
    with LocalCluster(STAGES.program) as cluster:
        with pytest.raises(InputError, match="the program takes"):
            cluster.infer({"another": np.zeros(1)})
        assert cluster.infer(inputs).outputs


def test_a_process_without_memory_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a dealer for whose masks there is no memory
    def none_left(*_: object) -> None:
        raise MemoryError("std::bad_alloc")

    config = Config("dealer", TOKEN, "", (0, 0))
    monkeypatch.setattr(node, "read_config", lambda text: config)
    monkeypatch.setattr(node, "load_program", lambda path: STAGES.program)
    monkeypatch.setattr(node, "run_dealer", none_left)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    # when it runs, then it ends like after any other error
    with pytest.raises(SystemExit, match="2"):
        node.main()
    assert capsys.readouterr().err == (
        "it is out of memory; give it more, or let less run at the same time\n"
    )
