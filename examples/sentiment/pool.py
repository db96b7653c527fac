"""The recipe of the pool for sentences of film reviews: `srtrain examples/sentiment/pool.py ...`.

Three models on one table of rows: a convolution, which is the router's trunk too, two layers of
MiniLM of which the second computes one token only, and MiniLM itself.
"""

from srcompile.training import Gate, Recipe, Settings, Student

recipe = Recipe(
    models={
        "small": Student(kind="convolution", layers=2, width=192, window=3),
        "middle": Student(layers=2, from_layers=(0, 1), activation="relu", pooling="first"),
        "large": Student(),
    },
    gate=Gate(stem="small"),
    settings={
        "small": Settings(epochs=3, batch=128, rate=3e-3),
        "middle": Settings(epochs=1, batch=64, rate=4e-4),
        "large": Settings(epochs=2, batch=32, rate=1e-4),
    },
    length=64,
    held_out=1500,
    least_tokens=10,
)
