"""The stages of `srtrain`, each of which leaves files that the next one takes.

OUT/models/NAME.safetensors   a model that is done; a run that was cut off goes on behind it
OUT/runs/NAME/                checkpoints and log.jsonl of a run
OUT/targets.npz               what the largest model says of the training texts
OUT/pool.json, .safetensors   the pool, its router, and its operating points
OUT/evidence.npz              what held-out texts say of the pool
OUT/costs.json                projected costs by network
OUT/evaluation.json, .png, .html   what it achieves
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srcompile.errors import UserError
from srcompile.training import minilm
from srcompile.training.altered import altered
from srcompile.training.architecture import Classifier
from srcompile.training.aware import OfLogits, train_aware
from srcompile.training.costs import alone, calibration, costs_of
from srcompile.training.distill import (
    Learner,
    Targets,
    distillation,
    from_labels,
    matching,
    of_labels,
    saved_targets,
    targets_of,
)
from srcompile.training.evaluate import Evaluation, evaluate
from srcompile.training.evidence import Evidence, fit_last_layer, labels_of, rights_of
from srcompile.training.fit import fit, predict
from srcompile.training.operating import (
    Costs,
    Point,
    chances_of,
    points_of,
    within_drop,
    within_share,
)
from srcompile.training.recipe import LEAST_HELD_OUT, Recipe
from srcompile.training.router import Joint, Router, joint_loss
from srcompile.training.search import Found, grid, search
from srcompile.training.store import (
    Trained,
    load_model,
    load_pool,
    rounded_,
    save_model,
    save_pool,
)
from srcompile.training.texts import Split, Texts, held_out, read_texts

Array = np.ndarray[Any, Any]
Say = Callable[[str], None]

EVIDENCE = "evidence.npz"
TRAINED_FOR = "lan"
"""The network whose costs the gate learns with; its operating point may be for any other."""


def silent(text: str) -> None:
    """Say nothing."""


def texts_of(recipe: Recipe, data: Path) -> Split:
    """Return the texts to train with, and the held-out ones.

    Raises UserError if the data have too few whole texts to hold out.
    """
    texts = read_texts(data, recipe.length)
    split = held_out(texts, recipe.held_out, recipe.seed, recipe.run_words)
    if len(split.unseen) < LEAST_HELD_OUT:
        raise UserError(
            f"{data} has {len(split.unseen)} texts that can be held out; an operating point needs "
            f"{LEAST_HELD_OUT} or more"
        )
    known = split.known.of_length(recipe.least_tokens)
    some = known.chosen(range(min(recipe.most_texts or len(known), len(known))))
    return replace(split, known=some)


def train_pool(
    recipe: Recipe, data: Path, out: Path, say: Say = silent, quiet: bool = False
) -> dict[str, Classifier]:
    """Train the largest model on the labels, and the others on what it says; return them."""
    split = texts_of(recipe, data)
    known, unseen, classes = split.known, split.unseen, split.known.classes
    (out / "models").mkdir(parents=True, exist_ok=True)
    say(f"{len(known)} texts to train with, {len(unseen)} held out")
    models: dict[str, Classifier] = {}
    for name in (recipe.largest, *(n for n in recipe.models if n != recipe.largest)):
        torch.manual_seed(recipe.seed)
        model = minilm.started(recipe.models[name], classes, models.get(recipe.largest))
        path = out / "models" / f"{name}.safetensors"
        if path.exists():
            load_model(model, path)
        else:
            _train(recipe, name, model, models.get(recipe.largest), known, out, quiet)
            rounded_(model)
            if name in recipe.aware:
                _train_with_program(recipe, name, model, models, known, unseen, out, quiet)
            save_model(model, path)
        models[name] = model.eval()
        right = rights_of([model], unseen).mean()
        say(f"{name}: {100 * right:.1f} % right of the held-out texts")
    return {name: models[name] for name in recipe.models}


def lessons_of(
    recipe: Recipe, largest: Classifier, known: Texts, out: Path
) -> tuple[Texts, Targets]:
    """Return what students learn from: the known texts, altered copies behind them, and targets.

    The label of an altered text is what the largest model says of it.
    """
    texts = known.joined(altered(known, recipe.copies, recipe.seed))
    targets = saved_targets(out / "targets.npz", largest, texts)
    answers = targets.logits.argmax(1).tolist()
    return replace(texts, labels=known.labels + tuple(answers[len(known) :])), targets


def _train(
    recipe: Recipe,
    name: str,
    model: Classifier,
    largest: Classifier | None,
    known: Texts,
    out: Path,
    quiet: bool,
) -> None:
    settings, folder = recipe.settings_of(name), out / "runs" / name
    if largest is None:
        fit(model, known, from_labels, settings, folder, quiet)
        return
    texts, targets = lessons_of(recipe, largest, known, out)
    learner = Learner(model, largest.student.width)
    fit(learner, texts, distillation(targets), settings, folder, quiet)


def _train_with_program(
    recipe: Recipe,
    name: str,
    model: Classifier,
    models: Mapping[str, Classifier],
    known: Texts,
    unseen: Texts,
    out: Path,
    quiet: bool,
) -> None:
    aware = recipe.aware[name]
    texts = known
    loss: OfLogits = of_labels
    if name != recipe.largest:
        texts, targets = lessons_of(recipe, models[recipe.largest], known, out)
        loss = matching(targets)
    samples = calibration(unseen, recipe.length)
    folder = out / "runs" / f"{name}-aware"
    train_aware(model, texts, loss, samples, recipe.length, aware, folder, quiet)


def train_router(
    recipe: Recipe, data: Path, out: Path, say: Say = silent, quiet: bool = False
) -> Trained:
    """Train the router with the model whose trunk it shares; write the pool."""
    models = train_pool(recipe, data, out, silent, quiet)
    split = texts_of(recipe, data)
    known, names, stem = split.known, list(models), recipe.gate.stem
    samples = calibration(split.unseen, recipe.length)
    singles = np.array(alone(models.values(), samples, TRAINED_FOR, recipe.formats))
    shares = singles / singles.max()
    shares[names.index(stem)] = 0.0  # the router has computed it
    _, targets = lessons_of(recipe, models[recipe.largest], known, out)
    largest = targets.logits[: len(known)]
    others = [predict(models[name], known) for name in names[:-1]]
    said = np.stack([_softmax(logits) for logits in (*others, largest)], 1)
    torch.manual_seed(recipe.seed)
    joint = Joint(models[stem], recipe.gate, len(names))
    settings = replace(recipe.gate.settings, seed=recipe.seed)
    loss = joint_loss(recipe.gate, said, names.index(stem), shares.tolist(), recipe.seed)
    fit(joint, known, loss, settings, out / "runs" / "router", quiet)
    rounded_(joint)
    router = joint.router.eval()
    fit_last_layer(router, list(models.values()), split).save(out / EVIDENCE)
    trained = Trained(models, router, stem, {"length": recipe.length, "points": {}})
    save_pool(trained, out)
    (out / "costs.json").unlink(missing_ok=True)
    say(f"router: written to {out / 'pool.json'}")
    return trained


def calibrate(
    recipe: Recipe,
    data: Path,
    out: Path,
    network: str,
    max_accuracy_drop: float | None = None,
    cost_share: float | None = None,
) -> Point:
    """Find the operating point for a network, write it into the pool and return it.

    max_accuracy_drop: points of 100 that may be lost against the largest model. cost_share: of the
    largest model's cost, which may be spent. Raises UserError if there is no such point.
    """
    trained, found = load_pool(out), Evidence.load(out / EVIDENCE)
    costs = costs_for(recipe, trained, data, network, out)
    chances = chances_of(found.utilities, found.right, found.weights)
    points = points_of(found.utilities[found.weights == 1], chances, costs)
    if cost_share is not None:
        point = within_share(points, cost_share)
    else:
        drop = 0.5 if max_accuracy_drop is None else max_accuracy_drop
        point = within_drop(points, float(chances[:, -1].mean()), drop)
    about = {**trained.about, "points": {**trained.about["points"], network: asdict(point)}}
    save_pool(replace(trained, about=about), out)
    return point


def search_students(
    recipe: Recipe,
    data: Path,
    out: Path,
    name: str,
    network: str,
    most_share: float,
    most_texts: int,
    quiet: bool = False,
) -> list[Found]:
    """Vary the architecture of a model along the recipe's axes; write search.json.

    Needs the largest model of `train_pool`. Raises UserError for a recipe without axes.
    """
    if not recipe.axes:
        raise UserError("the recipe has no axes to search along: axes={'layers': [1, 2], ..}")
    if name not in recipe.models:
        raise UserError(f"the recipe has no model '{name}': choose {', '.join(recipe.models)}")
    split = texts_of(recipe, data)
    known, unseen = split.known, split.unseen
    largest = minilm.started(recipe.models[recipe.largest], known.classes)
    load_model(largest, out / "models" / f"{recipe.largest}.safetensors")
    some = known.chosen(range(min(most_texts, len(known))))
    found = search(
        grid(recipe.models[name], recipe.axes),
        some,
        targets_of(largest, some),
        unseen,
        calibration(unseen, recipe.length),
        largest,
        network,
        most_share,
        recipe.settings_of(name),
        out / "search" / str(most_texts),
        recipe.length,
        quiet=quiet,
    )
    (out / "search.json").write_text(json.dumps([asdict(f) for f in found], indent=1) + "\n")
    return found


def evaluate_pool(
    recipe: Recipe, data: Path, dev: Path, out: Path, networks: Sequence[str]
) -> tuple[Evaluation, ...]:
    """Evaluate the pool at its operating points and write evaluation.json.

    Raises UserError for a network without an operating point.
    """
    trained = load_pool(out)
    texts = read_texts(dev, recipe.length)
    answers = labels_of(list(trained.models.values()), texts)
    labels, utilities = np.array(texts.labels), utilities_of(trained.router, texts)
    if recipe.measure == "f1" and max(labels.max(), answers.max()) > 1:
        raise UserError("f1 is a measure for two classes, 0 and 1; choose accuracy or matthews")
    found = []
    for network in networks:
        costs, weight = (
            costs_for(recipe, trained, data, network, out),
            weight_of(trained, network),
        )
        names = tuple(trained.models)
        found.append(
            evaluate(names, answers, labels, utilities, costs, weight, measure=recipe.measure)
        )
    (out / "evaluation.json").write_text(json.dumps([asdict(e) for e in found], indent=1) + "\n")
    return tuple(found)


def weight_of(trained: Trained, network: str) -> float:
    """Return the cost weight of the operating point for a network.

    Raises UserError if there is none.
    """
    points: Mapping[str, Any] = trained.about["points"]
    if network not in points:
        have = ", ".join(points) or "none"
        raise UserError(
            f"the pool has no operating point for '{network}' (it has: {have}); run "
            f"srtrain calibrate --network {network}"
        )
    return float(points[network]["weight"])


def costs_for(recipe: Recipe, trained: Trained, data: Path, network: str, out: Path) -> Costs:
    """Return the costs on a network; what was compiled once is in costs.json."""
    path = out / "costs.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if network not in known:
        samples = calibration(texts_of(recipe, data).unseen, recipe.length)
        known[network] = asdict(costs_of(trained, samples, network, recipe.formats))
        path.write_text(json.dumps(known, indent=1) + "\n")
    found = known[network]
    return Costs(network, found["router"], tuple(found["models"]), tuple(found["alone"]))


def utilities_of(router: Router, texts: Texts) -> Array:
    """Return the utilities of each text, (N, M)."""
    return predict(router, texts)


def _softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))
