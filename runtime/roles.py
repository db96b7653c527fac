"""The roles of a cluster: their names in certificates and files, and in messages for people."""

from __future__ import annotations

import re

NAMES = {
    "dealer": "the dealer",
    "party0": "party 0",
    "party1": "party 1",
    "client": "the client",
    "owner": "the model owner",
}
ROLES = tuple(NAMES)
PARTIES = ("party0", "party1")
LISTENING = ("dealer", *PARTIES)
"""The roles that others connect to."""

_PREFIX = "srcompile:role:"


def role_uri(role: str) -> str:
    """Return how a certificate names a role."""
    return _PREFIX + role


def role_of_uri(uri: str) -> str | None:
    """Return the role that a URI of a certificate names, if any."""
    role = uri.removeprefix(_PREFIX)
    return role if uri.startswith(_PREFIX) and role in ROLES else None


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NAME_PREFIX = "srcompile:name:"


def is_name(text: str) -> bool:
    """Whether a client may have this name."""
    return _NAME.fullmatch(text) is not None


def name_uri(name: str) -> str:
    """Return how a certificate names one of several clients."""
    return _NAME_PREFIX + name


def name_of_uri(uri: str) -> str | None:
    """Return the client's name that a URI of a certificate has, if any."""
    name = uri.removeprefix(_NAME_PREFIX)
    return name if uri.startswith(_NAME_PREFIX) and is_name(name) else None
