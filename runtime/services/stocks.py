"""The stocks of all deployments of a party."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from srcompile.runtime.errors import RunError
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.stockpile import Stockpile

_AGAIN_S = 60.0  # after so long a deployment that could not be loaded is tried again


class Stocks:
    """Finds the stocks there are: one for each deployment that can be loaded.

    `deployed` returns the deployments by digest, and `load` the stock of a program's.
    """

    def __init__(
        self,
        deployed: Callable[[], Mapping[str, str]],
        load: Callable[[str], Stockpile | None],
        log: Log,
    ) -> None:
        self._deployed, self._load, self._log = deployed, load, log
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
