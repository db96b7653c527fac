"""TLS between roles: full duplex, exact sizes, time-outs, and nothing for the wrong certificate."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from srcompile.runtime import certificates as module
from srcompile.runtime.certificates import (
    check_own,
    describe,
    hosts_of,
    make_certificates,
    make_client_certificate,
    renew_certificates,
)
from srcompile.runtime.channels.link import EndedError, LinkChannel
from srcompile.runtime.channels.tls import KEY_BYTES, TlsChannel, contexts, secured, valid_until
from srcompile.runtime.errors import ConfigError, ProtocolError
from srcompile.runtime.roles import ROLES
from srcompile.runtime.services.links import MAY, PROTOCOL, Links, Visit
from tests.support.services import certificates, settings_in

MEGABYTES = 6


def connected() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a loopback connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        first = socket.create_connection(listener.getsockname())
        return first, listener.accept()[0]


def both(*works: Callable[[], Any]) -> list[Any]:
    """Run works at the same time; return what they returned or raised."""
    found: list[Any] = [None] * len(works)

    def run(k: int) -> None:
        try:
            found[k] = works[k]()
        except Exception as error:
            found[k] = error

    threads = [threading.Thread(target=run, args=(k,), daemon=True) for k in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "this waits for ever"
    return found


def tls_pair(timeout_s: float = 5.0) -> tuple[TlsChannel, TlsChannel]:
    """Return a channel of the client to party 0 and party 0's end of it."""
    ends = connected()
    server, _ = contexts(certificates(), "party0")
    _, client = contexts(certificates(), "client")
    (to_party, party), (to_client, role) = both(
        lambda: secured(ends[0], client, "127.0.0.1"), lambda: secured(ends[1], server, None)
    )
    assert (party, role) == ("party0", "client")
    return (
        TlsChannel(to_party, "party 0", timeout_s),
        TlsChannel(to_client, "the client", timeout_s),
    )


def test_a_link_lives_no_longer_than_the_first_certificate_that_expires(tmp_path: Path) -> None:
    # given certificates of roles that expire before, and after, that of their authority
    for name, days in (("before", 20), ("after", 2000)):
        make_certificates(tmp_path / name, {}, days=days)
        own, authority = (
            describe(tmp_path / name / f"{file}.pem")[1].timestamp() for file in ("party0", "ca")
        )
        # then a role knows the first of the two
        assert valid_until(tmp_path / name, "party0") == min(own, authority)
        assert (own < authority) is (name == "before")
    # and each end of a link knows that of the other end's certificate
    ends = tls_pair()
    for end, role in zip(ends, ("party0", "client"), strict=True):
        assert end.valid_until == describe(certificates() / f"{role}.pem")[1].timestamp()
        end.close()


def plain_pair(timeout_s: float = 5.0) -> tuple[LinkChannel, LinkChannel]:
    """Return the same without TLS."""
    ends = connected()
    return LinkChannel(ends[0], "party 0", timeout_s), LinkChannel(ends[1], "the client", timeout_s)


@pytest.fixture(params=[tls_pair, plain_pair], ids=["tls", "plain"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[LinkChannel, LinkChannel]]:
    """Return two connected channels."""
    channels = request.param()
    yield channels
    for channel in channels:
        channel.close()


# -- messages -------------------------------------------------------------------------------------


def test_both_may_send_much_at_once(pair: tuple[LinkChannel, LinkChannel]) -> None:
    size = MEGABYTES << 20
    data = bytes(range(256)) * (size // 256), bytes(reversed(range(256))) * (size // 256)
    into = bytearray(size), bytearray(size)
    done = both(
        lambda: pair[0].exchange([memoryview(data[0])], [memoryview(into[0])]),
        lambda: pair[1].exchange([memoryview(data[1])], [memoryview(into[1])]),
    )
    assert done == [None, None]
    assert (bytes(into[0]), bytes(into[1])) == (data[1], data[0])
    assert (pair[0].traffic.sent, pair[0].traffic.messages) == (size, 1)


@pytest.mark.parametrize("size", [0, 1, 7, 16376, 16377, 16384, 100_003])
def test_messages_of_all_sizes_arrive_whole(
    pair: tuple[LinkChannel, LinkChannel], size: int
) -> None:
    data = bytes(k % 251 for k in range(size))
    sent, got = both(lambda: pair[0].send(data), lambda: pair[1].receive(size))
    assert (sent, bytes(got)) == (None, data)
    pair[1].send(b"")
    assert bytes(pair[0].receive(0)) == b""


def test_messages_that_are_sent_soon_keep_their_order_and_their_sizes(
    pair: tuple[LinkChannel, LinkChannel],
) -> None:
    # given small messages, some that go at once, and large ones between them
    sizes = [3, 0, 70_000, 8, 1, 65_536, 5, 40_000, 40_000, 2, 16_377, 300_000, 7]
    data = [bytes((k + j) % 251 for j in range(size)) for k, size in enumerate(sizes)]

    def give() -> None:
        for k, message in enumerate(data):
            (pair[0].send if k % 5 == 4 else pair[0].send_soon)(message)
        pair[0].send_soon(b"last")
        into = bytearray(2)
        pair[0].exchange([memoryview(b"ab")], [memoryview(into)])
        assert bytes(into) == b"cd"

    def take() -> list[bytes]:
        got = [bytes(pair[1].receive(size)) for size in sizes]
        got.append(bytes(pair[1].receive(4)))
        into = bytearray(1), bytearray(1)
        pair[1].exchange([memoryview(b"cd")], [memoryview(part) for part in into])
        return [*got, b"".join(into)]

    sent, got = both(give, take)
    assert sent is None
    assert got == [*data, b"last", b"ab"]
    assert pair[0].traffic.messages == len(sizes) + 2
    assert pair[1].traffic.received == pair[0].traffic.sent


def test_a_link_that_is_stopped_wakes_who_waits_and_may_still_say_why(
    pair: tuple[LinkChannel, LinkChannel],
) -> None:
    # given an end that waits for the other one
    def stop() -> None:
        time.sleep(0.3)
        pair[0].stop("party 1 shuts down")

    # when another thread stops it
    waited, _ = both(lambda: pair[0].receive(1), stop)
    # then who waits gets that as an error, and so does who sends
    assert str(waited) == "party 1 shuts down"
    with pytest.raises(ProtocolError, match="party 1 shuts down"):
        pair[0].send(b"more")
    # and the other end can be told
    _, told = both(lambda: pair[0].fail("it is late"), lambda: pair[1].receive(1))
    assert isinstance(told, EndedError)
    assert str(told) == "the client ended the session: it is late"


def test_who_sends_on_a_link_that_was_ended_learns_why(
    pair: tuple[LinkChannel, LinkChannel],
) -> None:
    # given an end that has ended the link and is gone, before the other one reads anything
    pair[1].fail("it is late")

    def send() -> None:
        for _ in range(1000):
            pair[0].send(bytes(1 << 16))

    # when that sends, then it learns why it cannot
    with pytest.raises(EndedError, match="party 0 ended the session: it is late"):
        send()


def test_a_message_in_parts_is_one_message(pair: tuple[LinkChannel, LinkChannel]) -> None:
    parts = [bytes([k]) * size for k, size in enumerate([1, 40_000, 0, 7, 20_000])]
    whole = b"".join(parts)
    into = bytearray(len(whole)), [bytearray(size) for size in (10, len(whole) - 10)]
    views = [memoryview(part) for part in parts]
    done = both(
        lambda: pair[0].exchange(views, [memoryview(part) for part in into[1]]),
        lambda: pair[1].exchange([memoryview(whole)], [memoryview(into[0])]),
    )
    assert done == [None, None]
    assert bytes(into[0]) == b"".join(into[1]) == whole
    assert pair[0].traffic.messages == 1


def test_many_small_exchanges_keep_their_order(pair: tuple[LinkChannel, LinkChannel]) -> None:
    def work(k: int) -> list[int]:
        got = []
        for number in range(300):
            into = bytearray(4)
            pair[k].exchange([memoryview(number.to_bytes(4, "big"))], [memoryview(into)])
            got.append(int.from_bytes(into, "big"))
        return got

    assert both(lambda: work(0), lambda: work(1)) == [list(range(300))] * 2


@pytest.mark.parametrize("size", [2, 4, 5000])
def test_a_message_of_another_size_is_an_error(
    pair: tuple[LinkChannel, LinkChannel], size: int
) -> None:
    pair[0].send(b"abc")
    with pytest.raises(ProtocolError, match=f"client sent 3 bytes where {size} were expected"):
        pair[1].receive(size)


def test_a_closed_connection_names_the_peer(pair: tuple[LinkChannel, LinkChannel]) -> None:
    pair[0].close()
    with pytest.raises(ProtocolError, match="the client closed the connection"):
        pair[1].receive(1)


@pytest.mark.parametrize("make", [tls_pair, plain_pair], ids=["tls", "plain"])
def test_a_silent_peer_is_not_waited_for_for_ever(
    make: Callable[[float], tuple[LinkChannel, LinkChannel]],
) -> None:
    channels = make(0.05)
    with pytest.raises(ProtocolError, match="party 0 did not answer for 0 s"):
        channels[0].receive(1)
    # and one that does not read neither
    with pytest.raises(ProtocolError, match="party 0 did not answer for 0 s"):
        channels[0].send(bytes(MEGABYTES << 20))
    for channel in channels:
        channel.close()


def test_a_link_may_end_with_a_reason_whatever_is_waited_for(
    pair: tuple[LinkChannel, LinkChannel],
) -> None:
    # given a message on the way that the other side does not read, and a reason behind it
    pair[0].send(b"abc")
    failed, got = both(lambda: pair[0].fail("round 3: it broke\n"), lambda: pair[1].receive(3))
    assert (failed, bytes(got)) == (None, b"abc")
    with pytest.raises(EndedError, match=r"^the client ended the session: round 3: it broke\?$"):
        pair[1].receive(1_000_000)


def test_a_reason_is_found_behind_messages_that_nobody_read(
    pair: tuple[LinkChannel, LinkChannel],
) -> None:
    pair[0].send(b"abc")
    _, said = both(lambda: pair[0].fail("a reason"), lambda: pair[1].reason(2.0))
    assert said == "the client ended the session: a reason"


@pytest.mark.parametrize("text", [b"[]", b"{", b"\xff", b"[" * 4_000])
def test_what_is_no_control_message_is_an_error(
    pair: tuple[LinkChannel, LinkChannel], text: bytes
) -> None:
    pair[0].send(text)
    with pytest.raises(ProtocolError, match="the client sent something that is no control message"):
        pair[1].receive_json()


def test_an_interrupted_link_ends_at_once(pair: tuple[LinkChannel, LinkChannel]) -> None:
    waiting = threading.Timer(0.1, pair[0].interrupt)
    waiting.start()
    with pytest.raises(ProtocolError):
        pair[0].receive(1)
    waiting.join()


def test_tls_is_1_3_with_aes_gcm_and_the_bytes_on_the_wire_tell_nothing() -> None:
    channels = tls_pair()
    assert channels[0].cipher == channels[1].cipher == ("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    # when a marked message is sent, and read as it comes from the wire
    text = b"0123456789abcdef" * 64
    channels[0].send(text)
    raw = socket.socket.recv(channels[1]._tls, 1 << 16)
    # then it is longer, and the mark is not in it
    assert len(raw) > len(text)
    assert text[:16] not in raw
    for channel in channels:
        channel.close()


def test_a_link_ends_before_its_key_has_protected_too_much() -> None:
    channels = tls_pair()
    channels[0].send(b"a")
    channels[0].traffic.sent = KEY_BYTES + 1
    with pytest.raises(ProtocolError, match="as much as one TLS key may protect; open another"):
        channels[0].send(b"b")
    channels[1].traffic.received = KEY_BYTES + 1
    with pytest.raises(ProtocolError, match="as much as one TLS key may protect; open another"):
        channels[1].receive(1)
    for channel in channels:
        channel.close()


# -- who may come ---------------------------------------------------------------------------------


def refused(
    server_side: Callable[[socket.socket], Any], client_side: Callable[[socket.socket], Any]
) -> tuple[Exception, Any]:
    """Return what both sides of a connection that must not succeed say."""
    ends = connected()
    server, client = both(lambda: server_side(ends[1]), lambda: client_side(ends[0]))
    for end in ends:
        end.close()
    assert isinstance(server, Exception), server
    return server, client


def party_welcomes(tmp_path: Path) -> Callable[[socket.socket], Any]:
    """Return what party 0 does with a connection."""
    links = Links("party0", settings_in(tmp_path))

    def welcome(connection: socket.socket) -> Visit:
        visit = links.welcome(connection)
        visit.channel.close()
        return visit

    return welcome


def tls_client(context: ssl.SSLContext) -> Callable[[socket.socket], Any]:
    """Return what connects with this context, says hello as a client and waits for an answer."""

    def come(connection: socket.socket) -> bytes:
        with context.wrap_socket(connection, server_hostname="127.0.0.1") as tls:
            channel = TlsChannel(tls, "party 0", 5.0)
            channel.send_json({"protocol": PROTOCOL, "role": "client", "purpose": "infer"})
            return bytes(channel.receive(1))

    return come


def test_who_has_no_certificate_gets_nothing(tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=certificates() / "ca.pem")
    server, client = refused(party_welcomes(tmp_path), tls_client(context))
    assert "peer did not return a certificate" in str(server)
    assert isinstance(client, ProtocolError)


def test_a_certificate_of_another_authority_is_refused_by_both_sides(tmp_path: Path) -> None:
    make_certificates(tmp_path / "others", {})
    _, others = contexts(tmp_path / "others", "client")
    server, client = refused(party_welcomes(tmp_path), lambda s: secured(s, others, "127.0.0.1"))
    assert "self-signed certificate in certificate chain" in str(client)
    assert isinstance(server, ProtocolError)
    # and one that trusts this cluster's authority, but shows the other certificate
    others.load_verify_locations(certificates() / "ca.pem")
    server, client = refused(party_welcomes(tmp_path), tls_client(others))
    assert "no TLS 1.3 with a certificate of this cluster" in str(server)
    assert isinstance(client, ProtocolError)


@pytest.mark.parametrize(
    ("earlier", "days", "said"),
    [(400, -1, "certificate has expired"), (-1, 2, "certificate is not yet valid")],
)
def test_a_certificate_is_refused_while_the_clock_says_that_it_is_not_valid(
    earlier: int, days: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EARLIER", datetime.timedelta(days=earlier))
    make_certificates(tmp_path / "away", {}, days=days)
    monkeypatch.undo()
    server, client = refused(
        lambda s: secured(s, contexts(tmp_path / "away", "party0")[0], None),
        lambda s: secured(s, contexts(tmp_path / "away", "client")[1], "127.0.0.1"),
    )
    assert said in str(client)
    assert isinstance(server, ProtocolError)


def test_older_tls_is_refused(tmp_path: Path) -> None:
    _, context = contexts(certificates(), "client")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server, client = refused(party_welcomes(tmp_path), tls_client(context))
    assert "unsupported protocol" in str(server)
    assert isinstance(client, ssl.SSLError)


def test_who_comes_without_tls_learns_that_both_sides_need_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    plain = Links("client", replace(settings, insecure=True))
    with socket.create_server(("127.0.0.1", settings.party0.port)) as listener:
        _, said = both(
            lambda: Links("party0", settings).welcome(listener.accept()[0]),
            lambda: plain.dial("party0", "status"),
        )
    assert str(said).endswith("; with insecure = true here, it must be so there, too")


def test_plain_tcp_and_noise_are_refused(tmp_path: Path) -> None:
    def shout(connection: socket.socket) -> None:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")

    server, _ = refused(party_welcomes(tmp_path), shout)
    assert "no TLS 1.3" in str(server)


def hello(links: Links, role: str, **fields: Any) -> Callable[[socket.socket], Any]:
    """Return what connects with a role's certificate and says something else."""

    def come(connection: socket.socket) -> Any:
        assert links.credentials is not None
        tls, _ = secured(connection, links.credentials.client, "127.0.0.1")
        with tls:
            channel = TlsChannel(tls, "party 0", 5.0)
            channel.send_json({"protocol": PROTOCOL, "role": role, "purpose": "infer", **fields})
            channel.receive_json()

    return come


def test_a_role_cannot_be_claimed_with_the_certificate_of_another(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    for role in ROLES:
        for claimed in ROLES:
            ends, links = connected(), Links(role, settings)
            server, client = both(
                partial(party_welcomes(tmp_path), ends[1]), partial(hello(links, claimed), ends[0])
            )
            if role == claimed == "client":
                assert isinstance(server, Visit)
            else:
                assert isinstance(server, ProtocolError)
                assert "ended the session" in str(client)


@pytest.mark.parametrize("purpose", ["infer", "deploy", "peer", "material", "other"])
@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_come_for_what_is_its_own_only(role: str, purpose: str, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    ends = connected()
    server, client = both(
        lambda: party_welcomes(tmp_path)(ends[1]),
        lambda: hello(Links(role, settings), role, purpose=purpose)(ends[0]),
    )
    if purpose in MAY.get((role, "party0"), ()):
        assert isinstance(server, Visit)
    else:
        assert "may not come to party 0 for this" in str(server)
        assert "may not come to party 0 for this" in str(client)


def test_another_version_of_the_protocol_is_refused_with_what_would_do(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    server, client = refused(
        party_welcomes(tmp_path), hello(Links("client", settings), "client", protocol=PROTOCOL + 1)
    )
    assert "install the same version of srcompile on all machines" in str(server)
    assert "install the same version of srcompile on all machines" in str(client)


def test_the_host_must_be_one_of_the_certificate(tmp_path: Path) -> None:
    make_certificates(tmp_path / "certs", {"party0": ["p0.example.org", "10.0.0.5"]})
    _, client = refused(
        lambda s: secured(s, contexts(tmp_path / "certs", "party0")[0], None),
        lambda s: secured(s, contexts(tmp_path / "certs", "client")[1], "127.0.0.1"),
    )
    assert "ip address mismatch" in str(client).lower()


def test_who_connects_finds_out_that_another_role_answers(tmp_path: Path) -> None:
    """The client is not sent to a dealer that listens where party 0 should."""
    settings = settings_in(tmp_path)
    with socket.create_server(("127.0.0.1", settings.party0.port)) as listener:
        _, said = both(
            lambda: Links("dealer", settings).welcome(listener.accept()[0]),
            lambda: Links("client", settings).dial("party0", "infer"),
        )
    assert str(said) == "party 0 showed the certificate of the dealer"


# -- certificates ---------------------------------------------------------------------------------


def test_keys_are_the_owners_alone_and_certificates_name_role_and_hosts(tmp_path: Path) -> None:
    files = make_certificates(tmp_path / "certs", {"party1": ["p1.example.org", "2001:db8::1"]})
    assert len(files) == len(set(files)) == 2 * (1 + len(ROLES))
    assert (tmp_path / "certs").stat().st_mode & 0o777 == 0o700
    for file in files:
        mode = stat.S_IMODE(file.stat().st_mode)
        assert mode == (0o600 if file.suffix == ".key" else 0o644)
    for role in ROLES:
        certificate = x509.load_pem_x509_certificate((tmp_path / f"certs/{role}.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        assert uris == [f"srcompile:role:{role}"]
        hosts = {str(h) for h in names.get_values_for_type(x509.DNSName)}
        hosts |= {str(h) for h in names.get_values_for_type(x509.IPAddress)}
        own = {"p1.example.org", "2001:db8::1"}
        assert hosts == (own if role == "party1" else {"localhost", "127.0.0.1", "::1"})
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert datetime.timedelta(days=397) <= life < datetime.timedelta(days=398)


def test_an_authority_is_not_overwritten_and_roles_are_renewed_under_it(tmp_path: Path) -> None:
    make_certificates(tmp_path, {})
    before = (tmp_path / "party0.pem").read_bytes(), (tmp_path / "ca.pem").read_bytes()
    with pytest.raises(ConfigError, match="holds an authority already"):
        make_certificates(tmp_path, {})
    renew_certificates(tmp_path, {})
    assert (tmp_path / "party0.pem").read_bytes() != before[0]
    assert (tmp_path / "ca.pem").read_bytes() == before[1]
    contexts(tmp_path, "party0")


def test_no_certificate_outlives_its_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an authority that is valid for less long than certificates usually are
    monkeypatch.setattr(module, "AUTHORITY_DAYS", 100)
    make_certificates(tmp_path, {})
    last = describe(tmp_path / "ca.pem")[1]
    # when it issues certificates, then they end with it, or before
    renew_certificates(tmp_path, {"party0": ["localhost"]}, days=5)
    assert all(describe(tmp_path / f"{role}.pem")[1] < last for role in ROLES)
    renew_certificates(tmp_path, {})
    make_client_certificate(tmp_path, "alice")
    files = [*(tmp_path / f"{role}.pem" for role in ROLES), tmp_path / "clients/alice/client.pem"]
    assert {describe(file)[1] for file in files} == {last}


def test_an_authority_that_has_expired_issues_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AUTHORITY_DAYS", -1)
    monkeypatch.setattr(module, "_EARLIER", datetime.timedelta(days=2))
    make_certificates(tmp_path, {})
    before = (tmp_path / "party0.pem").read_bytes()
    said = r"ca\.pem expired on .*; make a new authority: `srrun certs init` in another folder"
    with pytest.raises(ConfigError, match=said):
        renew_certificates(tmp_path, {})
    with pytest.raises(ConfigError, match=said):
        make_client_certificate(tmp_path, "alice")
    assert (tmp_path / "party0.pem").read_bytes() == before


def test_renewed_certificates_keep_their_hosts_unless_others_are_given(tmp_path: Path) -> None:
    hosts = {"party0": ["p0.example.org", "10.0.0.5"], "dealer": ["dealer.example.com"]}
    make_certificates(tmp_path, hosts)
    renew_certificates(tmp_path, {"dealer": ["d.example.com"]})
    found = {role: hosts_of(tmp_path / f"{role}.pem") for role in ("party0", "party1", "dealer")}
    assert found == {
        "party0": ("p0.example.org", "10.0.0.5"),
        "party1": ("localhost", "127.0.0.1", "::1"),
        "dealer": ("d.example.com",),
    }


def test_a_roles_own_certificate_is_checked_before_anybody_else_sees_it(tmp_path: Path) -> None:
    make_certificates(tmp_path, {"party0": ["p0.example.org"]})
    make_certificates(tmp_path / "others", {})
    check_own(tmp_path, "party0", "P0.example.org")
    with pytest.raises(ConfigError, match=r"renew --hosts party0=10\.0\.0\.5` makes one"):
        check_own(tmp_path, "party0", "10.0.0.5")
    (tmp_path / "client.pem").write_bytes((tmp_path / "owner.pem").read_bytes())
    with pytest.raises(ConfigError, match="is not the certificate of the client; copy that"):
        check_own(tmp_path, "client")
    (tmp_path / "ca.pem").write_bytes((tmp_path / "others" / "ca.pem").read_bytes())
    with pytest.raises(ConfigError, match=r"owner\.pem is of another authority than .*ca\.pem;"):
        check_own(tmp_path, "owner")


@pytest.mark.parametrize("host", ["", "a b", "-x", "http://x", "x/y"])
def test_what_is_no_host_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no host name and no IP address"):
        make_certificates(tmp_path, {"party0": [host]})


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    make_certificates(tmp_path, {})
    (tmp_path / "party0.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"party0\.key is readable by others; `chmod 600"):
        contexts(tmp_path, "party0")
    (tmp_path / "party1.pem").write_text("none")
    with pytest.raises(ConfigError, match=r"party1\.pem and .*party1\.key cannot be read"):
        contexts(tmp_path, "party1")
    (tmp_path / "client.pem").write_bytes((tmp_path / "owner.pem").read_bytes())
    with pytest.raises(ConfigError, match=r"client\.key do not belong together; copy both again"):
        contexts(tmp_path, "client")
    (tmp_path / "dealer.pem").unlink()
    with pytest.raises(ConfigError, match=r"there is no file .*dealer\.pem; `srrun certs init`"):
        contexts(tmp_path, "dealer")


def test_openssl_accepts_the_certificates(tmp_path: Path) -> None:
    """Another implementation's command line, where there is one, says the same."""
    make_certificates(tmp_path, {})
    try:
        done = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", "ca.pem", "party0.pem"],
            cwd=tmp_path, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("there is no openssl command")
    assert done.stdout.strip() == "party0.pem: OK", done.stderr


def test_making_certificates_is_not_part_of_what_a_party_loads() -> None:
    code = "import srcompile.runtime.services.party, sys; print('cryptography.x509' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False"
