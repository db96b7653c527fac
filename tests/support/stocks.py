"""Stocks of material for tests, without services."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from srcompile.runtime.program import Program
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.state import Journal
from srcompile.runtime.services.stockpile import Filling, Levels, Stockpile
from srcompile.runtime.services.vault import Vault
from tests.support.services import PROGRAM


def stockpile(
    folder: Path,
    wanted: Callable[[], None] = lambda: None,
    low: int = 1,
    high: int = 4,
    program: Program = PROGRAM,
) -> tuple[Stockpile, Journal]:
    """Return party 1's stock of a deployment's folder, and the journal beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    journal, log = Journal(folder / "used"), Log("party1", stream=io.StringIO())
    vault, levels = Vault(folder / "stock.key"), Levels(low, high)
    filling = Filling(wanted)
    found = Stockpile(folder / "stock", vault, program, 1, journal, levels, log, filling)
    return found, journal


def fill(stock: Stockpile, *blocks: tuple[int, int]) -> None:
    """Put blocks, each with its segment, into a stock."""
    for block, segment in blocks:
        stock.write(block, segment, bytes)
        stock.publish(block, segment)
