"""The types of IR values, one family for each level.

graph level    `f32[1,8] in (-1.0, 2.5) about 0.7`   a float tensor, calibrated
fixed level    `fix<14,8>[1,8]`            signed integers of 14 bits standing for x * 2^8
lowered level  `share<26>[1,8]`            elements of Z_(2^26), see srcompile.runtime.isa.RingType
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from srcompile.runtime.isa import RingType

Shape = tuple[int, ...]


@dataclass(frozen=True)
class FloatType:
    """A float tensor (or `i64`: indices) and, after calibration, what values it takes.

    size: the root mean square of a row (last axis) of small values: what an error is held against.
    """

    shape: Shape
    dtype: str = "f32"
    range: tuple[float, float] | None = None
    size: float | None = None

    def __str__(self) -> str:
        text = f"{self.dtype}[{','.join(map(str, self.shape))}]"
        text += f" in ({self.range[0]!r}, {self.range[1]!r})" if self.range else ""
        return text + (f" about {self.size!r}" if self.size else "")

    def reshaped(self, shape: Shape) -> FloatType:
        """Return this type with another shape and no range."""
        return FloatType(tuple(shape), self.dtype)


@dataclass(frozen=True)
class FixType:
    """Signed fixed-point integers: |value| < 2^(bits-1), standing for value / 2^frac."""

    shape: Shape
    bits: int
    frac: int

    def __str__(self) -> str:
        return f"fix<{self.bits},{self.frac}>[{','.join(map(str, self.shape))}]"

    def reshaped(self, shape: Shape) -> FixType:
        """Return this type with another shape."""
        return replace(self, shape=tuple(shape))


Type = FloatType | FixType | RingType
TensorType = FloatType | FixType
