"""Where the elements of a constant come from: an array that is there, or a function that makes it.

Weights are large and most of a compilation needs none of their integers. So they are made of the
model's floats one at a time, each time that they are asked for, and not kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Source = NDArray[np.generic] | Callable[[], NDArray[np.generic]] | None
"""None: it is not there."""


def array_of(source: Source) -> Array | None:
    """Return the array, made anew if `source` is a function."""
    return source() if callable(source) else source
