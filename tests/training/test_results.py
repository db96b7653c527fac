"""The table of several evaluations, and the recipes that fill it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from srcompile.errors import UserError
from srcompile.training.evaluate import evaluate
from srcompile.training.operating import Costs
from srcompile.training.recipe import load_recipe
from srcompile.training.results import results_table

GLUE = Path(__file__).parents[2] / "examples" / "glue" / "pool.py"
NETWORKS = ("lan", "wan")


def evaluated(folder: Path, measure: str, networks: tuple[str, ...] = NETWORKS) -> Path:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, 200)
    answers = np.where(draws.random((200, 2)) < [0.7, 0.9], labels[:, None], 1 - labels[:, None])
    found = [
        evaluate(("s", "l"), answers, labels, draws.random((200, 2)), costs, 0.1, measure=measure)
        for costs in (Costs(n, 0.1, (0.0, 1.0), (0.1, 1.0)) for n in networks)
    ]
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps([asdict(e) for e in found]))
    return folder


def test_a_line_has_the_measure_what_is_lost_and_the_speed_up_for_each_network(
    tmp_path: Path,
) -> None:
    plain, other = evaluated(tmp_path / "a", "accuracy"), evaluated(tmp_path / "b", "matthews")

    head, rule, first, second = results_table([plain, other]).splitlines()

    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|")
    assert "router, lan" in head
    assert "router, wan" in head
    lines = {x["name"]: x for x in json.loads((other / "evaluation.json").read_text())[1]["lines"]}
    largest, router = lines["always largest: l"], lines["router"]
    assert first.startswith("| a | accuracy | ")
    assert second.startswith(
        f"| b | matthews | {100 * largest['score']:.1f} ({100 * largest['accuracy']:.1f}) | "
    )
    lost = 100 * (largest["score"] - router["score"])
    assert second.endswith(f" | {lost:.1f} | {router['speed_up']:.2f} |")


def test_a_folder_without_an_evaluation_or_for_other_networks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no evaluation"):
        results_table([tmp_path])
    both = [evaluated(tmp_path / "a", "f1"), evaluated(tmp_path / "b", "f1", ("lan",))]
    with pytest.raises(UserError, match="evaluate both for the same networks"):
        results_table(both)


@pytest.mark.parametrize("name", ["cola", "mrpc", "rte", "qnli"])
def test_a_task_of_glue_has_its_recipe(name: str) -> None:
    recipe = load_recipe(f"{GLUE}:{name}")
    assert recipe.largest == "large"


def test_a_name_that_a_file_does_not_define_is_refused() -> None:
    with pytest.raises(UserError, match="defines no `sst9`"):
        load_recipe(f"{GLUE}:sst9")
