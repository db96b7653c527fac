"""Numbers as people read them."""

from __future__ import annotations

_UNITS = ("kB", "MB", "GB", "TB")


def size_text(count: float) -> str:
    """Return a number of bytes as people read it."""
    if abs(count) < 1000:
        return f"{count:.0f} B"
    scaled = count / 1000
    for unit in _UNITS:
        if abs(scaled) < 999.95 or unit == _UNITS[-1]:
            break
        scaled /= 1000
    return f"{scaled:.1f} {unit}"


def time_text(seconds: float) -> str:
    """Return a time as people read it."""
    if abs(seconds) < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"


def change_text(before: float, after: float) -> str:
    """Return by how much something changes, such as -12% or ×3.5; "=" for what stays as it is."""
    if before == after:
        return "="
    if not before:
        return "new"
    percent = (after / before - 1) * 100
    if percent >= 200:
        return f"×{after / before:.1f}"
    if abs(percent) < 0.05:
        return "≈"
    return f"{percent:+.0f}%" if abs(percent) >= 0.5 else f"{percent:+.1f}%"


def count_text(count: int, what: str) -> str:
    """Return a number of things, such as 1 round or 2 rounds."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def pair_text(pair: tuple[int, int]) -> str:
    """Return the bytes of both parties, once if they are equal."""
    first, second = pair
    return size_text(first) if first == second else f"{size_text(first)} / {size_text(second)}"
