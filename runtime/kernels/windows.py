"""How the windows of a convolution lie on its image: how many there are, and what is too large."""

from __future__ import annotations

import math
from collections.abc import Sequence

MAX_SPACING = 1 << 16
"""The largest stride, padding and dilation of a convolution; module.cpp has it too."""
MAX_PADDED = 1 << 32
"""A padded input has fewer elements, like any value of a program (`isa.MAX_ELEMENTS`)."""


def window_counts(
    x: Sequence[int],
    w: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """Return how many windows of w (O, C/groups, kh, kw) lie below and beside each other on x.

    x is (N, C, H, W), without its padding. Raises ValueError, without the op's name, if there are
    none, or if a size is no real layer's.
    """
    if any(not 1 <= v <= MAX_SPACING for v in (*stride, *dilation)):
        raise ValueError(f"stride {stride} and dilation {dilation} must be 1 to {MAX_SPACING}")
    if any(not 0 <= v <= MAX_SPACING for v in padding):
        raise ValueError(f"padding {padding} must be 0 to {MAX_SPACING}")
    height, width = (x[2 + i] + 2 * padding[i] for i in (0, 1))
    if math.prod(size or 1 for size in (*x[:2], height, width)) >= MAX_PADDED:
        raise ValueError(f"the input {x} is too large with its padding {padding}")
    spans = [dilation[i] * (w[2 + i] - 1) + 1 for i in (0, 1)]
    if min(w[2:]) < 1 or spans[0] > height or spans[1] > width:
        raise ValueError(f"the kernel of {w} is empty or larger than the padded input {x}")
    return (height - spans[0]) // stride[0] + 1, (width - spans[1]) // stride[1] + 1
