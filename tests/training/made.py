"""Labelled sentences made from a few words, and a recipe of a pool small enough for tests."""

from __future__ import annotations

import random
from pathlib import Path

GOOD = ("wonderful", "charming", "brilliant", "moving", "delightful", "funny")
BAD = ("dreadful", "boring", "clumsy", "tedious", "awful", "dull")
THINGS = ("film", "story", "cast", "script", "ending", "music", "camera", "plot")
HOW = ("the {0} is {1}", "a {1} {0}", "i found the {0} {1}", "never was a {0} so {1}")
MORE = ("", " from start to end", " , and the {2} too", " , says my friend who saw it twice")

RECIPE = """
from srcompile.training import Gate, Recipe, Settings, Student

recipe = Recipe(
    models={
        "small": Student(kind="convolution", layers=1, width=16),
        "large": Student(layers=1, width=48, heads=2, ffn=64),
    },
    gate=Gate(stem="small", hidden=8),
    settings={
        "small": Settings(epochs=2, batch=32, rate=2e-3),
        "large": Settings(epochs=4, batch=32, rate=1e-3),
    },
    length=16,
    held_out=40,
)
"""


def rows(count: int, seed: int) -> list[tuple[int, str]]:
    """Return labelled sentences; no two are the same."""
    draws = random.Random(seed)
    found: dict[str, int] = {}
    while len(found) < count:
        label = draws.randrange(2)
        text = draws.choice(HOW) + draws.choice(MORE)
        word = draws.choice((BAD, GOOD)[label])
        found[text.format(draws.choice(THINGS), word, draws.choice(THINGS))] = label
    return [(label, text) for text, label in found.items()]


def write(path: Path, count: int, seed: int) -> Path:
    """Write sentences as a TSV file."""
    lines = ["label\ttext_a\ttext_b", *(f"{label}\t{text}\t" for label, text in rows(count, seed))]
    path.write_text("\n".join(lines) + "\n")
    return path


def recipe(path: Path) -> Path:
    """Write the recipe."""
    path.write_text(RECIPE)
    return path
