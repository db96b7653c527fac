"""Every implementation of the kernels that this machine can run."""

from __future__ import annotations

from srcompile.runtime.kernels import CHOICES, Kernels, load


def _available() -> dict[str, Kernels]:
    found = {}
    for name in CHOICES:
        try:
            found[name] = load(name)
        except ValueError:
            continue
    return found


AVAILABLE = _available()
DEFINITION = AVAILABLE["numpy"]
