"""Certificates that are renewed while roles run are used without a restart, unless they are bad."""

from __future__ import annotations

import datetime
import shutil
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from srcompile.runtime import certificates as module
from srcompile.runtime.certificates import make_certificates, renew_certificates
from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.channels.tls import TlsChannel
from srcompile.runtime.errors import ConfigError
from srcompile.runtime.roles import LISTENING
from srcompile.runtime.services import service as service_module
from srcompile.runtime.services.links import PROTOCOL, Links
from srcompile.runtime.services.settings import Settings
from tests.runtime.test_faults import check
from tests.runtime.test_tls import both, connected
from tests.support.services import client, running, settings_in, wait_until

USES, KEEPS = "uses new certificates", "goes on with its old certificates"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings of a cluster with certificates of its own."""
    make_certificates(tmp_path / "certs", {}, days=50)
    return settings_in(tmp_path, certs=tmp_path / "certs")


def stored(settings: Settings, role: str) -> bytes:
    """Return the certificate in a role's file, DER."""
    return ssl.PEM_cert_to_DER_cert((settings.certs / f"{role}.pem").read_text())


def of_peer(channel: LinkChannel) -> bytes | None:
    """Return the certificate that the other end has shown, DER."""
    assert isinstance(channel, TlsChannel)
    return channel._tls.getpeercert(binary_form=True)


def shown(settings: Settings, role: str) -> bytes | None:
    """Return the certificate that a running role shows to who comes to it, DER."""
    channel, _ = Links("client", settings).dial(role, "status")
    found = of_peer(channel)
    channel.close()
    return found


def linked(comes: Links, visited: Links) -> tuple[LinkChannel, LinkChannel]:
    """Return both ends of a new link between two roles."""
    ends = connected()

    def come() -> LinkChannel:
        channel = comes._outgoing(ends[0], visited.role)
        channel.send_json({"protocol": PROTOCOL, "role": comes.role, "purpose": "status"})
        return channel

    first, second = both(come, lambda: visited.welcome(ends[1]).channel)
    assert isinstance(first, LinkChannel)
    assert isinstance(second, LinkChannel)
    return first, second


def test_renewed_certificates_are_used_without_a_restart_and_sessions_go_on(
    settings: Settings,
) -> None:
    with running(settings) as cluster, client(settings) as session:
        check(session)
        # given certificates that are renewed while a session runs
        old = [stored(settings, role) for role in LISTENING]
        assert [shown(settings, role) for role in LISTENING] == old
        renew_certificates(settings.certs, {})
        # then every role says that it uses the new ones, and shows them to who comes
        wait_until(lambda: all(USES in log.getvalue() for log in cluster.logs.values()))
        new = [stored(settings, role) for role in LISTENING]
        assert [shown(settings, role) for role in LISTENING] == new
        assert not set(new) & set(old)
        # and the session goes on, as others begin
        check(session)
        with client(settings) as other:
            check(other)


@pytest.mark.parametrize("renewed", ["party1", "dealer"], ids=["who comes", "who is visited"])
def test_a_link_is_made_with_the_new_certificate_and_lives_no_longer_than_its_own(
    settings: Settings, renewed: str
) -> None:
    # given a link, and one of its ends, whose certificate is renewed
    links = {role: Links(role, settings) for role in ("party1", "dealer")}
    old, before = linked(links["party1"], links["dealer"]), stored(settings, renewed)
    renew_certificates(settings.certs, {}, days=60)
    assert links[renewed].renew()
    assert not links[renewed].renew()
    # when another one is made
    new = linked(links["party1"], links["dealer"])
    # then the other end of that sees the new certificate
    end = 1 if renewed == "party1" else 0
    assert of_peer(old[end]) == before
    assert of_peer(new[end]) == stored(settings, renewed) != before
    # and each link ends with the first certificate that it was made with
    day = 86400
    for channel in (*old, *new):
        assert channel.valid_until < time.time() + 51 * day
        channel.close()
    for role in links:
        links[role].renew()
    newest = linked(links["party1"], links["dealer"])
    for channel in newest:
        assert channel.valid_until > time.time() + 59 * day
    assert all(channel.valid_until < time.time() + 51 * day for channel in old)
    for channel in newest:
        channel.close()


def of_another_role(folder: Path, others: Path) -> None:
    """Put the certificate and key of party 1 where those of party 0 should be."""
    for kind in ("pem", "key"):
        shutil.copy(folder / f"party1.{kind}", folder / f"party0.{kind}")


def of_another_authority(folder: Path, others: Path) -> None:
    """Put files there of another authority, but for the authority's."""
    for kind in ("pem", "key"):
        shutil.copy(others / f"party0.{kind}", folder / f"party0.{kind}")


def for_another_host(folder: Path, others: Path) -> None:
    """Renew the certificate with another host."""
    renew_certificates(folder, {"party0": ["p0.example.org"]})


def expired(folder: Path, others: Path) -> None:
    """Renew the certificate with one that was valid yesterday."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_EARLIER", datetime.timedelta(days=9))
        renew_certificates(folder, {}, days=-1)


def open_to_others(folder: Path, others: Path) -> None:
    """Renew the certificate, and let everybody read its key."""
    renew_certificates(folder, {})
    (folder / "party0.key").chmod(0o644)


WRONG: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "only the certificate": (
        lambda folder, others: shutil.copy(others / "party0.pem", folder / "party0.pem"),
        "party0.key do not belong together",
    ),
    "no key": (lambda folder, others: (folder / "party0.key").unlink(), "there is no file"),
    "half of it": (
        lambda folder, others: (folder / "party0.pem").write_bytes(
            (folder / "party0.pem").read_bytes()[:300]
        ),
        "cannot be read",
    ),
    "a key for everybody": (
        open_to_others,
        "is readable by others",
    ),
    "another role's": (of_another_role, "is not the certificate of party 0"),
    "another authority's": (of_another_authority, "is of another authority"),
    "another host's": (for_another_host, "is for p0.example.org and not for 127.0.0.1"),
    "an old one": (expired, "and not now"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_certificates_that_cannot_be_used_are_named_and_the_old_ones_still_are(
    settings: Settings, tmp_path: Path, wrong: str
) -> None:
    make_certificates(tmp_path / "others", {})
    change, said = WRONG[wrong]
    # given party 0 and a client, and other certificates of their authority
    shutil.copytree(settings.certs, tmp_path / "good")
    renew_certificates(tmp_path / "good", {})
    links, visitor = Links("party0", settings), Links("client", settings)
    before = stored(settings, "party0")
    # when files change so that its links would fail
    change(settings.certs, tmp_path / "others")
    # then it says why, as often as it looks, and uses what it has
    for _ in range(2):
        with pytest.raises(ConfigError, match=said):
            links.renew()
    ends = linked(visitor, links)
    assert of_peer(ends[0]) == before
    # and when others come that are good, it uses those
    for kind in ("pem", "key"):
        shutil.copy(tmp_path / "good" / f"party0.{kind}", settings.certs / f"party0.{kind}")
    assert links.renew()
    last = linked(visitor, links)
    assert of_peer(last[0]) == stored(settings, "party0") != before
    for channel in (*ends, *last):
        channel.close()


def test_a_running_role_says_once_why_it_goes_on_with_its_old_certificates(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_RENEW_S", 0.0)
    with running(settings, deployed=False) as cluster:
        # given a role whose key is away for a while
        before, key = shown(settings, "dealer"), settings.certs / "dealer.key"
        away = key.rename(settings.certs / "away")
        log, looks = cluster.logs["dealer"], cluster.dealer._links.renew
        counted: list[int] = []

        def look() -> bool:
            counted.append(len(counted))
            return looks()

        monkeypatch.setattr(cluster.dealer._links, "renew", look)
        wait_until(lambda: len(counted) > 3)
        # then it says so, once, and shows what it has
        assert log.getvalue().count(KEEPS) == 1
        assert f"there is no file {key}" in log.getvalue()
        assert shown(settings, "dealer") == before
        # and when the key is back, with another certificate, it shows that
        away.rename(key)
        renew_certificates(settings.certs, {})
        wait_until(lambda: USES in log.getvalue())
        assert shown(settings, "dealer") == stored(settings, "dealer") != before


def test_a_client_that_is_opened_again_uses_its_renewed_certificate(settings: Settings) -> None:
    with running(settings):
        again = client(settings)
        with again:
            check(again)
        renew_certificates(settings.certs, {})
        with again:
            check(again)
            own, files = again._links.credentials, Links("client", settings).credentials
            assert own is not None
            assert files is not None
            assert own.files == files.files
