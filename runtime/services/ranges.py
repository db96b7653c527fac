"""Sets of whole numbers that lie close together, as sorted ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from operator import itemgetter

Range = tuple[int, int]
"""The first and the last number of a range."""
_FIRST, _LAST = itemgetter(0), itemgetter(1)


class Ranges:
    """Ranges in order, of which no two touch. Looking up and adding take a binary search."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._ranges: list[Range] = []
        for first, last in sorted(ranges):
            if self._ranges and first <= self._ranges[-1][1] + 1:
                before, end = self._ranges[-1]
                self._ranges[-1] = before, max(end, last)
            else:
                self._ranges.append((first, last))

    def __iter__(self) -> Iterator[Range]:
        """Yield the ranges in order."""
        return iter(self._ranges)

    def __len__(self) -> int:
        """Return how many ranges there are."""
        return len(self._ranges)

    def __contains__(self, number: int) -> bool:
        """Whether a number is in one of them."""
        at = bisect_right(self._ranges, number, key=_FIRST)
        return at > 0 and number <= self._ranges[at - 1][1]

    def add(self, number: int) -> None:
        """Add a number, and join the ranges that it touches."""
        # those that end at number - 1 or later, and begin at number + 1 or earlier
        low = bisect_left(self._ranges, number - 1, key=_LAST)
        high = bisect_right(self._ranges, number + 1, key=_FIRST)
        touched = self._ranges[low:high]
        first = min(number, touched[0][0]) if touched else number
        last = max(number, touched[-1][1]) if touched else number
        self._ranges[low:high] = [(first, last)]
