"""What `srtrain` is told of a pool: its models, its router, and how they learn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from srcompile.errors import UserError
from srcompile.passes.quantise import Formats
from srcompile.training.architecture import MOST_TOKENS, Student
from srcompile.training.aware import FORMATS, Aware
from srcompile.training.evaluate import MEASURES
from srcompile.training.fit import Settings
from srcompile.training.router import Gate

LEAST_HELD_OUT = 10
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Recipe:
    """A pool to train.

    models: architectures by name, from the cheapest to the largest, which the others learn from.
    gate: the router.
    settings: how each model learns, by name; the largest from labels, the others from it.
    length: tokens of the compiled program.
    held_out: whole texts of the training data that no model learns from; the router's last layer
        and its operating point are found on them.
    run_words: what shares so many words in a row with them is not trained with either.
    copies: how many altered copies of each text students learn from, beside the text.
    measure: what `srtrain evaluate` shows beside accuracy: accuracy, f1 or matthews.
    least_tokens: shorter texts are not trained with.
    most_texts: how many to train with at most, the first ones; 0 for all.
    formats: those that the pool will be compiled with. A router on layers of attention needs
        routing_bits of 22 or so, fewer than others.
    aware: of models by name, how they learn with their program behind the rest.
    axes: what `srtrain search` varies, by field of Student, or precision_bits.
    """

    models: Mapping[str, Student]
    gate: Gate
    settings: Mapping[str, Settings] = field(default_factory=dict)
    length: int = 64
    held_out: int = 1500
    run_words: int = 4
    copies: int = 0
    measure: str = "accuracy"
    least_tokens: int = 0
    seed: int = 0
    most_texts: int = 0
    formats: Formats = FORMATS
    aware: Mapping[str, Aware] = field(default_factory=dict)
    axes: Mapping[str, Sequence[object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise UserError(f"a recipe has at least two models, not {len(self.models)}")
        for name in self.models:
            if not NAME.fullmatch(name) or name in ("router", "main", "route"):
                raise UserError(f"'{name}' does not name a model: small letters, digits and '_'")
        for name in (self.gate.stem, *self.settings, *self.aware):
            if name not in self.models:
                raise UserError(f"the recipe speaks of '{name}'; its models are {self._names}")
        if not 2 <= self.length <= MOST_TOKENS:
            raise UserError(f"a recipe's length is {self.length}; it is 2 to {MOST_TOKENS} tokens")
        if self.run_words < 1 or self.copies < 0:
            raise UserError(
                f"a recipe's run_words is {self.run_words} and copies is {self.copies}; they are "
                "1 or more, and 0 or more"
            )
        if self.measure not in MEASURES:
            raise UserError(f"there is no measure '{self.measure}': choose {', '.join(MEASURES)}")
        if self.held_out < LEAST_HELD_OUT:
            raise UserError(
                f"a recipe holds {self.held_out} texts out; an operating point needs "
                f"{LEAST_HELD_OUT} or more"
            )

    @property
    def largest(self) -> str:
        """The name of the last model."""
        return list(self.models)[-1]

    @property
    def _names(self) -> str:
        return ", ".join(self.models)

    def settings_of(self, name: str) -> Settings:
        """Return how a model learns, with the recipe's seed."""
        return replace(self.settings.get(name, Settings()), seed=self.seed)


def shortened(recipe: Recipe) -> Recipe:
    """Return a recipe that takes minutes: few texts, short ones, each seen a few times."""
    gate = replace(recipe.gate, settings=replace(recipe.gate.settings, epochs=2, batch=32))
    settings = {n: replace(recipe.settings_of(n), epochs=2, batch=32) for n in recipe.models}
    return replace(
        recipe,
        gate=gate,
        settings=settings,
        length=min(recipe.length, QUICK_TOKENS),
        held_out=min(recipe.held_out, QUICK_HELD_OUT),
        most_texts=QUICK_TEXTS,
        aware={n: replace(a, rounds=1, texts=QUICK_AWARE) for n, a in recipe.aware.items()},
    )


QUICK_TEXTS, QUICK_HELD_OUT, QUICK_TOKENS, QUICK_AWARE = 256, 64, 24, 16
"""What `--quick` trains with."""


def load_recipe(given: str) -> Recipe:
    """Run the file POOL.py, or POOL.py:NAME, which defines `recipe`, or NAME.

    That is a Recipe or a function that returns one. Raises UserError, naming the file, if it is
    missing, fails, or defines none.
    """
    file, _, name = given.rpartition(":")
    if not (file.endswith(".py") and name.isidentifier()):
        file, name = given, "recipe"
    path = Path(file)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    scope: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(path.read_text(), str(path), "exec"), scope)
        found = scope.get(name)
        found = found() if callable(found) else found
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:
        raise UserError(f"{path} fails: {type(error).__name__}: {error}") from None
    if not isinstance(found, Recipe):
        raise UserError(f"{path} defines no `{name}`, a srcompile.training.Recipe")
    return found
