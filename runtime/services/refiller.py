"""Party 1's thread that has stocks filled: which one is next, and when."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from srcompile.runtime.errors import RunError
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.stockpile import Stockpile

_FAILED_S = (0.2, 2.0)  # the first and the longest wait after a run that failed
_NOTHING_S = (2.0, 60.0)  # and after one that could fetch nothing
_LOOK_S = 1.0  # how often a thread that nobody calls looks by itself


@dataclass(frozen=True)
class _Last:
    """The last run of a stock: when it ended, how long the next one waits, how many blocks there
    were if it could fetch nothing, and whether it ended early so that another stock had its turn.
    """

    at: float
    wait_s: float = 0.0
    blocks: int = 0
    early: bool = False


_NEVER = _Last(-math.inf)


class Turns:
    """Which stock is filled next, and when. Times are in seconds, of a clock that only goes on.

    One that is empty and asked for is the first, and then the one with the fewest blocks of a
    segment; among equals it is the one whose last run ended first. A run ends early when another
    stock is low that would come first, and is gone on with later.

    A run that failed, or could fetch nothing, is not repeated at once: each time the wait doubles.
    But it has a turn as soon as a block was used, since there is room again, and soon if it was
    asked for.
    """

    def __init__(self) -> None:
        self._last: dict[str, _Last] = {}

    def next(self, stocks: Mapping[str, Stockpile], now: float) -> str | None:
        """Return the deployment whose stock is filled now, if there is one."""
        due = [name for name, at in self._dues(stocks).items() if at <= now]

        def order(name: str) -> tuple[tuple[bool, int], float]:
            return stocks[name].need(), self._last.get(name, _NEVER).at

        return min(due, key=order, default=None)

    def wait_s(self, stocks: Mapping[str, Stockpile], now: float) -> float:
        """Return after how long somebody should look again, if none is filled now."""
        return min([_LOOK_S, *(max(0.01, at - now) for at in self._dues(stocks).values())])

    def goes_on(self, name: str, stocks: Mapping[str, Stockpile], now: float) -> bool:
        """Return whether the run of this deployment goes on, since no other comes first."""
        if name not in stocks:
            return False
        own = stocks[name].need()
        return not any(
            other != name
            and stock.is_low()
            and self._due(other, stock) <= now
            and stock.need() <= own
            for other, stock in stocks.items()
        )

    def ended(
        self, name: str, stock: Stockpile, now: float, fetched: int | None, early: bool = False
    ) -> None:
        """Note that a run has fetched so many blocks, or None if it failed."""
        if fetched or (fetched == 0 and early):
            self._last[name] = _Last(now, early=early)
            return
        first, most = _FAILED_S if fetched is None else _NOTHING_S
        wait = min(max(first, 2 * self._last.get(name, _NEVER).wait_s), most)
        self._last[name] = _Last(now, wait, len(stock.blocks()) if fetched == 0 else 0)

    def _dues(self, stocks: Mapping[str, Stockpile]) -> dict[str, float]:
        """Return when the next run of each stock may begin that is to be filled."""
        return {
            name: self._due(name, stock)
            for name, stock in stocks.items()
            if stock.is_low() or self._last.get(name, _NEVER).early
        }

    def _due(self, name: str, stock: Stockpile) -> float:
        last = self._last.get(name, _NEVER)
        if len(stock.blocks()) < last.blocks:
            return last.at
        return last.at + (min(last.wait_s, _FAILED_S[1]) if stock.is_asked_for() else last.wait_s)


class Refiller:
    """Party 1's thread: it begins a run for each deployment whose stock is low.

    `stocks` returns the stocks there are by deployment. `fill` runs one while what it is given says
    that it goes on, and returns the blocks fetched.
    """

    def __init__(
        self,
        stocks: Callable[[], Mapping[str, Stockpile]],
        fill: Callable[[str, Callable[[], bool]], int],
        log: Log,
    ) -> None:
        self._stocks, self._fill, self._log = stocks, fill, log
        self._called, self._ended = threading.Event(), False
        self._turns, self._said = Turns(), ""
        self._thread = threading.Thread(target=self._work, name="refill", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def call(self) -> None:
        """Look now what is missing."""
        self._called.set()

    def stop(self) -> None:
        """Begin no other run."""
        self._ended = True
        self._called.set()

    def join(self) -> None:
        """Wait for the end of the run that is going on."""
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._ended:
            self._called.clear()
            stocks = self._found()
            name = self._turns.next(stocks, time.monotonic())
            if name is None:
                self._called.wait(self._turns.wait_s(stocks, time.monotonic()))
            else:
                self._run(name, stocks[name])

    def _found(self) -> Mapping[str, Stockpile]:
        """Return the stocks there are; none, and log why, if the state cannot be read."""
        try:
            return self._stocks()
        except (RunError, OSError) as error:
            if self._said != str(error):
                self._said = str(error)
                self._log.warning("the stock is not filled", reason=error)
            return {}

    def _run(self, name: str, stock: Stockpile) -> None:
        fetched, early = None, False

        def goes_on() -> bool:
            nonlocal early
            early = self._ended or not self._turns.goes_on(name, self._found(), time.monotonic())
            return not early

        try:
            fetched = self._fill(name, goes_on)
        except (RunError, OSError):
            pass  # the stock has logged it
        except Exception as error:  # a mistake of ours: it ends this run, not the thread
            self._log.error("the stock is not filled", reason=type(error).__name__)
        self._turns.ended(name, stock, time.monotonic(), fetched, early)
