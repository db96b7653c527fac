"""A sweep as a picture: stacked bars of computing, bandwidth and latency, as PNG or SVG."""

from __future__ import annotations

from pathlib import Path

from srcompile.errors import UserError
from srcompile.report.variants import Sweep

COLOURS = {"compute": "#0b5fa5", "bandwidth": "#b35900", "latency": "#00795c"}


def save_plot(sweep: Sweep, path: Path) -> None:
    """Write a plot of the times of a sweep; the suffix says which kind, .png or .svg.

    Raises UserError if matplotlib is not installed, or for another suffix.
    """
    if path.suffix not in (".png", ".svg"):
        raise UserError(f"a plot is written as .png or .svg, not as {path.name}")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UserError(
            "a plot needs matplotlib, which is not installed: pip install 'srcompile[report]'"
        ) from None
    labels = ["\n".join(v.settings[a] for a in sweep.axes) for v in sweep.variants]
    figure = Figure(figsize=(max(4.0, 1.0 + 0.8 * len(labels)), 4.0), layout="constrained")
    axes = figure.subplots()
    below = [0.0] * len(labels)
    for name, heights in _times(sweep).items():
        axes.bar(range(len(labels)), heights, bottom=below, label=name, color=COLOURS[name])
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel(", ".join(sweep.axes))
    axes.set_ylabel("projected time of one inference, ms")
    axes.legend()
    figure.savefig(path)


def _times(sweep: Sweep) -> dict[str, list[float]]:
    """Return milliseconds by kind, for each variant."""
    found: dict[str, list[float]] = {name: [] for name in COLOURS}
    for variant in sweep.variants:
        total, network = variant.report.total, variant.report.network
        latency = network.seconds(0, total.rounds)
        bandwidth = network.seconds(max(total.online_bytes), 0)
        found["latency"].append(latency * 1e3)
        found["bandwidth"].append(bandwidth * 1e3)
        found["compute"].append(max(total.seconds - latency - bandwidth, 0.0) * 1e3)
    return found
