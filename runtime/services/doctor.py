"""What is wrong with a role on this machine, and what would do: `srrun doctor`.

It looks at certificates, the state folder, the disk, the kernels, the port, and at each peer that
the role talks to: whether it is there, its version, its clock, and the programs deployed on it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import srcompile
from srcompile.runtime.channels.link import printable
from srcompile.runtime.errors import ConfigError, ProtocolError, RunError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.material import material_bytes
from srcompile.runtime.program import load
from srcompile.runtime.roles import LISTENING, NAMES, PARTIES
from srcompile.runtime.services.links import MAY, Links
from srcompile.runtime.services.refill import room_in, size_in
from srcompile.runtime.services.settings import Settings
from srcompile.runtime.services.state import (
    checked_digest,
    checked_id,
    deployments_in,
    is_held,
)
from srcompile.runtime.services.vault import sealed_size

CLOCK_S = 60.0
RENEW_DAYS = 30
ADVICE = (
    "somebody answers there: look at its log, at its address in the settings, and at the "
    "certificates of both"
)
ANOTHER = "make a new authority{}: `srrun certs init` in another folder, for all roles"
FREE_BYTES = 1 << 30
OWNER = "give the folder and all that is in it to the role's user"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it is good, what was found, and what would do."""

    what: str
    good: bool
    found: str
    advice: str = ""


def examine(role: str, settings: Settings, digest: str | None = None) -> tuple[Finding, ...]:
    """Return what is found for a role on this machine; `digest` is a program to look for."""
    findings = [_kernels(settings), *_certificates(role, settings)]
    usable = all(f.good for f in findings if f.what.startswith("certificate"))
    if role in LISTENING:
        findings += [_state(role, settings), *_stock(role, settings)]
    if role in LISTENING and usable:
        findings.append(_port(role, settings))
    if usable:
        findings += _peers(role, settings, digest)
    return tuple(findings)


def _kernels(settings: Settings) -> Finding:
    try:
        name = load_kernels(settings.kernels or None).name
    except RunError as error:
        return Finding("kernels", False, str(error), "choose others, or leave 'kernels' empty")
    slow = name == "numpy"
    advice = "these are slow: install with a C++ compiler for the native ones" if slow else ""
    return Finding("kernels", True, name, advice)


# -- certificates ---------------------------------------------------------------------------------


def _certificates(role: str, settings: Settings) -> Iterator[Finding]:
    if settings.insecure:
        yield Finding(
            "certificates", True, "none: insecure = true", "anybody on this machine may take part"
        )
        return
    from srcompile.runtime.certificates import check_own

    try:
        Links(role, settings)
        check_own(settings.certs, role, settings.endpoint(role).host if role in LISTENING else None)
    except RunError as error:
        yield Finding("certificates", False, str(error))
        return
    signer, own = _dates(settings.certs / "ca.pem"), _dates(settings.certs / f"{role}.pem")
    yield signer
    yield replace(own, advice=signer.advice) if own.advice and signer.advice else own
    authority = settings.certs / "ca.key"
    if role in LISTENING and authority.exists():
        yield Finding(
            "certificate authority",
            True,
            f"{authority} is on this machine",
            "whoever has it can take any role: keep it elsewhere",
        )


def _dates(file: Path) -> Finding:
    from srcompile.runtime.certificates import describe

    what = f"certificate {file.name}"
    cure = ANOTHER if file.name == "ca.pem" else "make new ones{}: `srrun certs renew`"
    try:
        first, last, _ = describe(file)
    except RunError as error:
        return Finding(what, False, str(error), cure.format(""))
    now = datetime.datetime.now(datetime.UTC)
    if now < first:
        return Finding(what, False, f"valid from {first:%Y-%m-%d %H:%M} UTC on", "set the clock")
    if now > last:
        return Finding(what, False, f"expired on {last:%Y-%m-%d}", cure.format(""))
    soon = last - now < datetime.timedelta(days=RENEW_DAYS)
    advice = cure.format(" soon") if soon else ""
    return Finding(what, True, f"valid until {last:%Y-%m-%d}", advice)


# -- this machine ---------------------------------------------------------------------------------


def _state(role: str, settings: Settings) -> Finding:
    folder = settings.state / role
    existing = _existing(folder)
    if not _writable(existing):
        return Finding("state", False, f"{folder} cannot be written", OWNER)
    if existing == folder and folder.stat().st_mode & 0o077:
        return Finding("state", False, f"{folder} is open to others", f"chmod 700 {folder}")
    free = shutil.disk_usage(existing).free
    found = f"{folder}, {free / 1e9:.1f} GB free"
    advice = "" if free >= FREE_BYTES else "free at least 1 GB"
    return Finding("state", free >= FREE_BYTES, found, advice)


def _stock(role: str, settings: Settings) -> Iterator[Finding]:
    """Return whether the stock that a party should keep fits on the disk."""
    if role not in PARTIES or not settings.stock_high:
        return
    folder = settings.state / role
    try:
        deployments = deployments_in(folder)
    except ConfigError as error:
        yield Finding("stock", False, str(error), OWNER)
        return
    try:
        programs = [load(path / "program.srp") for path in deployments]
    except RunError as error:
        yield Finding("stock", False, str(error), "deploy the program again")
        return
    each = sum(
        sealed_size(material_bytes(program, segment)[PARTIES.index(role)])
        for program in programs
        for segment in range(len(program.segments))
    )
    most, existing = settings.stock_mib << 20, _existing(folder)
    room = max(0, room_in(existing, most) + size_in(existing))
    found = (
        f"{settings.stock_high} blocks of each segment take {settings.stock_high * each / 1e6:.1f} "
        f"MB, and there is room for {room / 1e6:.1f} MB"
    )
    fits = settings.stock_high * each <= room
    good = settings.stock_low * each <= room
    yield Finding(
        "stock",
        good,
        found,
        "" if fits else "free disk space, raise 'stock_mib', or lower 'stock_high'",
    )


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there and may be looked at."""
    return next(p for p in (folder, *folder.absolute().parents) if os.path.exists(p))


def _writable(folder: Path) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _port(role: str, settings: Settings) -> Finding:
    place = settings.endpoint(role)
    try:
        listening = Links(role, settings).listen()
    except RunError as error:
        running = is_held(settings.state / role)
        advice = "" if running else "stop what has the port, or choose another one"
        found = f"{place}, {NAMES[role]} runs there" if running else str(error)
        return Finding("port", running, found, advice)
    listening.close()
    return Finding("port", True, f"{place} is free")


# -- peers ----------------------------------------------------------------------------------------


def _peers(role: str, settings: Settings, digest: str | None) -> list[Finding]:
    findings: list[Finding] = []
    deployed: dict[str, Mapping[str, str]] = {}
    for peer in LISTENING:
        if "status" not in MAY.get((role, peer), ()):
            continue
        name = NAMES[peer]
        try:
            began = time.time()
            channel, state = Links(role, settings).dial(peer, "status")
            channel.close()
            waited = time.time() - began
        except RunError as error:
            away = "cannot be reached" in str(error)
            advice = "start it, or open its port in the firewall" if away else ADVICE
            findings.append(Finding(name, False, str(error), advice))
            continue
        findings += _state_of(name, state, began, waited)
        deployed[peer] = _deployed(state.get("deployed"))
    if role in LISTENING:
        try:
            deployed[role] = _own_deployments(settings.state / role)
        except ConfigError as error:
            findings.append(Finding("deployments", False, str(error), OWNER))
    return findings + _deployments(deployed, digest)


def _own_deployments(folder: Path) -> Mapping[str, Any]:
    """Return the deployments in a role's folder by digest.

    Raises ConfigError if this user may not read it.
    """
    found = {}
    for path in deployments_in(folder):
        try:
            found[load(path / "program.srp").digest()] = path.name
        except RunError:  # then it is not deployed here
            continue
    return found


def _state_of(
    name: str, state: Mapping[str, Any], began: float, waited: float
) -> Iterator[Finding]:
    version, clock = printable(str(state.get("version"))[:40]), _seconds(state.get("time"))
    same = version == srcompile.__version__
    yield Finding(
        name,
        same,
        f"answers, version {version}",
        "" if same else f"install version {srcompile.__version__} everywhere",
    )
    away = None if clock is None else abs(clock - began - waited / 2)
    good = away is not None and away <= CLOCK_S + waited
    shown = "no clock" if away is None else f"its clock is {away:.1f} s away"
    yield Finding(f"{name}'s clock", good, shown, "" if good else "set both clocks, best with NTP")


def _seconds(said: object) -> float | None:
    """Return the time that a peer says, if it says one."""
    with contextlib.suppress(OverflowError):
        return float(said) if isinstance(said, (int, float)) else None
    return None


def _deployed(said: object) -> dict[str, str]:
    """Return the deployments that a peer says it has, by digest, as far as they can be some."""
    found = {}
    for digest, name in said.items() if isinstance(said, dict) else ():
        with contextlib.suppress(ProtocolError):
            found[checked_digest(digest)] = checked_id(name)
    return found


def _deployments(deployed: Mapping[str, Mapping[str, str]], digest: str | None) -> list[Finding]:
    """Return whether all peers have the same deployment of each program."""
    programs = sorted(
        {d for found in deployed.values() for d in found} | ({digest} if digest else set())
    )
    findings = []
    for program in programs:
        having = {peer: found.get(program) for peer, found in deployed.items()}
        missing = [NAMES[peer] for peer, found in having.items() if found is None]
        what = f"program {program[:12]}"
        if missing:
            findings.append(
                Finding(
                    what,
                    False,
                    f"not deployed at {' and '.join(missing)}",
                    f"use `srrun deploy`, or `srrun undeploy {program}` if nobody needs it",
                )
            )
        elif len(set(having.values())) > 1:
            findings.append(
                Finding(what, False, "deployed differently at the roles", "deploy it again")
            )
        else:
            findings.append(Finding(what, True, "deployed at " + _list(having)))
    return findings


def _list(roles: Mapping[str, object]) -> str:
    return ", ".join(NAMES[role] for role in roles)
