"""One party's machine: kernels, channels, program and engine; standard library and NumPy only.

For use from Python there are roles as objects: `Dealer`, `Party`, `Client` and `AsyncClient`, with
`Settings` from `read_settings`, a `Program` from `load_program`, and `deploy` and `undeploy` for
the model owner. Each public name is fetched on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srcompile.runtime.errors import (
        ConfigError,
        InputError,
        ProgramError,
        ProtocolError,
        RangeError,
        RunError,
    )
    from srcompile.runtime.program import Program
    from srcompile.runtime.program import load as load_program
    from srcompile.runtime.result import ClusterResult
    from srcompile.runtime.services.async_client import AsyncClient
    from srcompile.runtime.services.client import Client, deploy, undeploy
    from srcompile.runtime.services.dealer import DealerService as Dealer
    from srcompile.runtime.services.log import Log
    from srcompile.runtime.services.party import PartyService as Party
    from srcompile.runtime.services.settings import Settings, read_settings

__all__ = [
    "AsyncClient", "Client", "ClusterResult", "ConfigError", "Dealer", "InputError", "Log", "Party",
    "Program", "ProgramError", "ProtocolError", "RangeError", "RunError", "Settings", "deploy",
    "load_program", "read_settings", "undeploy",
]  # fmt: skip

_HOME = {
    "AsyncClient": ("services.async_client", "AsyncClient"),
    "Client": ("services.client", "Client"),
    "ClusterResult": ("result", "ClusterResult"),
    "ConfigError": ("errors", "ConfigError"),
    "Dealer": ("services.dealer", "DealerService"),
    "InputError": ("errors", "InputError"),
    "Log": ("services.log", "Log"),
    "Party": ("services.party", "PartyService"),
    "Program": ("program", "Program"),
    "ProgramError": ("errors", "ProgramError"),
    "ProtocolError": ("errors", "ProtocolError"),
    "RangeError": ("errors", "RangeError"),
    "RunError": ("errors", "RunError"),
    "Settings": ("services.settings", "Settings"),
    "deploy": ("services.client", "deploy"),
    "load_program": ("program", "load"),
    "read_settings": ("services.settings", "read_settings"),
    "undeploy": ("services.client", "undeploy"),
}


def __getattr__(name: str) -> object:
    """Return a public name, importing the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module 'srcompile.runtime' has no attribute '{name}'")
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(f"srcompile.runtime.{module}"), attribute)
