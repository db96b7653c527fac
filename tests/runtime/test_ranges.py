"""Ranges hold what a set holds, and are as few as can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from srcompile.runtime.services.ranges import Ranges

numbers = st.lists(st.integers(0, 40), max_size=60)


@given(numbers, numbers)
def test_ranges_are_what_a_set_holds(first: list[int], later: list[int]) -> None:
    # given ranges in any order, which may overlap, when numbers are added
    given_ = [(n, n + n % 3) for n in first]
    ranges, known = Ranges(given_), {n for a, b in given_ for n in range(a, b + 1)}
    for number in later:
        ranges.add(number)
        known.add(number)
        # then they hold what a set holds
        assert {n for n in range(-1, 45) if n in ranges} == known
    # and between two of them a number is missing
    found = list(ranges)
    assert len(ranges) == len(found) == sum(n - 1 not in known for n in known)
    assert found == sorted(found)
