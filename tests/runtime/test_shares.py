"""Files of weight shares: private, bound to a program and a party, and checked when read."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from srcompile.runtime.client import Shares, share_weights
from srcompile.runtime.errors import ProgramError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.local import LocalSession
from srcompile.runtime.program import dumps, loads
from srcompile.runtime.ring import canonical
from srcompile.runtime.shares import read_shares, write_shares
from tests.support.builds import BUILDS, compiled

PROGRAM = compiled(BUILDS["mlp"]).program
OTHER = compiled(BUILDS["gelu"]).program


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Return the share files of both parties."""
    shares = share_weights(PROGRAM)
    paths = (tmp_path / "party0.npz", tmp_path / "party1.npz")
    for party, path in enumerate(paths):
        write_shares(path, PROGRAM, party, shares[party])
    return paths


def test_shares_add_up_to_the_weights(files: tuple[Path, Path]) -> None:
    parts = [read_shares(path, PROGRAM, party) for party, path in enumerate(files)]
    for name in PROGRAM.weights():
        const = PROGRAM.constants[name]
        total = canonical(parts[0][name] + parts[1][name], const.type.width)
        np.testing.assert_array_equal(total, const.data)


def test_a_program_without_weights_runs_on_shares_from_files(files: tuple[Path, Path]) -> None:
    bare = loads(dumps(PROGRAM, weights=False))
    shares: Shares = (read_shares(files[0], bare, 0), read_shares(files[1], bare, 1))
    sample = BUILDS["mlp"].samples[0]
    got = LocalSession(bare, load_kernels(), shares).infer(sample).outputs["y"]
    want = LocalSession(PROGRAM, load_kernels()).infer(sample).outputs["y"]
    np.testing.assert_allclose(got, want, atol=1e-2)


def test_only_the_owner_can_read_them(files: tuple[Path, Path]) -> None:
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files[0].chmod(0o666)
    write_shares(files[0], PROGRAM, 0, share_weights(PROGRAM)[0])
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600


def test_a_share_alone_is_uniform_and_new_each_time() -> None:
    """Not a proof: two sharings of one weight have nothing in common."""
    first, second = share_weights(PROGRAM), share_weights(PROGRAM)
    for name in PROGRAM.weights():
        for party in (0, 1):
            assert not np.array_equal(first[party][name], second[party][name])


def error_of(path: Path, party: int = 0) -> str:
    with pytest.raises(ProgramError) as caught:
        read_shares(path, PROGRAM, party)
    return str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.npz"
    assert error_of(path) == f"{path}: No such file or directory"


def test_shares_of_another_program_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    write_shares(path, OTHER, 0, share_weights(OTHER)[0])
    assert error_of(path) in (
        f"{path} holds shares for another program",
        f"{path} is no file of weight shares ('4 is not a file in the archive')",
    )


def test_shares_of_the_other_party_are_not_taken(files: tuple[Path, Path]) -> None:
    want = f"{files[1]} holds the shares of party 1, not of party 0"
    assert error_of(files[1], 0) == want


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 200, -1])
def test_a_truncated_file_is_no_file_of_shares(files: tuple[Path, Path], cut: int) -> None:
    files[0].write_bytes(files[0].read_bytes()[:cut])
    assert f"{files[0]} is no file of weight shares" in error_of(files[0])


def test_a_file_of_something_else_is_no_file_of_shares(tmp_path: Path) -> None:
    path = tmp_path / "array.npz"
    np.savez(path, x=np.zeros(3))
    assert f"{path} is no file of weight shares" in error_of(path)
    single = tmp_path / "array.npy"
    np.save(single, np.zeros(3))
    assert f"{single} is no file of weight shares" in error_of(single)
    text = tmp_path / "text.npz"
    text.write_text("hello")
    assert f"{text} is no file of weight shares" in error_of(text)


def test_shares_of_another_shape_are_not_taken(tmp_path: Path) -> None:
    shares = share_weights(PROGRAM)[0]
    name = PROGRAM.weights()[0]
    path = tmp_path / "shape.npz"
    write_shares(path, PROGRAM, 0, {**shares, name: shares[name].reshape(-1)})
    assert error_of(path).startswith(f"{path}: the share of {name} is uint")
