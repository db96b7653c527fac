"""Program files: whatever is wrong with one is told in a ProgramError, and nothing is half read."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcompile.runtime.errors import ProgramError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.local import LocalSession
from srcompile.runtime.plain import PlainRunner
from srcompile.runtime.program import Program, dumps, load, loads, save
from tests.support.builds import BUILDS, compiled

PROGRAM = compiled(BUILDS["pool"]).program
CONTENT = dumps(PROGRAM)
with zipfile.ZipFile(io.BytesIO(CONTENT)) as _archive:
    FIELDS = json.loads(_archive.read("program.json"))


def rezipped(change: Callable[[dict[str, bytes]], object]) -> bytes:
    """Return the program's file with its members changed."""
    with zipfile.ZipFile(io.BytesIO(CONTENT)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def with_json(text: str) -> bytes:
    return rezipped(lambda members: members.update({"program.json": text.encode()}))


def error_of(content: bytes) -> str:
    with pytest.raises(ProgramError) as caught:
        loads(content)
    return str(caught.value)


# -- files ----------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing.srp"
    with pytest.raises(ProgramError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: No such file or directory"


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text.srp"
    path.write_text("hello")
    with pytest.raises(ProgramError) as caught:
        load(path)
    want = f"{path}: this is not a .srp file, or it is damaged (File is not a zip file)"
    assert str(caught.value) == want


def test_saved_and_loaded_is_the_same_program(tmp_path: Path) -> None:
    path = tmp_path / "model.srp"
    save(PROGRAM, path)
    assert load(path) == PROGRAM
    assert path.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["model.srp"]


@pytest.mark.parametrize(("weights", "mode"), [(True, 0o600), (False, 0o644)])
def test_only_the_owner_reads_a_file_with_weights(tmp_path: Path, weights: bool, mode: int) -> None:
    path = tmp_path / "model.srp"
    path.write_bytes(b"")
    path.chmod(0o666)  # an old file's mode does not matter
    save(PROGRAM, path, weights=weights)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.srp"
    save(PROGRAM, path)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(PROGRAM, path)
    assert path.read_bytes() == CONTENT


# -- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 3, *range(22, len(CONTENT), len(CONTENT) // 40), -1])
def test_a_truncated_file_is_an_error(cut: int) -> None:
    error_of(CONTENT[:cut])


@given(place=st.integers(0, 8 * len(CONTENT) - 1))
def test_a_flipped_bit_is_an_error_or_does_not_matter(place: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[place // 8] ^= 1 << (place % 8)
    try:
        found = loads(bytes(damaged))
    except ProgramError:
        return
    assert found == PROGRAM


HEADER = 30 + len("program.json")
DIRECTORY = CONTENT.index(b"PK\x01\x02")


@pytest.mark.parametrize("place", [*range(8 * HEADER), *range(8 * DIRECTORY, 8 * DIRECTORY + 368)])
def test_a_flipped_bit_of_the_zip_headers_is_an_error_or_does_not_matter(place: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[place // 8] ^= 1 << (place % 8)
    try:
        found = loads(bytes(damaged))
    except ProgramError:
        return
    assert found == PROGRAM


@st.composite
def damaged_json(draw: st.DrawFn) -> str:
    """Return program.json with one value somewhere in it replaced by another."""
    fields: Any = json.loads(json.dumps(FIELDS))
    parent, key = fields, draw(st.sampled_from(sorted(fields)))
    for _ in range(draw(st.integers(0, 6))):
        child = parent[key]
        if isinstance(child, dict) and child:
            parent, key = child, draw(st.sampled_from(sorted(child)))
        elif isinstance(child, list) and child:
            parent, key = child, draw(st.integers(0, len(child) - 1))
    odd: list[Any] = [
        None,
        True,
        -1,
        0,
        3,
        10**30,
        10**400,
        0.5,
        "x",
        "",
        [],
        {},
        [1, 2],
        {"a": 1},
        [[]],
    ]
    parent[key] = draw(st.sampled_from([*odd, float("inf"), float("nan")]))
    return json.dumps(fields)


@settings(max_examples=250)
@given(damaged_json())
def test_one_wrong_value_is_an_error_or_gives_a_program_that_passes_all_checks(text: str) -> None:
    content = with_json(text)
    try:
        found = loads(content)
    except ProgramError:
        return
    found.check()
    assert loads(dumps(found)).digest() == found.digest()


def test_deep_nesting_is_an_error() -> None:
    assert "program.json is damaged" in error_of(with_json("[" * 100_000))


def test_json_that_is_no_object_is_an_error() -> None:
    assert "has format None, this runtime reads format 2" in error_of(with_json("[1, 2]"))


def test_a_newer_format_says_what_to_do() -> None:
    assert error_of(with_json(json.dumps({**FIELDS, "format": 3}))) == (
        "this file has format 3, this runtime reads format 2; compile the model again, or use the "
        "srcompile that wrote it"
    )


def test_a_zip_of_something_else_is_an_error() -> None:
    content = rezipped(lambda members: members.pop("program.json"))
    assert error_of(content) == "this is not a .srp file: it has no program.json"


# -- constants ------------------------------------------------------------------------------------


def number_of(program: Program, secret: bool) -> int:
    return next(k for k, c in enumerate(program.constants.values()) if c.secret == secret)


def test_a_missing_public_constant_is_named() -> None:
    number = number_of(PROGRAM, secret=False)
    name = list(PROGRAM.constants)[number]
    content = rezipped(lambda members: members.pop(f"constants/{number}.npy"))
    assert error_of(content) == f"the public constant {name} is missing"


def test_weights_may_be_left_out_but_not_for_a_run() -> None:
    bare = loads(dumps(PROGRAM, weights=False))
    assert bare == PROGRAM
    assert all(bare.constants[name].data is None for name in bare.weights())
    with pytest.raises(ProgramError, match=r"does not carry the weight .*; give shares of it"):
        LocalSession(bare, load_kernels())
    plain = loads(dumps(compiled(BUILDS["pool"], "plain").program, weights=False))
    with pytest.raises(ProgramError, match="the program does not carry its weights"):
        PlainRunner(plain, load_kernels())


def array_file(array: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=array.dtype == object)
    return out.getvalue()


def test_constants_of_another_type_are_errors() -> None:
    number = number_of(PROGRAM, secret=True)
    const = list(PROGRAM.constants.values())[number]
    name, data = f"constants/{number}.npy", np.asarray(const.data)
    wrong: dict[str, np.ndarray[Any, Any]] = {
        "holds float64": data.astype(np.float64),
        "holds uint": data.reshape(-1, 1, 1),
        "is larger than share<": np.zeros((4096, 4), data.dtype),
        f"holds values of more than {const.type.width} bits": np.full_like(
            data, ~data.dtype.type(0)
        ),
        "it is no array of numbers": np.full(data.shape, None, object),
    }
    for message, array in wrong.items():
        changed = {name: array_file(array)}
        assert message in error_of(rezipped(partial(_update, changed)))


def _update(changed: dict[str, bytes], members: dict[str, bytes]) -> None:
    members.update(changed)


# -- programs that break a rule -------------------------------------------------------------------


def test_a_broken_rule_is_told_with_its_place() -> None:
    fields = json.loads(json.dumps(FIELDS))
    body = fields["functions"]["online"][0]
    index = next(k for k, i in enumerate(body) if i[0] == "open")
    body[index][2][1] = body[0][2][0]  # the mask of the input
    assert error_of(with_json(json.dumps(fields))).startswith(
        f"online function, segment 0, instruction {index}: "
    )


@pytest.mark.parametrize("change", ["renamed input", "missing output", "input of another width"])
def test_inputs_and_outputs_must_be_those_of_the_instructions(change: str) -> None:
    fields = json.loads(json.dumps(FIELDS))
    if change == "renamed input":
        fields["inputs"][0][0] = "z"
    elif change == "missing output":
        fields["outputs"] = []
    else:
        fields["inputs"][0][3] += 1
    assert "put" in error_of(with_json(json.dumps(fields)))
