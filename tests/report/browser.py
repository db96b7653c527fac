"""A headless Chromium for tests, without network and with a profile of its own."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars", "--enable-logging=stderr",
    "--virtual-time-budget=20000",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What a page became: its elements as text, and what it wrote to the console."""

    dom: str
    console: tuple[str, ...]


def _chromium() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    return found


def _run(page: Path, folder: Path, *options: str, fragment: str = "") -> tuple[str, str]:
    profile = folder / "profile"
    command = [_chromium(), *OPTIONS, f"--user-data-dir={profile}", *options]
    result = subprocess.run(
        [*command, f"file://{page}{fragment}"], capture_output=True, text=True, timeout=180,
        check=True,
    )  # fmt: skip
    shutil.rmtree(profile, ignore_errors=True)
    return result.stdout, result.stderr


def visit(page: Path, folder: Path, fragment: str = "") -> Seen:
    """Return what a page becomes once its scripts have run."""
    dom, log = _run(page, folder, "--dump-dom", fragment=fragment)
    return Seen(dom, tuple(line for line in log.splitlines() if "CONSOLE" in line))


def screenshot(page: Path, folder: Path, *, dark: bool) -> Path:
    """Return a picture of the top of a page, in a light or a dark desktop."""
    path = folder / f"{'dark' if dark else 'light'}.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _run(page, folder, scheme, "--window-size=1200,1400", f"--screenshot={path}")
    return path
