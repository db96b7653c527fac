"""Histograms of seconds for `/metrics`, in the text format of Prometheus."""

from __future__ import annotations

import threading

BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0,
)  # fmt: skip
"""The upper bounds of buckets, in seconds."""


class Histogram:
    """How often something took how long, for each value of a label."""

    def __init__(self, label: str) -> None:
        self._label, self._lock = label, threading.Lock()
        self._counts: dict[str, list[int]] = {}  # one for each bucket, and one for what is beyond
        self._sums: dict[str, float] = {}

    def add(self, value: str, seconds: float) -> None:
        """Count something that took so many seconds."""
        place = next((k for k, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))
        with self._lock:
            self._counts.setdefault(value, [0] * (len(BOUNDS) + 1))[place] += 1
            self._sums[value] = self._sums.get(value, 0.0) + seconds

    def lines(self, name: str, role: str) -> list[str]:
        """Return its lines under a metric's full name."""
        with self._lock:
            counts = {value: list(found) for value, found in sorted(self._counts.items())}
            sums = dict(self._sums)
        lines = []
        for value, found in counts.items():
            labels, so_far = f'role="{role}",{self._label}="{value}"', 0
            for bound, count in zip((*BOUNDS, "+Inf"), found, strict=True):
                so_far += count
                lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {so_far}')
            lines.append(f"{name}_sum{{{labels}}} {sums[value]:.6f}")
            lines.append(f"{name}_count{{{labels}}} {so_far}")
        return lines
