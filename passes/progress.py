"""How far a compilation is, told to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Step `number` of `count`, by name; in a calibration, `done` of `samples` samples are run."""

    name: str
    number: int
    count: int
    done: int = 0
    samples: int = 0


Listener = Callable[[Progress], None]


def nobody(progress: Progress) -> None:
    """Show nothing."""


class Steps:
    """Counts the steps of a compilation and tells a listener when one begins."""

    def __init__(self, count: int, listener: Listener = nobody) -> None:
        self._listener = listener
        self._now = Progress("", 0, count)

    def begin(self, name: str) -> None:
        """Say that the next step begins."""
        self._now = Progress(name, self._now.number + 1, self._now.count)
        self._listener(self._now)

    def samples(self, done: int, samples: int) -> None:
        """Say how many samples of this step's calibration are run."""
        now = self._now
        self._listener(Progress(now.name, now.number, now.count, done, samples))
