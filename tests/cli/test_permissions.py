"""Commands of a user who may not read what they need: they say so, and what would do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from srcompile.runtime.certificates import make_certificates
from tests.support.services import ROOT, free_ports

NOBODY = 65534
WITHOUT_PRIVILEGES = f"""
import encodings.idna, http.server, os
import srcompile.cli.run, srcompile.runtime.certificates
import srcompile.runtime.services.dealer, srcompile.runtime.services.doctor
if os.geteuid() == 0:  # what is imported already may lie where only root may read
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
srcompile.cli.run.main()
"""


def as_nobody(*args: object) -> subprocess.CompletedProcess[str]:
    """Run srrun as a user without privileges: another one if this is root."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_PRIVILEGES, *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that everybody may enter, with certificates, and states of roles."""
    path = Path(mkdtemp(prefix="srcompile-open-"))
    path.chmod(0o755)
    make_certificates(path / "certs", {})
    (path / "certs").chmod(0o755)
    for file in (path / "certs").iterdir():
        give(file)
    (path / "state").mkdir()
    (path / "state").chmod(0o755)
    for role in ("dealer", "party0"):
        (path / "state" / role / "current").mkdir(parents=True)
        for made in (path / "state" / role, path / "state" / role / "current"):
            made.chmod(0o700)
            give(made)
    yield path
    for closed in (path / "certs", path / "state" / "party0", path / "state" / "dealer"):
        closed.chmod(0o700)
    shutil.rmtree(path)


def give(path: Path) -> None:
    """Make a file that of the user who runs the commands."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)


def settings(folder: Path) -> list[object]:
    """Return flags for the cluster in a folder."""
    places = zip(("dealer", "party0", "party1"), free_ports(3), strict=True)
    flags = [f"--{role}=127.0.0.1:{port}" for role, port in places]
    return [*flags, "--certs", folder / "certs", "--state", folder / "state"]


def close(path: Path) -> None:
    """Leave no right to a file or folder to anybody but root."""
    path.chmod(0)


CLOSED = {
    "certs": "certs/ca.pem cannot be read: Permission denied; give it and its folder to",
    "certs/ca.pem": "certs/ca.pem cannot be read: Permission denied; give it and its folder to",
    "certs/party0.key": "certs/party0.key cannot be read: Permission denied; give it and its",
    "state/party0": "state/party0 cannot be written",
    "state/party0/current": "state/party0/current cannot be read: Permission denied",
}


@pytest.mark.parametrize("stock", [0, 1])
@pytest.mark.parametrize("closed", CLOSED)
def test_the_doctor_names_what_may_not_be_read(closed: str, stock: int, folder: Path) -> None:
    close(folder / closed)
    done = as_nobody(
        "doctor", "--role", "party0", "--stock-high", stock, *settings(folder)
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 1
    bad = [line for line in done.stdout.splitlines() if line.startswith("BAD")]
    assert any(f"{folder}/{CLOSED[closed]}" in line for line in bad), done.stdout
    assert "not deployed" not in done.stdout


@pytest.mark.parametrize("closed", ["certs", "certs/dealer.key", "state/dealer"])
def test_a_role_that_may_not_read_what_it_needs_says_so(closed: str, folder: Path) -> None:
    close(folder / closed)
    done = as_nobody("dealer", *settings(folder))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {folder}/{closed}")
    assert "Permission denied" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_certificates_are_made_where_nothing_may_be_read(folder: Path) -> None:
    close(folder / "certs")
    done = as_nobody("certs", "init", "--out", folder / "certs")
    assert done.returncode == 2, done.stderr
    assert f"{folder}/certs/ca.pem cannot be written: Permission denied" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_health_port_that_needs_privileges_is_not_called_taken(folder: Path) -> None:
    first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not first.exists() or int(first.read_text()) <= 80:
        pytest.skip("everybody may have port 80 here")
    done = as_nobody("dealer", "--health-port", "80", *settings(folder))
    assert done.returncode == 2, done.stderr
    assert "port 80 of 'health_port' cannot be had: Permission denied; " in done.stderr
    assert done.stderr.count("\n") == 1
