"""The stocks of all deployments of a party: which there are, and how much each may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from srcompile.runtime.errors import RunError
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.refill import room_in
from srcompile.runtime.services.stockpile import Stockpile

_AGAIN_S = 60.0  # after so long a deployment that could not be loaded is tried again


class Stocks:
    """Finds the stocks there are: one for each deployment that can be loaded.

    `deployed` returns the deployments by digest, and `load` the stock of a program's. All stocks
    lie in the folder `state` and may take `most` bytes together.
    """

    def __init__(
        self,
        deployed: Callable[[], Mapping[str, str]],
        load: Callable[[str], Stockpile | None],
        log: Log,
        state: Path,
        most: int,
    ) -> None:
        self._deployed, self._load, self._log = deployed, load, log
        self._state, self._most = state, most
        self._failed: dict[str, tuple[float, str]] = {}  # when it is tried again, and why it failed

    def all(self) -> dict[str, Stockpile]:
        """Return the stocks by deployment. Raises OSError if the state folder cannot be read."""
        found = {}
        for digest, name in self._deployed().items():
            again, _ = self._failed.get(name, (0.0, ""))
            stock = self._loaded(digest, name) if time.monotonic() >= again else None
            if stock is not None:
                found[stock.deployment] = stock
        return found

    def room(self, stock: Stockpile) -> int:
        """Return the bytes that a stock may still take.

        Room is kept for the first blocks of each segment of all others, up to their lower level. If
        this one has not so many itself, and no room for them, others give up what they have beyond.
        """
        others = [other for other in self.all().values() if other is not stock]
        free = room_in(self._state, self._most)
        each = sum(other.bytes_of_each() for other in (stock, *others))
        whole = free + sum(other.size() for other in (stock, *others))
        first = min(stock.levels.low, max(0, whole) // max(1, each))  # so many of each fit
        kept = sum(other.missing(first) for other in others)
        own = stock.missing(first)
        lacking = own + kept - free if own else 0
        for other in sorted(others, key=Stockpile.size, reverse=True):
            lacking -= other.give_up(lacking, first)
        return max(0, room_in(self._state, self._most) - kept)

    def _loaded(self, digest: str, name: str) -> Stockpile | None:
        """Return a stock; if it cannot be loaded, say so once, and leave it out for a while."""
        try:
            return self._load(digest)
        except (RunError, OSError) as error:
            reason = str(error)
        except Exception as error:  # a mistake of ours: it is no reason to leave out the others
            reason = type(error).__name__
        _, before = self._failed.get(name, (0.0, ""))
        self._failed[name] = time.monotonic() + _AGAIN_S, reason
        if reason != before:
            self._log.warning("the stock is not filled", deployment=name[:8], reason=reason)
        return None
