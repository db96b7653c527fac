"""Labelled sentences made from a few words, and a recipe of a pool small enough for tests."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = (
    ("dreadful", "boring", "clumsy", "tedious", "awful", "dull"),
    ("wonderful", "charming", "brilliant", "moving", "delightful", "funny"),
)
THINGS = (  # noqa: SIM905, a word list
    "film story cast script ending music camera plot scene actor hero villain dialogue light "
    "costume chase romance joke song dance opening sequel remake thriller comedy drama picture "
    "trailer moment hour role voice face city child mother dog ship house war"
).split()

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
        "large": Settings(epochs=4, batch=32, rate=2e-3),
    },
    length=16,
    held_out=40,
)
"""


def rows(count: int, seed: int) -> list[tuple[int, str]]:
    """Return labelled sentences; no two are the same, and few share four words in a row."""
    draws = random.Random(seed)
    found: dict[str, int] = {}
    while len(found) < count:
        label = draws.randrange(2)
        first, second = draws.choices(WORDS[label], k=2)
        a, b, c = draws.sample(THINGS, 3)
        found[f"{first} {a} and {b} , {second} {c}"] = label
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
