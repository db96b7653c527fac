"""Recipes for tasks of GLUE: `srtrain examples/glue/pool.py:mrpc ...`.

cola: whether a sentence is grammatical. mrpc: whether two sentences say the same. rte, qnli:
whether the second text follows from the first, or answers it.

Sentences have the pool of the sentiment example. A convolution, which sees neighbours only, cannot
compare two texts, so pairs have layers of MiniLM as the smallest model too.
"""

from srcompile.passes.quantise import Formats
from srcompile.training import Gate, Recipe, Settings, Student

FOR_SENTENCES = {
    "small": Student(kind="convolution", layers=2, width=192, window=3),
    "middle": Student(layers=2, from_layers=(0, 1), activation="relu", pooling="first"),
    "large": Student(),
}
FOR_PAIRS = {
    "small": Student(layers=2, from_layers=(0, 1), activation="relu", pooling="first"),
    "middle": Student(layers=4, from_layers=(0, 1, 2, 3), activation="relu", pooling="first"),
    "large": Student(),
}
FORMATS_FOR_PAIRS = Formats(routing_bits=22)
GATE_FOR_PAIRS = Gate(
    stem="small",
    settings=Settings(epochs=1, batch=64, tokens=2048, rate=1e-4),  # its trunk is MiniLM's
)


def learning(epochs: int, students: int) -> dict[str, Settings]:
    """Return how the models learn: epochs of the largest one, and of the others."""
    student = Settings(epochs=students, batch=64, tokens=2048, rate=3e-4)
    return {
        "small": student,
        "middle": student,
        "large": Settings(epochs=epochs, batch=32, tokens=2048, rate=1e-4),
    }


cola = Recipe(
    models=FOR_SENTENCES,
    gate=Gate(stem="small"),
    settings=learning(6, 6) | {"small": Settings(epochs=8, batch=128, tokens=2048, rate=3e-3)},
    length=48,
    held_out=800,
    copies=2,
    measure="matthews",
)
mrpc = Recipe(
    models=FOR_PAIRS,
    gate=GATE_FOR_PAIRS,
    formats=FORMATS_FOR_PAIRS,
    settings=learning(5, 4),
    length=96,
    held_out=400,
    run_words=8,
    copies=1,
    measure="f1",
)
rte = Recipe(
    models=FOR_PAIRS,
    gate=GATE_FOR_PAIRS,
    formats=FORMATS_FOR_PAIRS,
    settings=learning(5, 4),
    length=128,
    held_out=300,
    run_words=8,
    copies=1,
)
qnli = Recipe(
    models=FOR_PAIRS,
    gate=GATE_FOR_PAIRS,
    formats=FORMATS_FOR_PAIRS,
    settings=learning(2, 2),
    length=128,
    held_out=1000,
    run_words=8,
)
