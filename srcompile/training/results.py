"""What several evaluations come to, as one table: a line for each pool, columns for each network.

Folders are those of `srtrain --out`; a line bears the name of its folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srcompile.errors import UserError

LARGEST, ROUTER = "always largest: ", "router"


def results_table(folders: Sequence[Path]) -> str:
    """Return a table in Markdown of the pools evaluated in `folders`.

    Raises UserError for a folder without an evaluation, or for other networks than the first has.
    """
    found = {folder: _evaluations(folder) for folder in folders}
    networks = list(found[folders[0]])
    for folder, evaluations in found.items():
        if list(evaluations) != networks:
            raise UserError(
                f"{folder} is evaluated for {', '.join(evaluations)}, and {folders[0]} for "
                f"{', '.join(networks)}; evaluate both for the same networks"
            )
    columns = ["", "measure", "largest", *(f"router, {n} | lost | speed-up" for n in networks)]
    lines = [f"| {' | '.join(columns)} |", "|---" * (3 + 3 * len(networks)) + "|"]
    for folder, evaluations in found.items():
        cells = [folder.name]
        for network in networks:
            evaluation = evaluations[network]
            largest, router = _line(evaluation, LARGEST), _line(evaluation, ROUTER)
            if len(cells) == 1:
                cells += [evaluation["measure"], _score(largest)]
            lost = 100 * (largest["score"] - router["score"])
            cells += [_score(router), f"{lost:.1f}", f"{router['speed_up']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _evaluations(folder: Path) -> Mapping[str, Any]:
    """Return the evaluations in a folder, by network."""
    try:
        found = json.loads((folder / "evaluation.json").read_text())
        return {one["network"]: one for one in found}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds no evaluation ({type(error).__name__}); srtrain evaluate writes one"
        ) from None


def _line(evaluation: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(x for x in evaluation["lines"] if x["name"].startswith(name))
    return found


def _score(line: Mapping[str, Any]) -> str:
    """Return the measure times 100, and the accuracy behind it where it is another."""
    score, accuracy = (f"{100 * line[key]:.1f}" for key in ("score", "accuracy"))
    return score if score == accuracy else f"{score} ({accuracy})"
