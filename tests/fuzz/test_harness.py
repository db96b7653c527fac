"""The harness finds what it is there to find, other errors and large allocations, and shows it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.harness import Target, run_cases
from tests.fuzz.mutations import changed_bytes, changed_json


def target(parse: Callable[[random.Random], None]) -> Target:
    return Target("a parser", (ValueError,), lambda folder, stack: parse)


def large(rng: random.Random) -> None:
    np.empty(1 << 32, np.uint8)


def other(rng: random.Random) -> None:
    if rng.randrange(10) == 3:
        raise KeyError("not documented")
    raise ValueError("documented")


@pytest.mark.parametrize(
    ("parse", "said"), [(large, "MemoryError"), (other, "KeyError in test_harness.py")]
)
def test_what_is_not_documented_is_a_finding_that_can_be_shown_again(
    parse: Callable[[random.Random], None], said: str, tmp_path: Path
) -> None:
    # given a parser with a mistake, when it is fuzzed
    first, second = (run_cases(target(parse), tmp_path, 7, 40) for _ in range(2))
    # then that is found, in the same cases each time, and each says how to see it again
    assert first
    assert first == second
    assert all(said in finding.what for finding in first)
    assert f"a parser --seed 7 --case {first[0].case}" in str(first[0])


def test_a_documented_error_is_no_finding_and_the_limit_ends_with_the_run(tmp_path: Path) -> None:
    def documented(rng: random.Random) -> None:
        raise ValueError

    assert run_cases(target(documented), tmp_path, 7, 5) == []
    assert np.empty(1 << 32, np.uint8).nbytes == 1 << 32  # untouched pages take no memory


def test_mutations_follow_from_the_generator_and_leave_the_sample_as_it_is() -> None:
    sample = {"a": [1, 2, {"b": "text"}], "c": None}
    one, two = (changed_json(random.Random(3), sample) for _ in range(2))
    assert repr(one) == repr(two)
    assert sample == {"a": [1, 2, {"b": "text"}], "c": None}
    data = bytes(range(100))
    changed = [changed_bytes(random.Random(k), [data]) for k in range(50)]
    assert changed == [changed_bytes(random.Random(k), [data]) for k in range(50)]
    assert sum(c != data for c in changed) > 40
