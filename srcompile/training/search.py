"""A search over architectures and formats: what each costs under MPC, and how accurate it gets.

Each candidate is compiled for its exact cost, and those that cost too much are dropped. The others
learn for a short while from the largest model; their accuracy on held-out texts is that of the
program, by the interpreter, on the first of these, so formats count. The front is the candidates
than which none is both cheaper and more accurate; of those the best is the one with the largest
accuracy - weight * cost.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from srcompile.api import cost
from srcompile.passes.quantise import Formats
from srcompile.training import minilm
from srcompile.training.architecture import Classifier, Student
from srcompile.training.aware import compiled_of, said_by_program
from srcompile.training.distill import Learner, Targets, distillation
from srcompile.training.fit import Settings, fit, predict
from srcompile.training.store import rounded_
from srcompile.training.texts import Texts, Tokens


@dataclass(frozen=True)
class Candidate:
    """An architecture with the precision of its formats."""

    student: Student
    precision_bits: int = Formats().precision_bits

    @property
    def formats(self) -> Formats:
        """The formats that it is compiled with."""
        return replace(Formats(), precision_bits=self.precision_bits)


@dataclass(frozen=True)
class Found:
    """What a candidate costs and reaches.

    seconds: projected; share: of the largest model's. accuracy: of the model on all held-out texts;
    program: of its program, on the first of them. front: whether none is better in both.
    """

    candidate: Candidate
    seconds: float
    share: float
    accuracy: float
    program: float
    front: bool = False


def grid(student: Student, axes: Mapping[str, Sequence[object]]) -> list[Candidate]:
    """Return all combinations: axes by field of Student, or precision_bits. Raises UserError for
    an architecture that does not exist."""
    found = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        bits = chosen.pop("precision_bits", Formats().precision_bits)
        assert isinstance(bits, int)
        found.append(Candidate(Student.of({**student.data(), "from_layers": (), **chosen}), bits))
    return found


def search(
    candidates: Iterable[Candidate],
    known: Texts,
    targets: Targets,
    unseen: Texts,
    samples: Sequence[Tokens],
    largest: Classifier,
    network: str,
    most_share: float,
    settings: Settings,
    folder: Path,
    length: int,
    by_program: int = 32,
    quiet: bool = False,
) -> list[Found]:
    """Return what was found, the cheapest first.

    known, targets: texts to learn from, and what the largest model says of them. most_share: of the
    largest model's cost, what costs more is dropped. by_program: texts that the program is run on.
    """
    whole = cost(largest, samples[0], calibration_inputs=samples, network=network).total.seconds
    found = []
    for number, candidate in enumerate(candidates):
        torch.manual_seed(settings.seed)
        model = minilm.started(candidate.student, known.classes, largest)
        choices = {"calibration_inputs": samples, "network": network, "formats": candidate.formats}
        seconds = cost(model, samples[0], **choices).total.seconds
        if seconds > most_share * whole:
            continue
        learner = Learner(model, largest.student.width)
        fit(learner, known, distillation(targets), settings, folder / str(number), quiet)
        rounded_(model.eval())
        labels = np.array(unseen.labels)
        accuracy = float((predict(model, unseen).argmax(1) == labels).mean())
        some = unseen.chosen(range(min(by_program, len(unseen))))
        said = said_by_program(compiled_of(model, samples, candidate.formats), some, length)
        program = float((said.argmax(1) == labels[: len(some)]).mean())
        found.append(Found(candidate, seconds, seconds / whole, accuracy, program))
    return front(found)


def front(found: Iterable[Found]) -> list[Found]:
    """Return them by cost, with those marked that no cheaper one reaches."""
    marked, best = [], -1.0
    for one in sorted(found, key=lambda f: (f.seconds, -f.accuracy)):
        marked.append(replace(one, front=one.accuracy > best))
        best = max(best, one.accuracy)
    return marked


def preferred(found: Sequence[Found], weight: float) -> Found:
    """Return the one with the largest accuracy - weight * share of the largest model's cost."""
    return max(found, key=lambda f: f.accuracy - weight * f.share)
