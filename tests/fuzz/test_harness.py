"""The harness finds what it is there to find, other errors and large allocations, and shows it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fuzz.harness import Target, run_cases, serve
from tests.fuzz.mutations import ODD_VALUES, changed_bytes, changed_json


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


class Ticking(Target):
    """A target with a clock of its own: it shows the seconds that its cases took."""

    def clock(self) -> float:
        return float(seconds.pop())


seconds: list[int] = []


@pytest.mark.parametrize(
    ("each", "cases"), [(1, 10), (2, 5), (3600, 2)], ids=["short", "longer", "stopped for an hour"]
)
def test_a_run_takes_as_long_as_its_cases_count(each: int, cases: int, tmp_path: Path) -> None:
    # given cases of so many seconds, of which one counts for five at most
    ran: list[int] = []
    ticking = Ticking("a parser", (), lambda folder, stack: lambda rng: ran.append(1))
    seconds[:] = reversed([t for case in range(50) for t in (case * each, (case + 1) * each)])
    (tmp_path / "case").write_bytes(bytes(16))
    # when they run for ten seconds
    serve(ticking, 7, 3, 10.0, tmp_path / "case", limited=False)
    # then there were so many, and the watching process finds the number of the next one
    assert len(ran) == cases
    assert (tmp_path / "case").read_bytes()[:8] == (3 + cases).to_bytes(8, "big")


def test_mutations_follow_from_the_generator_and_leave_the_sample_as_it_is() -> None:
    sample: dict[str, Any] = {"a": [1, 2, {"b": "text"}], "c": None}
    odd = repr(ODD_VALUES)
    for k in range(300):  # what was put in is changed again, and is another one each time
        value: Any = sample
        for _ in range(5):
            value = changed_json(random.Random(k), value)
    assert repr(ODD_VALUES) == odd
    one, two = (changed_json(random.Random(3), sample) for _ in range(2))
    assert repr(one) == repr(two)
    assert sample == {"a": [1, 2, {"b": "text"}], "c": None}
    data = bytes(range(100))
    changed = [changed_bytes(random.Random(k), [data]) for k in range(50)]
    assert changed == [changed_bytes(random.Random(k), [data]) for k in range(50)]
    assert sum(c != data for c in changed) > 40
