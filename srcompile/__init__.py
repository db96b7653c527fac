"""srcompile compiles PyTorch models into secure multi-party computation.

Importing this package loads nothing heavy: each public name is fetched on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srcompile.api import compile, cost
    from srcompile.routing.pool import Pool
    from srcompile.whatif import sweep

__version__ = "0.1.0"
__all__ = ["Pool", "__version__", "compile", "cost", "sweep"]

_HOME = {
    "compile": "srcompile.api",
    "cost": "srcompile.api",
    "Pool": "srcompile.routing.pool",
    "sweep": "srcompile.whatif",
}


def __getattr__(name: str) -> object:
    """Return a public name, importing the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module 'srcompile' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
