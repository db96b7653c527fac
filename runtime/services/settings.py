"""Settings of a role: one schema for the file, the environment and the command line.

A setting has the same name everywhere: `party0` in the file, SRCOMPILE_PARTY0 in the environment,
`--party0` as a flag. A flag counts more than the environment, and that more than the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from srcompile.runtime.errors import ConfigError
from srcompile.runtime.roles import LISTENING

PREFIX = "SRCOMPILE_"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MOST_STOCK = 10000
"""Blocks of a segment that a stock may be asked to have."""
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True)
class Endpoint:
    """Where a role is reached."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


_DIGITS = re.compile("[0-9]{1,18}")


class _WrongError(Exception):
    """A value that cannot be used: what it should be."""


def _endpoint(value: object) -> Endpoint:
    what = "HOST:PORT, such as 10.0.0.5:7700"
    if isinstance(value, Endpoint):
        return value
    if not isinstance(value, str):
        raise _WrongError(what)
    host, colon, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and _DIGITS.fullmatch(port) and 0 < int(port) < 1 << 16):
        raise _WrongError(what)
    return Endpoint(host, int(port))


def _path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise _WrongError("the path of a folder")
    return Path(value)


def _whole(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise _WrongError(f"a whole number from {low} to {high}")
        return number

    return read


def _seconds(low: float, high: float) -> Callable[[object], float]:
    def read(value: object) -> float:
        try:
            number = float(value) if isinstance(value, (str, int, float)) else float("nan")
        except (ValueError, OverflowError):
            number = float("nan")
        if isinstance(value, bool) or not low <= number <= high:
            raise _WrongError(f"a number of seconds from {low:g} to {high:g}")
        return number

    return read


def _flag(value: object) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    found = known.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise _WrongError("true or false")
    return found


def _one_of(*names: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            raise _WrongError("one of " + ", ".join(names))
        return value

    return read


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _WrongError("a text")
    return value


def _file(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _WrongError("the path of a file, or empty")
    return value


def _about(read: Callable[[object], Any], about: str) -> dict[str, Any]:
    return {"read": read, "about": about}


@dataclass(frozen=True)
class Settings:
    """All settings. Times are in seconds."""

    party0: Endpoint = field(
        default=Endpoint("127.0.0.1", 7700),
        metadata=_about(_endpoint, "where party 0 listens and is reached"),
    )
    party1: Endpoint = field(
        default=Endpoint("127.0.0.1", 7701),
        metadata=_about(_endpoint, "where party 1 listens and is reached"),
    )
    dealer: Endpoint = field(
        default=Endpoint("127.0.0.1", 7702),
        metadata=_about(_endpoint, "where the dealer listens and is reached"),
    )
    listen: str = field(
        default="",
        metadata=_about(
            _text, "the address to listen on, if it is not the host above, such as 0.0.0.0"
        ),
    )
    certs: Path = field(
        default=Path("certs"),
        metadata=_about(_path, "the folder with `ca.pem` and the role's certificate and key"),
    )
    state: Path = field(
        default=Path("state"),
        metadata=_about(_path, "the folder in which a role keeps what must outlive it"),
    )
    insecure: bool = field(
        default=False,
        metadata=_about(_flag, "no TLS and no certificates; all hosts must be on loopback"),
    )
    sessions: int = field(
        default=8, metadata=_about(_whole(1, 1000), "the most sessions that a role runs at once")
    )
    client_sessions: int = field(
        default=0,
        metadata=_about(_whole(0, 1000), "the most sessions of one client at a party; 0: no limit"),
    )
    session_memory: int = field(
        default=0,
        metadata=_about(
            _whole(0, 1 << 24), "MiB that all sessions of a party take together; 0: no limit"
        ),
    )
    batch: int = field(
        default=8,
        metadata=_about(
            _whole(1, 64), "the most inferences of a program that run together; party 0's counts"
        ),
    )
    batches: int = field(
        default=1,
        metadata=_about(_whole(1, 64), "the most batches of a program that run at once"),
    )
    batch_wait: float = field(
        default=0.0,
        metadata=_about(
            _seconds(0, 60), "how long an inference waits for others to run together with"
        ),
    )
    queue: int = field(
        default=64,
        metadata=_about(_whole(1, 10000), "the most inferences of a program that wait"),
    )
    deployments: int = field(
        default=16,
        metadata=_about(_whole(1, 10000), "the most deployed programs that a role keeps"),
    )
    memory: int = field(
        default=256,
        metadata=_about(
            _whole(0, 1 << 20), "MiB of material that a session has in memory; the rest is on disk"
        ),
    )
    stock_low: int = field(
        default=1,
        metadata=_about(
            _whole(1, MOST_STOCK),
            "blocks of each segment below which a party's stock is filled again",
        ),
    )
    stock_high: int = field(
        default=0,
        metadata=_about(
            _whole(0, MOST_STOCK),
            "blocks of each segment of each deployment that a party keeps in stock; none if 0",
        ),
    )
    stock_mib: int = field(
        default=4096,
        metadata=_about(_whole(1, 1 << 30), "MiB of disk that a party's stock may take"),
    )
    timeout: float = field(
        default=30.0,
        metadata=_about(
            _seconds(0.1, 3600), "silence that ends a session, beside the time that work takes"
        ),
    )
    idle: float = field(
        default=300.0,
        metadata=_about(_seconds(0.1, 86400), "how long a session waits for its client"),
    )
    keep_links: float = field(
        default=60.0,
        metadata=_about(
            _seconds(0, 86400),
            "how long a link between roles is kept for the next session; 0: not at all",
        ),
    )
    link_age: float = field(
        default=3600.0,
        metadata=_about(
            _seconds(0, 86400), "the age from which a link between roles gets no other session"
        ),
    )
    drain: float = field(
        default=30.0,
        metadata=_about(
            _seconds(0, 3600), "how long a role that is stopped waits for inferences that run"
        ),
    )
    kernels: str = field(
        default="",
        metadata=_about(
            _text, "the kernels, as SRCOMPILE_KERNELS; the fastest that there are if empty"
        ),
    )
    health_port: int = field(
        default=0,
        metadata=_about(
            _whole(0, 65535), "the loopback port of `/health` and `/metrics`; none if 0"
        ),
    )
    log_level: str = field(
        default="info",
        metadata=_about(_one_of(*LOG_LEVELS), "what is logged: " + ", ".join(LOG_LEVELS)),
    )
    log_format: str = field(
        default="text", metadata=_about(_one_of(*LOG_FORMATS), "lines of text, or of JSON")
    )
    trace: str = field(
        default="",
        metadata=_about(_file, "the file to which traces of sessions are appended; none if empty"),
    )

    def endpoint(self, role: str) -> Endpoint:
        """Return where a role listens."""
        found: Endpoint = getattr(self, role)
        return found


READERS: Mapping[str, Callable[[object], Any]] = {
    f.name: f.metadata["read"] for f in fields(Settings)
}


def read_settings(
    file: str | Path | None = None,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings of a file, the environment and flags, checked.

    Relative folders in the file are relative to it. Raises ConfigError, naming the file, variable
    or flag, the setting, what was found and what would do.
    """
    given = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    if file is not None:
        values |= _from_file(Path(file))
    for variable, text in given.items():
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX):
            values[name] = _read(name, text, f"the environment variable {variable}")
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _read(name, value, f"the flag --{name.replace('_', '-')}")
    settings = Settings(**values)
    _check(settings)
    return settings


def _from_file(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # damaged, no UTF-8, or numbers without an end
        raise ConfigError(f"{file} is no TOML file: {error}") from None
    values = {}
    for name, value in content.items():
        if name not in READERS:
            raise ConfigError(
                f"{file}: there is no setting '{name}'; the settings are {', '.join(READERS)}"
            )
        values[name] = _read(name, value, f"{file}: the setting '{name}'")
        if isinstance(values[name], Path):
            values[name] = file.parent / values[name]
        if name == "trace" and values[name]:
            values[name] = str(file.parent / values[name])
    return values


def _read(name: str, value: object, place: str) -> Any:
    if name not in READERS:
        raise ConfigError(f"{place} is none; the settings are {', '.join(READERS)}")
    try:
        return READERS[name](value)
    except _WrongError as wrong:
        raise ConfigError(f"{place} is {value!r}; it must be {wrong}") from None


def _check(settings: Settings) -> None:
    """Raise ConfigError if settings contradict each other."""
    places = [settings.endpoint(role) for role in LISTENING]
    if len(set(places)) != len(places):
        raise ConfigError("dealer, party0 and party1 need different places to listen on")
    if settings.stock_high and settings.stock_low > settings.stock_high:
        raise ConfigError(
            f"stock_low is {settings.stock_low} and stock_high is {settings.stock_high}: stock_low "
            "must not be more than stock_high"
        )
    if not settings.insecure:
        return
    for role in LISTENING:
        if settings.endpoint(role).host not in LOOPBACK:
            raise ConfigError(
                f"with insecure = true all hosts must be on loopback, but {role} is "
                f"{settings.endpoint(role)}; use certificates: srrun certs init"
            )
    if settings.listen and settings.listen not in LOOPBACK:
        raise ConfigError(
            f"with insecure = true a role listens on loopback only, not on {settings.listen}"
        )
