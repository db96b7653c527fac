"""Inputs that do not fit are turned away with a sentence that says what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from srcompile.runtime.client import encode, split_batch
from srcompile.runtime.errors import InputError
from srcompile.runtime.gates import signed
from srcompile.runtime.program import Tensor
from tests.support.builds import BUILDS, compiled, session

PROGRAM = compiled(BUILDS["mlp"]).program
(X,) = PROGRAM.inputs
ZEROS = np.zeros((1, 4), np.float32)


def changed(value: float) -> NDArray[np.float32]:
    x = ZEROS.copy()
    x[0, 2] = value
    return x


WRONG: dict[str, tuple[dict[str, NDArray[np.generic]], str]] = {
    "another name": ({"z": ZEROS}, "the inputs are z; the program takes x"),
    "none": ({}, "the inputs are none; the program takes x"),
    "one too many": ({"x": ZEROS, "a": ZEROS}, "the inputs are a, x; the program takes x"),
    "another shape": (
        {"x": np.zeros((1, 5), np.float32)},
        "input 'x' has the shape (1, 5); the program takes (1, 4)",
    ),
    "no batch axis": (
        {"x": np.zeros(4, np.float32)},
        "input 'x' has the shape (4,); the program takes (1, 4)",
    ),
    "no rows": (
        {"x": np.zeros((0, 4), np.float32)},
        "input 'x' has the shape (0, 4); the program takes (1, 4)",
    ),
    "text": (
        {"x": np.array([["a", "b", "c", "d"]])},
        "input 'x' has the type <U1; it must hold numbers",
    ),
    "complex numbers": (
        {"x": np.zeros((1, 4), np.complex64)},
        "input 'x' has the type complex64; it must hold numbers",
    ),
    "objects": (
        {"x": np.full((1, 4), None)},
        "input 'x' has the type object; it must hold numbers",
    ),
    "not a number": ({"x": changed(np.nan)}, "input 'x' holds NaN or infinite values"),
    "infinite": ({"x": changed(-np.inf)}, "input 'x' holds NaN or infinite values"),
    "out of range": (
        {"x": changed(1000.0)},
        "input 'x' has values from 0 to 1000; the program was calibrated for "
        f"{X.low:g} to {X.high:g}. Calibrate it with inputs that cover them.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_input_that_does_not_fit_is_turned_away(case: str) -> None:
    arrays, message = WRONG[case]
    with pytest.raises(InputError) as caught:
        split_batch(PROGRAM, arrays)
    assert str(caught.value) == message


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.int64, np.bool_])
def test_numbers_of_any_kind_are_taken(dtype: type) -> None:
    (row,) = split_batch(PROGRAM, {"x": np.ones((1, 4), dtype)})
    assert row["x"].shape == (1, 4)


def test_rows_of_a_batch_become_inferences() -> None:
    batch = np.concatenate([s["x"] for s in BUILDS["mlp"].samples[:3]])
    rows = split_batch(PROGRAM, {"x": batch})
    assert len(rows) == 3
    for row, sample in zip(rows, BUILDS["mlp"].samples, strict=False):
        np.testing.assert_array_equal(row["x"], sample["x"])


def test_inputs_with_other_numbers_of_rows_do_not_make_a_batch() -> None:
    program = compiled(BUILDS["add-1-2x3,1x3"]).program
    with pytest.raises(InputError, match=r"the program takes \(2, 3\)"):
        split_batch(program, {"x0": np.zeros((4, 3)), "x1": np.zeros((1, 3))})


def test_the_ends_of_the_range_are_taken_and_nothing_beyond() -> None:
    split_batch(PROGRAM, {"x": changed(X.high)})
    with pytest.raises(InputError):
        split_batch(PROGRAM, {"x": changed(float(np.nextafter(np.float32(X.high), np.inf)) + 1e-3)})


@given(
    value=st.floats(-100, 100),
    frac=st.integers(0, 20),
    width=st.integers(30, 64),
)
def test_encoding_is_rounding_to_the_nearest(value: float, frac: int, width: int) -> None:
    tensor = Tensor("x", (1,), frac, width)
    (back,) = signed(encode(tensor, np.array([value])), width) / 2.0**frac
    assert abs(back - value) <= 2.0 ** -(frac + 1)


def test_what_is_wrong_is_said_before_anything_is_sent() -> None:
    local = session(PROGRAM, 5)
    before = [c.traffic.messages for c in local._clients]
    with pytest.raises(InputError):
        split_batch(PROGRAM, {"x": changed(np.nan)})
    assert [c.traffic.messages for c in local._clients] == before


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_session_refuses_inputs_at_once_and_goes_on(
    wrong: tuple[dict[str, NDArray[np.generic]], str],
) -> None:
    local = session(PROGRAM, 3)
    arrays, message = wrong

    with pytest.raises(InputError) as error:
        local.infer(arrays)

    assert message in str(error.value)
    assert not local.offline.blocks
    assert local.infer({"x": ZEROS}).outputs


def test_a_session_takes_one_inference_at_a_time() -> None:
    with pytest.raises(InputError, match="hold 3 inferences; give them one at a time"):
        session(PROGRAM, 3).infer({"x": np.zeros((3, 4), np.float32)})
