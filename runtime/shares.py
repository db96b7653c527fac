"""Weight shares as files, one for each party, for programs that carry no weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.runtime.arrays import ArrayError, read_archive
from srcompile.runtime.client import check_shares
from srcompile.runtime.errors import ProgramError
from srcompile.runtime.program import Program
from srcompile.runtime.ring import Ring

HEADER = "header"


def write_shares(
    path: str | Path, program: Program, party: int, shares: Mapping[str, Ring]
) -> None:
    """Write one party's shares of the program's weights, readable by the owner only (0600)."""
    names = program.weights()
    arrays: dict[str, Any] = {str(number): shares[name] for number, name in enumerate(names)}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        header = np.frombuffer(f"{program.digest()}:{party}".encode(), np.uint8)
        np.savez(file, **{HEADER: header, **arrays})


def read_shares(path: str | Path, program: Program, party: int) -> dict[str, Ring]:
    """Return one party's weight shares. Raises ProgramError, naming the file, unless they fit."""
    try:
        with open(path, "rb") as file:
            archive = read_archive(file)
        header = archive[HEADER].tobytes().decode("ascii", "replace")
        arrays = {name: archive[str(number)] for number, name in enumerate(program.weights())}
    except OSError as error:
        raise ProgramError(f"{path}: {error.strerror or error}") from None
    except ArrayError as error:
        raise ProgramError(f"{path} is no file of weight shares ({error})") from None
    except KeyError as error:
        raise ProgramError(f"{path} is no file of weight shares (it lacks {error})") from None
    digest, _, index = header.partition(":")
    if digest != program.digest():
        raise ProgramError(f"{path} holds shares for another program")
    if index != str(party):
        raise ProgramError(f"{path} holds the shares of party {index}, not of party {party}")
    try:
        return check_shares(program, arrays)
    except ProgramError as error:
        raise ProgramError(f"{path}: {error}") from None
