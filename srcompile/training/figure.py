"""Accuracy against cost as a picture, and as a page that holds it beside the table."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.errors import UserError
from srcompile.report.units import time_text
from srcompile.training.evaluate import Evaluation, random_mix

DISCLOSED = (
    "Which model runs is told to both parties and the client (route='reveal'); the share of texts "
    "that each model takes is what the parties see over time, and an eavesdropper sees it in the "
    "amount of data. With route='oblivious' nobody learns it, and nothing is saved."
)


PLACE = ("share", "accuracy")


def save_figures(found: Sequence[Evaluation], out: Path) -> tuple[Path, Path]:
    """Write evaluation.png and evaluation.html into a folder; return their paths.

    Raises UserError if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UserError(
            "a plot needs matplotlib, which is not installed: pip install 'srcompile[report]'"
        ) from None
    figure = Figure(figsize=(6.0 * len(found), 5.0), layout="constrained")
    for axes, evaluation in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found, strict=True
    ):
        _draw(axes, evaluation)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    picture, page = out / "evaluation.png", out / "evaluation.html"
    figure.savefig(picture, dpi=120)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    page.write_text(_page(found, base64.b64encode(buffer.getvalue()).decode()))
    return picture, page


def _draw(axes: Any, evaluation: Evaluation) -> None:
    lines = {line.name: line for line in evaluation.lines}
    curve = sorted({(100 * p.share, 100 * p.accuracy) for p in evaluation.curve})
    axes.plot(*zip(*curve, strict=True), color="#0b5fa5", label="router, all weights")
    singles = [line for name, line in lines.items() if name.startswith("always")]
    shares, accuracies = (np.array([getattr(x, of) for x in singles]) for of in PLACE)
    budgets = np.linspace(shares.min(), shares.max(), 201)
    random = [random_mix(accuracies, shares, budget) @ accuracies for budget in budgets]
    axes.plot(100 * shares, 100 * accuracies, "o", color="#00795c", label="single models")
    axes.plot(100 * budgets, 100 * np.array(random), "--", color="#00795c",
              label="random, as good as it gets")  # fmt: skip
    for line in singles:
        label = line.name.rsplit(" ", 1)[-1]
        axes.annotate(label, (100 * line.share, 100 * line.accuracy), (4, -12),
                      textcoords="offset points")  # fmt: skip
    for name, mark, colour in (
        ("router", "*", "#0b5fa5"),
        ("random at equal cost", "x", "#00795c"),
        ("oracle", "^", "#b35900"),
    ):
        line = lines[name]
        low, high = (100 * abs(edge - line.accuracy) for edge in line.interval)
        axes.errorbar([100 * line.share], [100 * line.accuracy], yerr=[[low], [high]],
                      fmt=mark, color=colour, label=name, capsize=3)  # fmt: skip
    axes.set_xlabel(f"{evaluation.kind} time, % of the largest model ({evaluation.network})")
    axes.set_ylabel("accuracy, %")


def _page(found: Sequence[Evaluation], picture: str) -> str:
    tables = "\n".join(map(_table, found))
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>accuracy against cost</title>
<style>body{{font:15px sans-serif;margin:2em;max-width:75em}}img{{max-width:100%}}
td,th{{padding:.2em .8em;text-align:right}}td:first-child,th:first-child{{text-align:left}}</style>
<h1>Accuracy against cost</h1>
<img alt="accuracy against cost" src="data:image/png;base64,{picture}">
{tables}
<p>{html.escape(DISCLOSED)}</p>
</html>
"""


def _table(evaluation: Evaluation) -> str:
    other = "" if evaluation.measure == "accuracy" else evaluation.measure
    columns = ("accuracy", "95 %", "lost", "time", "speed-up", other, "routes")
    head = "<th>" + "".join(f"<th>{c}" for c in columns if c)
    rows = "\n".join(
        f"<tr><td>{html.escape(line.name)}<td>{100 * line.accuracy:.1f}"
        f"<td>{100 * line.interval[0]:.1f} to {100 * line.interval[1]:.1f}"
        f"<td>{100 * line.lost:.1f}<td>{time_text(line.seconds)}<td>{line.speed_up:.2f}"
        f"{f'<td>{100 * line.score:.1f}' if other else ''}"
        f"<td>{' / '.join(f'{100 * share:.0f} %' for share in line.routes)}"
        for line in evaluation.lines
    )
    return (
        f"<h2>{html.escape(evaluation.network)}, {evaluation.kind} times</h2>\n"
        f"<p>Cost weight {evaluation.weight:.4g}; the router costs "
        f"{100 * evaluation.router_share:.1f} % of the largest model.</p>\n"
        f"<table><tr>{head}\n{rows}\n</table>"
    )
