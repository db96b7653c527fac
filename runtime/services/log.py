"""Logs of services: one event a line, as text or as JSON, with nothing secret in it.

An event has a name and fields: sessions, deployments, counts, sizes that the program makes public,
and the texts of errors, which name peers, rounds and instructions but no values.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TextIO

from srcompile.runtime.services.settings import LOG_LEVELS


@dataclass(frozen=True)
class Log:
    """Writes the events of one role to a stream, or to standard error if there is one."""

    role: str
    level: str = "info"
    format: str = "text"
    stream: TextIO | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def debug(self, event: str, **fields: object) -> None:
        """Log what helps to find an error."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log what happens when all is well."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what went wrong outside of this role."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log what went wrong in this role."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        if LOG_LEVELS.index(level) < LOG_LEVELS.index(self.level):
            return
        now = time.time()
        moment = (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e3):03d}Z"
        )
        if self.format == "json":
            shown = {"time": moment, "level": level, "role": self.role, "event": event, **fields}
            line = json.dumps(shown, default=str)
        else:
            rest = "".join(f" {name}={_shown(value)}" for name, value in fields.items())
            line = f"{moment} {level} {self.role}: {event}{rest}"
        with self.lock:
            stream: TextIO | None = self.stream or sys.stderr
            if stream is None:  # pythonw has none, and neither has a process after 2>&-
                return
            with contextlib.suppress(OSError):  # a full disk loses a line, and nothing else
                stream.write(line + "\n")  # at once: a kill leaves no line without its end
                stream.flush()


def _shown(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(c in text for c in ' "\n=') else text
