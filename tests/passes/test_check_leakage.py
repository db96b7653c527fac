"""Programs that would disclose something are rejected, at the line that would do it.

leaks/<case>.txt holds a lowered program with one line that breaks the masking rule (a comment says
which), and the exact error.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from srcompile.errors import TextError
from srcompile.ir.parser import parse_module
from srcompile.passes.check_leakage import check_leakage, verify_lowered_text
from tests.support import golden
from tests.support.builds import BUILDS, Build, compiled

LEAKS = golden.files(Path(__file__).parent / "leaks")


@pytest.mark.parametrize("path", LEAKS, ids=lambda p: p.stem)
def test_a_leak_is_rejected_at_its_line(path: Path) -> None:
    text = golden.given(path)
    module = parse_module(text)
    with pytest.raises(TextError) as caught:
        verify_lowered_text(module, text)
    golden.check(path, str(caught.value))
    # some leaks only the program as a whole shows
    marked = [n for n, line in enumerate(text.split("\n"), 1) if line.endswith("// <- here")]
    assert not marked or [caught.value.line] == marked


def test_the_programs_without_their_leak_are_accepted() -> None:
    # the first of each program's text is the same everywhere, so one sound program stands for all
    path = Path(__file__).parent / "golden" / "check_leakage" / "routed_program.txt"
    text = golden.given(path)
    verify_lowered_text(parse_module(text), text)


@pytest.mark.parametrize("build", BUILDS.values(), ids=str)
def test_what_the_compiler_makes_is_accepted_and_opens_each_mask_once(build: Build) -> None:
    schedule = compiled(build).schedule
    check_leakage(schedule)
    # counted here again, independently: as many masks are opened under as there are openings
    openings = [n for n in schedule.function("online").nodes() if n.op in ("open", "input")]
    fresh = {n.out for n in schedule.function("prepare").nodes() if n.op == "mask"}
    used = [n.inputs[-1] for n in openings]
    assert len(used) == len(set(used))
    assert set(used) <= fresh


def test_a_routed_program_says_what_it_discloses() -> None:
    found = [(d.what, d.to) for d in compiled(BUILDS["pool"]).leakage]
    assert found == [
        (
            "the program: layers, shapes, formats, calibrated ranges, public constants",
            "both parties and the dealer",
        ),
        ("the route: which of m0, m1, m2 runs", "both parties and the client"),
        ("how often each model ran", "the dealer"),
        ("the output 'y'", "the client"),
        ("the mask of the input 'x'", "the client"),
        (found[-1][0], "both parties"),
    ]
    assert "masked tensors in all segments together" in found[-1][0]
