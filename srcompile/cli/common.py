"""What both command lines share: error handling, reading inputs, printing JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, NoReturn, ParamSpec

import click

from srcompile.errors import UserError
from srcompile.runtime.arrays import ArrayError, read_archive
from srcompile.runtime.client import Array
from srcompile.runtime.errors import OUT_OF_MEMORY, InputError, RunError, error_text
from srcompile.runtime.program import Program

P = ParamSpec("P")
COMPILER_NEEDS = ("torch", "networkx", "lark", "scipy", "threadpoolctl")


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Make a command print errors meant for people and exit with code 2, without a traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            _flush()
        except (UserError, RunError) as error:
            _end(str(error))
        except MemoryError:
            _end(f"this process {OUT_OF_MEMORY}")
        except ModuleNotFoundError as error:
            if error.name not in COMPILER_NEEDS:
                raise
            _end(
                f"compiling needs {error.name}, which is not installed; install srcompile with its "
                "extra: pip install 'srcompile[compiler]'"
            )
        except BrokenPipeError:  # who reads the output has seen enough: click ends without a word
            raise
        except OSError as error:
            _end(_where(error) + error_text(error))

    return wrapped


def _end(message: str) -> NoReturn:
    with suppress(OSError):  # nothing can be said where standard error cannot be written
        click.echo(f"error: {message}", err=True)
    sys.exit(2)


def _flush() -> None:
    """Write what standard output still holds. Raises OSError if it cannot be written."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _where(error: OSError) -> str:
    """Return what an error of the system is about, as far as it can be known.

    If that is standard output, what it holds is dropped, so that nothing fails at the exit.
    """
    if error.filename is not None:
        return f"{error.filename}: "
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "the output cannot be written: "
    return "something could not be read or written: "  # output, too, where nothing is buffered


def profile_options(command: Callable[P, None]) -> Callable[P, None]:
    """Give a command the options that say whose computing projected times assume."""
    one = click.option(
        "--profile",
        metavar="FILE",
        help="Whose computing projected times assume: a file of srrun calibrate. Default: this "
        "machine's, or a built-in one.",
    )
    two = click.option(
        "--parties-profile",
        nargs=2,
        metavar="P0 P1",
        help="The same, one for each party's machine.",
    )
    return one(two(command))


def chosen_profiles(
    profile: str | None, parties_profile: tuple[str, str] | None
) -> tuple[str, ...]:
    """Return the files that these options name. Raises UserError if both are given."""
    if profile and parties_profile:
        raise UserError(
            "--profile is for both parties, --parties-profile for each: give one of them"
        )
    return parties_profile or ((profile,) if profile else ())


def read_inputs(path: str, program: Program) -> dict[str, Array]:
    """Return the arrays of a .npz file by input name; a lone array may have any name.

    Raises InputError if the file is missing or no .npz of plain arrays.
    """
    try:
        with open(path, "rb") as file:
            arrays = dict(read_archive(file, compressed=True))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (OSError, ArrayError) as error:
        raise InputError(f"{path} is no .npz file of plain arrays ({error})") from None
    names = {tensor.given for tensor in program.inputs}
    if len(arrays) == len(names) == 1:
        return {names.pop(): next(iter(arrays.values()))}
    return arrays


def json_text(data: dict[str, Any]) -> str:
    """Return data as JSON, two spaces deep."""
    return json.dumps(data, indent=2)


def print_json(data: dict[str, Any]) -> None:
    """Print data as JSON, two spaces deep."""
    click.echo(json_text(data))
