"""Roles as services: sessions one after the other and at once, deployments, restarts, doctor."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import srcompile
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime import certificates as certificates_module
from srcompile.runtime.certificates import make_certificates, renew_certificates
from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.client import share_weights
from srcompile.runtime.dealing import BEAT, REQUEST
from srcompile.runtime.errors import ConfigError, InputError, ProtocolError, RangeError
from srcompile.runtime.gates import Bytes
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.program import Program, loads
from srcompile.runtime.ring import Ring
from srcompile.runtime.roles import LISTENING, PARTIES
from srcompile.runtime.services import doctor
from srcompile.runtime.services import party as party_module
from srcompile.runtime.services.client import Client, deploy, undeploy
from srcompile.runtime.services.doctor import examine
from srcompile.runtime.services.health import METRICS
from srcompile.runtime.services.links import MAY, Links, Visit, Visiting
from srcompile.runtime.services.party import PartyService
from srcompile.runtime.services.ranges import Ranges
from srcompile.runtime.services.service import Service, _about
from srcompile.runtime.services.state import _read_ranges, store_weights
from srcompile.runtime.services.stockpile import SEED_BYTES
from srcompile.runtime.spool import Record, Spool
from tests.runtime.test_batches import named
from tests.support.builds import BUILDS, compiled
from tests.support.guarded import SMALL, guarded, with_mean
from tests.support.services import (
    POOL,
    PROGRAM,
    Processes,
    Running,
    certificates,
    client,
    free_ports,
    running,
    settings_in,
    wait_until,
)

COST = compiled(POOL).cost


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "insecure"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Return running services with the pool deployed."""
    settings = settings_in(tmp_path_factory.mktemp("cluster"), insecure=request.param)
    with running(settings) as found:
        yield found


def check_inference(session: Client, number: int) -> None:
    """Run an inference of the pool; result, route, bytes and rounds are as compiled."""
    sample = POOL.samples[number]
    result = session.infer(sample)
    want, route = evaluate(POOL.module, sample, registry())
    assert result.route == route
    np.testing.assert_allclose(result.outputs["y"], want["y"], atol=0.01)
    total = COST.total(route)
    assert (result.online_bytes, result.rounds) == (total.online_bytes, total.rounds)


def test_sessions_one_after_the_other_give_what_was_compiled(cluster: Running) -> None:
    for _ in range(3):
        with client(cluster.settings) as session:
            for number in range(4):
                check_inference(session, number)


def test_sessions_of_a_pool_leave_one_range_of_used_blocks(tmp_path: Path) -> None:
    # given sessions one after the other, which give up the blocks of branches they did not take
    settings = settings_in(tmp_path)
    with running(settings):
        for number in range(4):
            with client(settings) as session:
                check_inference(session, number)
    # then what was used or given up is one range at each party
    for party in (0, 1):
        (file,) = (settings.state / f"party{party}").glob("deployments/*/used")
        assert len(Ranges(_read_ranges(file))) == 1


def test_weights_are_opened_once_for_all_sessions(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    sizes = []
    with running(settings):
        for _ in range(2):
            with client(settings) as session:
                sizes.append(session.setup_bytes)
    # and after all roles were stopped and started
    with running(settings, deployed=False), client(settings) as session:
        sizes.append(session.setup_bytes)
        check_inference(session, 0)
    assert sizes == [COST.setup_bytes, (0, 0), (0, 0)]


def test_one_party_that_lost_the_opened_weights_opens_them_again(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings), client(settings):
        pass
    (lost,) = (settings.state / "party1" / "deployments").glob("*/opened.npz")
    lost.write_bytes(b"damaged")
    with running(settings, deployed=False), client(settings) as session:
        assert session.setup_bytes == COST.setup_bytes
        check_inference(session, 0)


def test_many_sessions_run_at_once(cluster: Running) -> None:
    errors: list[BaseException] = []

    def work(k: int) -> None:
        try:
            with client(cluster.settings) as session:
                for number in range(3):
                    check_inference(session, (k + number) % 5)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_more_sessions_than_allowed_are_refused_and_the_others_go_on(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, sessions=1)
    with running(settings) as cluster, client(settings) as first:
        check_inference(first, 0)
        with pytest.raises(ProtocolError, match="runs 1 sessions, which is all that the setting"):
            client(settings).__enter__()
        check_inference(first, 1)
        refused = [
            line for line in cluster.parties[0].metrics().splitlines() if "refused_s" in line
        ]
        assert refused[-1] == 'srcompile_refused_sessions_total{role="party0"} 1'


def test_a_client_that_cannot_reach_party_1_does_not_keep_a_session_of_party_0(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, sessions=1, timeout=60.0)
    with running(settings) as cluster:
        cluster.parties[1].stop()
        for _ in range(3):
            with pytest.raises(ProtocolError, match="party 1 cannot be reached"):
                client(settings).__enter__()
            end = time.monotonic() + 30
            while cluster.parties[0].state()["sessions"] and time.monotonic() < end:
                time.sleep(0.02)
            assert cluster.parties[0].state()["sessions"] == 0


def test_a_party_that_leaves_before_its_session_does_not_keep_the_dealer_waiting(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, timeout=60.0)
    with running(settings) as cluster:
        (name,) = cluster.dealer.store.deployed().values()
        fields: dict[str, Any] = {
            "session": "0" * 32,
            "deployment": name,
            "digest": PROGRAM.digest(),
        }
        links = Links("party0", replace(settings, timeout=0.5))
        with pytest.raises(ProtocolError, match="did not answer"):
            links.dial("dealer", "material", **fields)
        end = time.monotonic() + 30
        while "party 0 left before its session began" not in cluster.log():
            assert time.monotonic() < end
            time.sleep(0.02)
        with client(settings) as session:
            check_inference(session, 0)


def test_a_party_that_falls_silent_does_not_keep_the_dealer_waiting(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings) as cluster:
        # given a dealer that waits for one and a half seconds
        cluster.dealer.settings = replace(settings, idle=0.5)
        ((digest, name),) = cluster.dealer.store.deployed().items()
        cluster.dealer._deployment(name, digest).limit_s = 1.0
        # and parties of a session, of which party 0 says that it still runs, and then nothing more
        fields: dict[str, Any] = {"session": "0" * 32, "deployment": name, "digest": digest}
        visits = [Visiting(Links(p, settings), "dealer", "material", **fields) for p in PARTIES]
        channels = [visit.answer()[0] for visit in visits]
        seeds = [bytes(channel.receive(SEED_BYTES)) for channel in channels]
        assert seeds[0] != seeds[1]
        channels[0].send(REQUEST.pack(BEAT))
        # then the dealer ends the session
        for channel in channels:
            channel.wait_at_most(30)
            with pytest.raises(ProtocolError, match="party 0 did not answer for 2 s"):
                channel.receive(1)
            channel.close()
        until_none_run(cluster)


def until_none_run(cluster: Running) -> None:
    """Wait until no role runs a session."""
    end = time.monotonic() + 30
    while any(role.state()["sessions"] for role in cluster.roles):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_one_session_after_the_other_is_never_one_too_many(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, sessions=1)
    with running(settings):
        for _ in range(12):
            with client(settings) as session:
                check_inference(session, 0)


WRONG: dict[str, dict[str, Any]] = {
    "session": {"session": "../../etc", "digest": "0" * 64, "deployment": "0" * 32},
    "digest": {"session": "0" * 32, "digest": "..", "deployment": "0" * 32},
    "deployment": {"session": "0" * 32, "digest": "0" * 64, "deployment": ["x"]},
    "size": {"deployment": "0" * 32, "digest": "0" * 64, "size": 1 << 60, "session": None},
    "negative": {"deployment": "0" * 32, "digest": "0" * 64, "size": -1, "session": 7},
    "nothing": {},
    "types": {"session": {}, "digest": 1.5, "deployment": None, "size": "1"},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_a_visitor_says_is_checked(cluster: Running, wrong: str) -> None:
    for (who, whom), purposes in MAY.items():
        for purpose in purposes:
            if purpose == "status" or (purpose == "peer" and wrong != "types"):
                continue  # a session that nobody else comes for is waited for
            if purpose == "undeploy" and WRONG[wrong].get("digest") == "0" * 64:
                continue  # nothing is wrong with that
            with pytest.raises(ProtocolError, match="ended the session"):
                Links(who, cluster.settings).dial(whom, purpose, **WRONG[wrong])
    assert "has a problem" not in cluster.log()
    with client(cluster.settings) as session:
        check_inference(session, 0)


def test_an_input_that_does_not_fit_leaves_the_session_open(cluster: Running) -> None:
    with client(cluster.settings) as session:
        with pytest.raises(InputError, match="the program takes"):
            session.infer({"another": np.zeros(1)})
        check_inference(session, 0)


def test_a_value_out_of_range_leaves_the_session_open(tmp_path: Path) -> None:
    settings, program = settings_in(tmp_path), guarded("relu").program
    rng = np.random.default_rng(1)
    within, beyond = with_mean(0.0, rng), with_mean(20 * SMALL, rng)
    with running(settings, deployed=False):
        deploy(program, settings)
        with Client(program, settings) as session:
            first = session.infer(within).outputs["y"]
            with pytest.raises(RangeError, match="left the range that the program was calibrated"):
                session.infer(beyond)
            np.testing.assert_allclose(session.infer(within).outputs["y"], first, atol=0.01)


def test_a_program_that_is_not_deployed_is_refused(cluster: Running) -> None:
    program = compiled(BUILDS["mlp"]).program
    with pytest.raises(ProtocolError, match="party 0 has no deployment of this program"):
        Client(program, cluster.settings).__enter__()


def test_two_programs_are_deployed_side_by_side(tmp_path: Path) -> None:
    settings, mlp = settings_in(tmp_path), BUILDS["mlp"]
    program = compiled(mlp).program
    with running(settings):
        deploy(program, settings)
        with client(settings) as one, Client(program, settings) as other:
            check_inference(one, 0)
            got = other.infer(mlp.samples[0]).outputs["y"]
    want, _ = evaluate(mlp.module, mlp.samples[0], registry())
    np.testing.assert_allclose(got, want["y"], atol=0.01)


def test_more_programs_than_allowed_are_refused(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, deployments=1)
    with running(settings):
        with pytest.raises(ProtocolError, match="1 programs are deployed, which is all"):
            deploy(compiled(BUILDS["mlp"]).program, settings)
        deploy(PROGRAM, settings)  # the same program again replaces the one before
        with client(settings) as session:
            check_inference(session, 0)


def test_a_program_deployed_again_has_fresh_seeds_and_the_old_weights_are_gone(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path)
    seeds = []
    with running(settings):
        for _ in range(2):
            with client(settings) as session:
                check_inference(session, 0)
                assert session.setup_bytes == COST.setup_bytes
            folders = {r: list((settings.state / r / "deployments").iterdir()) for r in LISTENING}
            assert [len(found) for found in folders.values()] == [1, 1, 1]
            seeds.append((folders["dealer"][0] / "seeds").read_bytes())
            deploy(PROGRAM, settings)
    assert seeds[0] != seeds[1]


def kept_folders(cluster: Running) -> dict[str, list[str]]:
    """Return the folders of deployments of each role, when nobody visits it any more."""
    end = time.monotonic() + 30
    while any(role._visits for role in cluster.roles):
        assert time.monotonic() < end
        time.sleep(0.02)
    return {r.role: [p.name for p in r.store.path("").iterdir()] for r in cluster.roles}


def test_a_deployment_that_one_party_cannot_store_leaves_nothing_at_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    with running(settings) as cluster:
        # given a deployment, and a party 1 whose disk is full when there are others
        before = kept_folders(cluster)

        def full(folder: Path, program: Program, party: int, shares: Mapping[str, Ring]) -> None:
            if party == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            store_weights(folder, program, party, shares)

        with monkeypatch.context() as patch:
            patch.setattr(party_module, "store_weights", full)
            for program in (PROGRAM, compiled(BUILDS["mlp"]).program):
                with pytest.raises(ProtocolError, match="the disk of party 1 is full"):
                    deploy(program, settings)
        # then each role has what it had, the one before serves, and is replaced when there is room
        assert kept_folders(cluster) == before
        with client(settings) as session:
            check_inference(session, 0)
        deploy(PROGRAM, settings)
        with client(settings) as session:
            check_inference(session, 0)


def test_a_deployment_stays_where_it_is_active_whatever_becomes_of_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    with running(settings) as cluster:
        before, store = kept_folders(cluster), cluster.dealer.store
        activate = store.activate

        # given an owner whose link breaks when the dealer has activated its deployment
        def lost(deployment: str, digest: str) -> None:
            activate(deployment, digest)
            for channel in list(cluster.dealer._open):
                channel.interrupt()

        with monkeypatch.context() as patch:
            patch.setattr(store, "activate", lost)
            with pytest.raises(ProtocolError):
                deploy(PROGRAM, settings)
        # then the dealer keeps it, and each party has one in full: this one or the one before
        kept = kept_folders(cluster)
        assert kept["dealer"] != before["dealer"]
        current = {role.role: [*role.store.deployed().values()] for role in cluster.roles}
        assert kept == current
        # and the program can be deployed again
        deploy(PROGRAM, settings)
        with client(settings) as session:
            check_inference(session, 0)


def test_a_session_of_a_replaced_deployment_ends(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings):
        session = client(settings).__enter__()
        check_inference(session, 0)
        deploy(PROGRAM, settings)
        with pytest.raises(ProtocolError, match="was deployed again or taken away; open another"):
            session.infer(POOL.samples[0])


def test_an_upload_that_takes_longer_than_roles_wait_keeps_nobody_from_deploying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given roles that wait for four seconds, and shares that take longer than that together
    settings, kernels = settings_in(tmp_path, idle=4.0), load_kernels()
    pack, each_s = type(kernels).pack, 5.0 / (2 * len(PROGRAM.weights()))

    def slowly(self: Any, values: Any, width: int) -> Any:
        time.sleep(each_s)
        return pack(self, values, width)

    with running(settings):
        # when
        with monkeypatch.context() as slow:
            slow.setattr(type(kernels), "pack", slowly)
            deployment = deploy(PROGRAM, settings)
        # then it is at all three
        for role in LISTENING:
            found = (settings.state / role / "current" / PROGRAM.digest()).read_text()
            assert found == deployment
        with client(settings) as session:
            check_inference(session, 0)


@pytest.mark.parametrize("role", LISTENING)
def test_a_role_that_gives_up_before_the_deployment_is_active_leaves_the_one_before_at_all(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a role that does not wait for the owner's last word
    settings = settings_in(tmp_path)
    with running(settings) as cluster:
        service = next(s for s in cluster.roles if s.role == role)
        activate, gave_up = Service._activate, threading.Event()

        def give_up(self: Service, visit: Visit, *given: Any) -> None:
            if self is not service:
                assert gave_up.wait(20)  # so that the owner's last word comes after that
                return activate(self, visit, *given)
            visit.channel.send_json({"stored": True})
            raise ProtocolError("it gave up")

        def fail(self: LinkChannel, reason: str) -> None:
            failed(self, reason)
            gave_up.set()

        failed = LinkChannel.fail
        monkeypatch.setattr(LinkChannel, "fail", fail)
        monkeypatch.setattr(Service, "_activate", give_up)
        # when
        with pytest.raises(ProtocolError, match="it gave up"):
            deploy(PROGRAM, settings)
        # then
        with client(settings) as session:
            check_inference(session, 0)


def test_a_deployment_taken_away_is_gone_at_all_roles_and_its_sessions_end(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, deployments=1)
    with running(settings) as cluster:
        session = client(settings).__enter__()
        check_inference(session, 0)
        # when
        assert undeploy(PROGRAM.digest(), settings) == list(LISTENING)
        # then
        with pytest.raises(ProtocolError, match="was deployed again or taken away; open another"):
            session.infer(POOL.samples[0])
        with pytest.raises(ProtocolError, match="party 0 has no deployment of this program"):
            client(settings).__enter__()
        for role in cluster.roles:
            assert not list(role.store.path("").iterdir())
            assert role.state()["deployed"] == {}
        assert undeploy(PROGRAM.digest(), settings) == []
        # and there is room for another one
        deploy(compiled(BUILDS["mlp"]).program, settings)
        deployed = [role.state()["deployed"] for role in cluster.roles]
        assert deployed[0] == deployed[1] == deployed[2] != {}


def test_parties_with_different_deployments_say_so(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings) as cluster:
        digest = PROGRAM.digest()
        store = cluster.parties[1].store
        with store.adding("f" * 32, PROGRAM.for_parties()):
            pass
        store.activate("f" * 32, digest)
        with pytest.raises(ProtocolError, match="have different deployments of this program"):
            client(settings).__enter__()


def test_a_dealer_that_lost_its_seeds_is_not_trusted_with_the_old_weights(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings), client(settings):
        pass
    (seeds,) = (settings.state / "dealer" / "deployments").glob("*/seeds")
    seeds.write_bytes(bytes(32))
    with (
        running(settings, deployed=False),
        pytest.raises(ProtocolError, match="has other seeds than when the program was deployed"),
    ):
        client(settings).__enter__()


def test_secrets_on_disk_are_the_owners_alone_and_programs_have_no_weights(
    cluster: Running,
) -> None:
    with client(cluster.settings) as session:
        check_inference(session, 0)
    for role in LISTENING:
        folder = cluster.settings.state / role
        paths = [folder, *folder.rglob("*")]
        assert {p.stat().st_mode & 0o077 for p in paths} == {0}
        (program,) = folder.glob("deployments/*/program.srp")
        loaded = loads(program.read_bytes())
        assert all(loaded.constants[name].data is None for name in loaded.weights())


def test_logs_name_no_value(cluster: Running) -> None:
    secret = 1.2345
    inputs = {"x": np.full((1, 4), secret, np.float32)}
    with client(cluster.settings) as session:
        outputs = session.infer(inputs).outputs["y"]
    for value in (secret, *outputs.ravel()):
        assert str(abs(value))[:6] not in cluster.log()
    seeds = list(cluster.settings.state.rglob("seeds"))
    assert seeds
    for file in seeds:
        for half in (file.read_bytes()[:16], file.read_bytes()[16:]):
            assert half.hex() not in cluster.log()
            assert repr(half)[2:-1] not in cluster.log()


def test_two_processes_do_not_share_a_state(cluster: Running) -> None:
    second = replace(
        cluster.settings, party0=replace(cluster.settings.party0, port=free_ports(1)[0])
    )
    with pytest.raises(ConfigError, match="is in use by another process"):
        PartyService(0, second).start()


def test_a_taken_port_is_named(tmp_path: Path, cluster: Running) -> None:
    second = replace(cluster.settings, state=tmp_path)
    place = cluster.settings.party0
    with pytest.raises(ConfigError, match=f"party 0 cannot listen on 127.0.0.1 port {place.port}"):
        PartyService(0, second).start()


def test_a_taken_port_for_health_leaves_nothing_open(tmp_path: Path) -> None:
    # given a role whose port for health is taken
    (port,) = free_ports(1)
    service = PartyService(0, settings_in(tmp_path, health_port=port))
    with socket.create_server(("127.0.0.1", port)):
        # when it starts, then that is named, each time
        for _ in range(2):
            with pytest.raises(ConfigError, match=f"port {port} of 'health_port' cannot be had"):
                service.start()
    # and it starts when the port is free
    with service:
        pass


def test_what_fails_is_logged_with_its_session_and_client(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    alice = named(settings, certificates(), "alice")
    with running(settings) as cluster:
        # given a session of a client that ends with an error
        session = client(alice).__enter__()
        check_inference(session, 0)
        session._close("something is wrong")
        wait_until(lambda: not any(role._visits for role in cluster.roles))
        lines = [line for line in cluster.log().splitlines() if "a visit failed" in line]
        # then each role says which, and a party whose it was
        assert len(lines) >= 3
        assert [line for line in lines if f"session={session.session[:8]} " not in line] == []
        whose = [line for line in lines if "peer=client purpose=infer client=alice " in line]
        assert len(whose) == 2
        assert session.session not in cluster.log()
    # and an identifier that is none is not in the log
    nothing: Any = None
    visit = Visit(nothing, "client", "alice", "infer", {"session": "../secret"})
    assert _about(visit) == {"peer": "client", "purpose": "infer", "client": "alice"}


def test_weights_may_be_shares_from_files(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings, deployed=False):
        deploy(PROGRAM.without_weights(), settings, share_weights(PROGRAM))
        with client(settings) as session:
            check_inference(session, 0)


# -- processes ------------------------------------------------------------------------------------


def test_processes_serve_drain_on_sigterm_and_recover_after_a_kill(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with Processes(tmp_path, settings) as processes:
        deploy(PROGRAM, settings)
        for role in LISTENING:
            # given a session in which a role is killed
            session = client(settings).__enter__()
            check_inference(session, 0)
            processes.kill(role)
            # then it ends with an error that names who is gone
            with pytest.raises(ProtocolError) as caught:
                session.infer(POOL.samples[0])
            name = {"dealer": "the dealer", "party0": "party 0", "party1": "party 1"}[role]
            assert name in str(caught.value)
            # and when the role is back, so is the service
            processes.start(role)
            with client(settings) as again:
                check_inference(again, 1)
        # a role that is stopped ends the session of a client that asks for nothing
        session = client(settings).__enter__()
        check_inference(session, 2)
        processes.processes["party0"].send_signal(signal.SIGTERM)
        assert processes.processes["party0"].wait(20) == 0
        with pytest.raises(ProtocolError, match="party 0 shuts down and has ended the sessions"):
            session.infer(POOL.samples[0])
        assert "Traceback" not in "".join(map(processes.log, LISTENING))


def test_a_full_disk_ends_the_session_and_is_named_and_the_service_recovers(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path)
    with Processes(tmp_path, settings) as processes:
        deploy(PROGRAM, settings)
        session = client(settings).__enter__()
        check_inference(session, 0)
        # given a party that cannot write one byte more to its file of marks, and no line of log
        (used,) = (settings.state / "party0").glob("deployments/*/used")
        pid, full = processes.processes["party0"].pid, used.stat().st_size
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
        # then the session ends, and the client learns why
        with pytest.raises(ProtocolError, match="the disk of party 0 is full; free some space"):
            session.infer(POOL.samples[0])
        # and when there is room again, the service goes on
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        with client(settings) as again:
            check_inference(again, 1)
        assert "Traceback" not in "".join(map(processes.log, LISTENING))


@pytest.mark.parametrize(("role", "name"), [("dealer", "the dealer"), ("party1", "party 1")])
def test_a_role_without_memory_ends_the_session_and_is_named_and_the_service_goes_on(
    role: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    with running(settings) as cluster, client(settings) as first:
        check_inference(first, 0)
        kernels = {"dealer": cluster.dealer, "party1": cluster.parties[1]}[role].kernels

        # given kernels for which there is no memory
        def none_left(*_: object) -> None:
            raise MemoryError("std::bad_alloc")

        monkeypatch.setattr(kernels, "prg", none_left)
        # when an inference needs some, then its session ends, and the client learns why
        with pytest.raises(ProtocolError, match=f"{name} is out of memory; give it more"):
            first.infer(POOL.samples[0])
        monkeypatch.undo()
        # and the service goes on
        with client(settings) as again:
            check_inference(again, 1)
    assert f"{name} is out of memory" in cluster.logs[role].getvalue()
    assert "Traceback" not in cluster.log()


# -- doctor, health -------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_with_a_running_cluster(cluster: Running) -> None:
    for role in ("dealer", "party0", "party1", "client", "owner"):
        findings = examine(role, cluster.settings, PROGRAM.digest())
        assert [f for f in findings if not f.good] == []
        assert len(findings) >= 6


def test_doctor_says_what_is_wrong_and_what_would_do(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    # given a cluster in which party 1 does not run, nothing is deployed and a key is open to all
    with PartyService(0, settings):
        findings = {f.what: f for f in examine("client", settings, "0" * 64)}
        assert not findings["party 1"].good
        assert "cannot be reached" in findings["party 1"].found
        assert findings["party 0"].good
        assert findings["program 000000000000"].found == "not deployed at party 0"
        assert "srrun deploy" in findings["program 000000000000"].advice
    # and the files of another role in place of the client's
    shutil.copytree(settings.certs, tmp_path / "wrong")
    for end in ("pem", "key"):
        shutil.copy(settings.certs / f"owner.{end}", tmp_path / "wrong" / f"client.{end}")
    (finding,) = [
        f for f in examine("client", replace(settings, certs=tmp_path / "wrong")) if not f.good
    ]
    assert "client.pem is not the certificate of the client; copy that" in finding.found
    # and none
    empty = replace(settings, certs=tmp_path / "none")
    (finding,) = [f for f in examine("client", empty) if not f.good]
    assert "there is no file" in finding.found
    assert "`srrun certs init` makes" in finding.found


def test_doctor_finds_that_its_own_role_lost_a_deployment(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    what = f"program {PROGRAM.digest()[:12]}"
    with running(settings):
        found = {f.what: f for f in examine("party0", settings)}[what]
        assert (found.good, found.found) == (True, "deployed at the dealer, party 1, party 0")
        empty = replace(settings, state=tmp_path / "another")
        found = {f.what: f for f in examine("party0", empty)}[what]
        assert (found.good, found.found) == (False, "not deployed at party 0")


def test_doctor_looks_at_dates_versions_and_clocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificates(tmp_path, {}, days=20)
    found = doctor._dates(tmp_path / "party0.pem")
    assert (found.good, found.advice) == (True, "make new ones soon: `srrun certs renew`")
    monkeypatch.setattr(certificates_module, "_EARLIER", timedelta(days=2))
    renew_certificates(tmp_path, {}, days=-1)
    found = doctor._dates(tmp_path / "party0.pem")
    assert not found.good
    assert found.found.startswith("expired on")
    assert not doctor._dates(tmp_path / "none.pem").good
    monkeypatch.setattr(certificates_module, "_EARLIER", -timedelta(days=1))
    renew_certificates(tmp_path, {})
    assert doctor._dates(tmp_path / "party0.pem").advice == "set the clock"
    # and at what a peer says of itself
    now = time.time()
    said = {"version": srcompile.__version__, "time": now + 5}
    assert all(f.good for f in doctor._state_of("party 0", said, now, 0.1))
    said = {"version": "0.0.1", "time": now + 500}
    version, clock = doctor._state_of("party 0", said, now, 0.1)
    assert not version.good
    assert not clock.good
    assert version.advice == f"install version {srcompile.__version__} everywhere"


@pytest.mark.parametrize("days", [20, -1])
def test_doctor_says_that_an_authority_is_not_renewed(
    days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given certificates of an authority that expires soon, or has
    monkeypatch.setattr(certificates_module, "_EARLIER", timedelta(days=2))
    monkeypatch.setattr(certificates_module, "AUTHORITY_DAYS", days)
    make_certificates(tmp_path, {})
    # when the doctor looks at them
    settings = replace(settings_in(tmp_path), certs=tmp_path)
    found = {f.what: f for f in examine("party0", settings)}
    # then another authority would do, and new certificates of this one would not
    soon = " soon" if days > 0 else ""
    for what in ("certificate ca.pem", "certificate party0.pem"):
        assert found[what].good == (days > 0)
        assert found[what].advice == (
            f"make a new authority{soon}: `srrun certs init` in another folder, for all roles"
        )


def test_health_and_metrics_count_what_was_done(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    settings = settings_in(tmp_path)
    cluster = Running(settings)
    watched = PartyService(0, replace(settings, health_port=port))
    with watched, cluster.parties[1], cluster.dealer:
        deploy(PROGRAM, settings)
        with client(settings) as session:
            check_inference(session, 0)
            check_inference(session, 1)
            wait_until(lambda: watched.counts.inferences == 2)  # the client has its result before
            base = f"http://127.0.0.1:{port}"
            with urllib.request.urlopen(f"{base}/health") as answer:
                state = json.load(answer)
            with urllib.request.urlopen(f"{base}/metrics") as answer:
                lines = answer.read().decode().splitlines()
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{base}/other")
            caught.value.close()
    assert (state["sessions"], state["stopping"]) == (1, False)
    values = {line.split("{")[0]: line.split()[1] for line in lines if not line.startswith("#")}
    assert {name.removesuffix("_bucket") for name in values} >= {
        f"srcompile_{name}" + ("_total" if kind == "counter" else "")
        for name, (kind, _) in METRICS.items()
        if not name.startswith("stock_")
    }
    assert values["srcompile_sessions_total"] == values["srcompile_running_sessions"] == "1"
    assert values["srcompile_inferences_total"] == "2"
    routes = [evaluate(POOL.module, POOL.samples[k], registry())[1] for k in (0, 1)]
    models = {s.route: s.name for s in PROGRAM.segments}
    for route in set(routes):
        shown = f'role="party0",route="{route}",model="{models[route]}"'
        took = f"srcompile_inference_seconds_count{{{shown}}} "
        assert f"{took}{routes.count(route)}" in lines
    assert values["srcompile_rounds_total"] == str(sum(COST.total(r).rounds for r in routes))
    assert values["srcompile_batches_total"] == "0"
    online = sum(COST.total(route).online_bytes[0] for route in routes)
    assert values["srcompile_online_bytes_total"] == str(online)


def test_material_that_does_not_fit_into_memory_is_on_disk_and_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path, memory=0)
    written: list[Path] = []
    write = Spool.write

    def noted(self: Spool, parts: Sequence[Bytes]) -> Record:
        record = write(self, parts)
        written.append(self._path(record))
        return record

    monkeypatch.setattr(Spool, "write", noted)
    with running(settings):
        with client(settings) as session:
            check_inference(session, 0)
            check_inference(session, 1)
        session = client(settings).__enter__()
        check_inference(session, 0)
        session._close("this one ends with an error")
    assert {p.parents[1] for p in written} == {settings.state / f"party{p}/spool" for p in (0, 1)}
    assert not any(path.exists() for path in written)
