"""What a user may choose by name, the default first. It imports nothing: `--help` shows it."""

from __future__ import annotations

from collections.abc import Mapping

APPROXIMATIONS: Mapping[str, tuple[str, ...]] = {
    "gelu": ("spline", "quad", "relu"),
    "silu": ("spline", "relu"),
    "softmax": ("exact", "2quad"),
}
"""What may stand for a function (passes/approximate.py)."""

EMBEDDINGS = ("client", "secret")
"""Who looks token ids up (passes/place_embeddings.py)."""

MASKS = ("secret", "public")
"""Whether the parties learn which tokens count (passes/place_masks.py)."""


def approximations() -> str:
    """Return the choices for all functions in words."""
    return "; ".join(f"{name}={'|'.join(found)}" for name, found in APPROXIMATIONS.items())
