"""What a role shows and trusts in TLS handshakes: certificates, loaded again when they change."""

from __future__ import annotations

import datetime
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from srcompile.runtime.channels.tls import contexts, valid_until
from srcompile.runtime.errors import ConfigError

Seen = tuple[tuple[int, int, int] | None, ...]
"""Which files were there: of each its inode, when it was written, in ns, and its size."""


@dataclass(frozen=True)
class Credentials:
    """A role's certificates, as they were in its `files`.

    `server` accepts links and `client` makes them; `valid_until` is when the first of the role's
    certificate and its authority's expires, as Unix time.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext
    valid_until: float
    files: Seen


def load_credentials(folder: Path, role: str) -> Credentials:
    """Return a role's certificates in `folder`.

    Raises ConfigError, naming the file, if one is missing, damaged, or readable by others.
    """
    files = _seen(folder, role)  # before they are read, so that no change is missed
    server, client = contexts(folder, role)
    return Credentials(server, client, valid_until(folder, role), files)


def renewed(old: Credentials, folder: Path, role: str, host: str | None) -> Credentials | None:
    """Return a role's certificates if their files have changed since `old` was loaded.

    Raises ConfigError, naming the file, if links of the role, which is reached at `host`, would
    fail with them: if they are not whole, not its own, not of one authority, or not valid now.
    """
    from srcompile.runtime.certificates import check_own, describe

    if _seen(folder, role) == old.files:
        return None
    new = load_credentials(folder, role)
    check_own(folder, role, host)
    for file in (folder / "ca.pem", folder / f"{role}.pem"):
        first, last, _ = describe(file)
        if not first.timestamp() <= time.time() < last.timestamp():
            raise ConfigError(
                f"{file} is valid from {_day(first)} to {_day(last)}, and not now; make another "
                "with `srrun certs renew`, or set the clock"
            )
    return new


def _day(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _seen(folder: Path, role: str) -> Seen:
    return tuple(_of_file(folder / name) for name in ("ca.pem", f"{role}.pem", f"{role}.key"))


def _of_file(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
