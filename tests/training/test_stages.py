"""`srtrain` from end to end, on made sentences and a pool small enough for it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

import srcompile
from srcompile.cli.train import main
from srcompile.passes.quantise import Formats
from srcompile.training.costs import calibration, pool_of
from srcompile.training.evidence import Evidence
from srcompile.training.recipe import load_recipe
from srcompile.training.stages import costs_for, lessons_of, texts_of, utilities_of
from srcompile.training.store import load_pool
from srcompile.training.texts import read_texts
from tests.training import made


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, data, and in `out` a trained pool."""
    folder = tmp_path_factory.mktemp("srtrain")
    made.recipe(folder / "pool.py")
    made.write(folder / "train.tsv", 500, 0)
    made.write(folder / "dev.tsv", 100, 1)
    result = run(folder, "--quiet", "--network", "lan", "--max-accuracy-drop", "20")
    assert result.exit_code == 0, result.output
    (folder / "said.txt").write_text(result.output)
    return folder


def run(folder: Path, *options: str, command: str = "", out: str = "out") -> Result:
    """Run srtrain in a folder that has a recipe and data."""
    words = [command] if command else []
    words += [str(folder / "pool.py"), "--data", str(folder / "train.tsv")]
    words += ["--eval", str(folder / "dev.tsv")] if command in ("", "evaluate") else []
    with torch.random.fork_rng():
        return CliRunner().invoke(main, [*words, "--out", str(folder / out), *options])


def test_all_stages_leave_what_they_say(work: Path) -> None:
    out = work / "out"
    said = (work / "said.txt").read_text()
    assert "always largest: large" in said
    assert "random at equal cost" in said
    assert "oracle" in said
    (evaluation,) = json.loads((out / "evaluation.json").read_text())
    lines = {line["name"]: line for line in evaluation["lines"]}
    assert lines["always largest: large"]["accuracy"] > 0.8  # it did learn
    assert (out / "evaluation.png").read_bytes()[:4] == b"\x89PNG"
    assert "Which model runs is told" in (out / "evaluation.html").read_text()
    log = pd.read_json(out / "runs" / "large" / "log.jsonl", lines=True)
    assert set(log.columns) >= {"step", "train_runtime"}
    found = Evidence.load(out / "evidence.npz")
    assert (found.weights == 1).sum() == 40  # held_out of the recipe
    result = CliRunner().invoke(main, ["table", str(out)])
    assert result.exit_code == 0, result.output
    assert "| out | accuracy |" in result.output


def test_a_copys_label_is_what_the_largest_model_says(work: Path, tmp_path: Path) -> None:
    recipe = replace(load_recipe(str(work / "pool.py")), copies=2)
    known = texts_of(recipe, work / "train.tsv").known
    largest = load_pool(work / "out").models["large"]

    texts, targets = lessons_of(recipe, largest, known, tmp_path)

    assert len(texts) == len(targets.logits) == 3 * len(known)
    assert texts.labels[: len(known)] == known.labels
    assert texts.labels[len(known) :] == tuple(targets.logits.argmax(1)[len(known) :].tolist())


def test_costs_are_those_of_the_recipes_formats(work: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(work / "pool.py"))
    coarse = replace(recipe, formats=Formats(precision_bits=4, routing_bits=20))
    trained = load_pool(work / "out")
    plain = costs_for(recipe, trained, work / "train.tsv", "lan", work / "out")
    cheaper = costs_for(coarse, trained, work / "train.tsv", "lan", tmp_path)
    assert cheaper.router < plain.router
    assert cheaper.models[-1] < plain.models[-1]


def test_a_recipe_is_found_by_its_name(work: Path) -> None:
    text = made.RECIPE.replace("recipe = ", "tiny = ")
    (work / "named.py").write_text(text)
    assert load_recipe(f"{work / 'named.py'}:tiny").largest == "large"


def test_the_pool_compiles_and_its_route_is_that_of_the_float_router(work: Path) -> None:
    trained = load_pool(work / "out")
    texts = read_texts(work / "dev.tsv", 16)
    weight = trained.about["points"]["lan"]["weight"]
    compiled = srcompile.compile(
        pool_of(trained, weight),
        texts.padded(0, 16),
        calibration_inputs=calibration(texts, 16),
    )
    from srcompile.ops import registry
    from srcompile.ops.interpreter import evaluate

    rule = compiled.stages.graph.consts["@route.costs"].data if weight else 0.0
    wanted = (utilities_of(trained.router, texts) - rule).argmax(1)
    taken = [
        evaluate(
            compiled.stages.fixed,
            {n: t.numpy() for n, t in texts.padded(k, 16).items()},
            registry(),
        )[1]
        for k in range(len(texts))
    ]
    assert sum(a == b for a, b in zip(taken, wanted, strict=True)) >= 0.97 * len(texts)


def test_another_target_needs_no_training(work: Path) -> None:
    shutil.copytree(work / "out", work / "other", dirs_exist_ok=True)
    before = (work / "other" / "pool.safetensors").read_bytes()
    result = run(work, "--network", "lan", "--cost-share", "5", command="calibrate", out="other")
    assert result.exit_code == 0, result.output
    assert (work / "other" / "pool.safetensors").read_bytes() == before
    result = run(work, "--network", "lan", command="evaluate", out="other")
    assert result.exit_code == 0, result.output


def test_a_run_goes_on_behind_the_models_that_are_done(work: Path) -> None:
    out = work / "again"
    shutil.copytree(work / "out", out, dirs_exist_ok=True)
    (out / "models" / "small.safetensors").unlink()
    large = (out / "models" / "large.safetensors").stat().st_mtime_ns
    result = run(work, "--quiet", command="pool", out="again")
    assert result.exit_code == 0, result.output
    assert (out / "models" / "small.safetensors").exists()
    assert (out / "models" / "large.safetensors").stat().st_mtime_ns == large
    small = "small.safetensors"
    assert (out / "models" / small).read_bytes() == (work / "out" / "models" / small).read_bytes()


def test_quick_runs_all_stages_on_a_few_texts(work: Path) -> None:
    result = run(work, "--quick", "--quiet", "--network", "lan", "--cost-share", "9", out="quick")
    assert result.exit_code == 0, result.output
    assert (work / "quick" / "evaluation.html").exists()


@pytest.mark.parametrize(
    ("options", "command", "said"),
    [
        (("--max-accuracy-drop", "1", "--cost-share", "1"), "calibrate", "not both"),
        (("--network", "wan"), "evaluate", "no operating point for 'wan'"),
        (("--vary", "small"), "search", "has no axes to search along"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    work: Path, options: tuple[str, ...], command: str, said: str
) -> None:
    result = run(work, *options, command=command)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "defines no `recipe`"),
        ("import nothing_like_it", "ModuleNotFoundError"),
        (made.RECIPE.replace('stem="small"', 'stem="tiny"'), "speaks of 'tiny'"),
        (made.RECIPE.replace("held_out=40", "held_out=4"), "an operating point needs 10 or more"),
        (made.RECIPE.replace("held_out=40", 'measure="bleu"'), "choose accuracy, f1, matthews"),
        (made.RECIPE.replace("held_out=40", "copies=-1"), "copies is -1"),
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pool.py").write_text(text)
    result = run(tmp_path, command="pool")
    assert result.exit_code == 2
    assert said in result.output


def test_a_search_marks_the_front(work: Path) -> None:
    folder = work / "search"
    folder.mkdir()
    axes = '    axes={"layers": [1, 2], "precision_bits": [4, 8]},\n'
    text = made.RECIPE.replace("    length=16,\n", axes + "    length=16,\n")
    (folder / "pool.py").write_text(text)
    for name in ("train.tsv", "dev.tsv"):
        shutil.copy(work / name, folder / name)
    shutil.copytree(work / "out" / "models", folder / "out" / "models")
    options = ("--vary", "small", "--texts", "64", "--most-share", "2", "--quiet")
    result = run(folder, *options, command="search")
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "out" / "search.json").read_text())
    assert len(found) == 4
    assert [f["seconds"] for f in found] == sorted(f["seconds"] for f in found)
    assert found[0]["front"]
    assert found[0]["share"] < found[-1]["share"]
