"""How far a run is: what a role tells the client while it works, a few times a second at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

INTERVAL_S = 0.2
PHASES = ("setup", "offline", "online")


@dataclass(frozen=True)
class Progress:
    """How much of a phase is done.

    Bytes of weights to both parties in `setup`, bytes of material to party 0 in `offline`, rounds
    in `online`. If a route decides how many rounds there are, `total` is that of the longest.
    """

    phase: str
    done: int
    total: int


Watch = Callable[[Progress], None]


class Ticker:
    """Hands progress on to `watch`, not more often than every `interval_s`."""

    def __init__(self, watch: Watch, interval_s: float = INTERVAL_S) -> None:
        self._watch, self._interval_s = watch, interval_s
        self._last = time.monotonic()

    def tell(self, phase: str, done: int, total: int) -> None:
        """Say how much of a phase is done, if it is time to."""
        now = time.monotonic()
        if now - self._last >= self._interval_s:
            self._last = now
            self._watch(Progress(phase, done, total))
