"""What a trained pool costs: compiled for a network, from the compiler's own report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from srcompile.api import Compiled, compile, cost
from srcompile.passes.quantise import Formats
from srcompile.routing.pool import Pool
from srcompile.training.architecture import Classifier
from srcompile.training.operating import Costs
from srcompile.training.store import Trained
from srcompile.training.texts import Texts, Tokens


def pool_of(trained: Trained, weight: float = 0.0) -> Pool:
    """Return a trained pool as the compiler takes it."""
    return Pool(models=dict(trained.models), router=trained.router, cost_weight=weight)


def calibration(texts: Texts, length: int, count: int = 16) -> list[Tokens]:
    """Return texts to take ranges from, of all lengths, the longest and the shortest included."""
    order = sorted(range(len(texts)), key=lambda k: len(texts.ids[k]))
    places = [order[i * (len(order) - 1) // max(count - 1, 1)] for i in range(count)]
    return [texts.padded(k, length) for k in dict.fromkeys(places)]


def compile_pool(
    trained: Trained,
    samples: Sequence[Tokens],
    network: str,
    weight: float = 0.0,
    formats: Formats | None = None,
) -> Compiled:
    """Compile a pool for a network; samples as `calibration` gives them."""
    return compile(
        pool_of(trained, weight),
        samples[0],
        calibration_inputs=samples,
        network=network,
        formats=formats,
    )


def alone(
    models: Iterable[Classifier],
    samples: Sequence[Tokens],
    network: str,
    formats: Formats | None = None,
) -> list[float]:
    """Return projected seconds of each model, as a program of its own."""
    choices = {"calibration_inputs": samples, "network": network, "formats": formats}
    return [cost(model, samples[0], **choices).total.seconds for model in models]


def costs_of(
    trained: Trained, samples: Sequence[Tokens], network: str, formats: Formats | None = None
) -> Costs:
    """Return projected seconds of the router and the models on a network.

    What the router has computed is not counted for the models behind it. Of these only the stem has
    anything in common with it, so only the stem costs something else alone.
    """
    report = compile_pool(trained, samples, network, formats=formats).cost_report()
    router = next(part for part in report.parts if part.route is None)
    behind = tuple(part.total.seconds for part in report.routed)
    (stem,) = alone([trained.models[trained.stem]], samples, network, formats)
    singles = [
        stem if name == trained.stem else seconds
        for name, seconds in zip(trained.models, behind, strict=True)
    ]
    return Costs(network, router.total.seconds, behind, tuple(singles))
