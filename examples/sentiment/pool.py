"""The recipe of the pool for sentences of film reviews: `srtrain examples/sentiment/pool.py ...`.

Three models on one table of rows: a convolution, which is the router's trunk too, two layers of
MiniLM of which the second computes one token only, and MiniLM itself.
"""

from srcompile.training import Aware, Gate, Recipe, Settings, Student

recipe = Recipe(
    models={
        "small": Student(kind="convolution", layers=2, width=192, window=3),
        "middle": Student(layers=2, from_layers=(0, 1), activation="relu", pooling="first"),
        "large": Student(),
    },
    gate=Gate(stem="small"),
    settings={
        "small": Settings(epochs=6, batch=128, tokens=2048, rate=3e-3),
        "middle": Settings(epochs=6, batch=64, tokens=2048, rate=3e-4),
        "large": Settings(epochs=4, batch=64, tokens=2048, rate=1e-4),
    },
    aware={"middle": Aware(texts=256), "large": Aware(texts=128)},
    length=64,
    held_out=1500,
    copies=3,
    axes={"layers": [1, 2, 3], "softmax": ["exact", "2quad"], "ffn": [768, 1536]},
)
