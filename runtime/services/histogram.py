"""Histograms of seconds for `/metrics`, in the text format of Prometheus."""

from __future__ import annotations

import threading

BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0,
)  # fmt: skip
"""The upper bounds of buckets, in seconds."""

Labels = tuple[tuple[str, str], ...]
"""Pairs of name and text."""


class Histogram:
    """How often something took how long, for each set of labels, which are pairs of name and text.

    All sets have the same names.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Labels, list[int]] = {}  # one for each bucket, and one for the rest
        self._sums: dict[Labels, float] = {}

    def add(self, labels: Labels, seconds: float) -> None:
        """Count something that took so many seconds."""
        place = next((k for k, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))
        with self._lock:
            self._counts.setdefault(labels, [0] * (len(BOUNDS) + 1))[place] += 1
            self._sums[labels] = self._sums.get(labels, 0.0) + seconds

    def lines(self, name: str, role: str) -> list[str]:
        """Return its lines under a metric's full name."""
        with self._lock:
            counts = {labels: list(found) for labels, found in sorted(self._counts.items())}
            sums = dict(self._sums)
        lines = []
        for labels, found in counts.items():
            shown, so_far = labels_text((("role", role), *labels)), 0
            for bound, count in zip((*BOUNDS, "+Inf"), found, strict=True):
                so_far += count
                lines.append(f'{name}_bucket{{{shown},le="{bound}"}} {so_far}')
            lines.append(f"{name}_sum{{{shown}}} {sums[labels]:.6f}")
            lines.append(f"{name}_count{{{shown}}} {so_far}")
        return lines


def labels_text(labels: Labels) -> str:
    """Return labels as they stand between braces."""
    return ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
