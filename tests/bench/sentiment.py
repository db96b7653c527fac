"""The sentiment pool under MPC: decisions beside float PyTorch, and its speed-up, measured.

    python tests/bench/sentiment.py accuracy --eval SST-2/dev.tsv --out RESULTS
    python tests/bench/sentiment.py time --eval SST-2/dev.tsv --out RESULTS
        [--link lan,wan --netlab SCRIPT] [--repeats 9]
    python tests/bench/sentiment.py table --eval SST-2/dev.tsv --out RESULTS

`accuracy` classifies every sentence with processes of this machine and appends a line for each to
RESULTS/secure.jsonl; run again, it goes on where it was. `time` measures the pool on each route and
the largest model alone over a link, medians of `--repeats` after one inference that is not counted,
and writes RESULTS/times-LINK.json. `table` prints what both come to: agreement, and for each
link that was measured accuracy and speed-up at its operating point, routes as the float router
takes them at that point.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])  # not this folder: this file is named as a library

from srcompile.api import Compiled, compile
from srcompile.cli.common import json_text
from srcompile.passes.pipeline import ROUTE_COSTS
from srcompile.runtime.cluster import LocalCluster
from srcompile.training.costs import compile_pool
from srcompile.training.evaluate import Evaluation, evaluate
from srcompile.training.evidence import labels_of
from srcompile.training.fit import predict
from srcompile.training.operating import Costs
from srcompile.training.stages import utilities_of, weight_of
from srcompile.training.store import Trained, load_pool
from srcompile.training.texts import Texts, of_texts, read_texts
from tests.bench.links import LOOPBACK, add_link_options, link
from tests.bench.runs import run, spread

FOLDER = Path(__file__).parents[2] / "examples" / "sentiment"


def samples(pool: Path, length: int) -> list[Any]:
    """Return the sentences that ranges are taken from."""
    lines = (pool / "samples.txt").read_text().splitlines()
    texts = of_texts(lines, [""] * len(lines), [0] * len(lines), length)
    return [texts.padded(k, length) for k in range(len(texts))]


def arrays(texts: Texts, k: int, length: int) -> dict[str, Any]:
    """Return sentence k as a client gives it to a program."""
    return {name: tensor.numpy() for name, tensor in texts.padded(k, length).items()}


def classify(trained: Trained, compiled: Compiled, texts: Texts, path: Path, most: int) -> None:
    """Append the secure result of each sentence that is not in the file yet."""
    length = int(trained.about["length"])
    done = len(path.read_text().splitlines()) if path.exists() else 0
    with LocalCluster(compiled.program) as cluster, path.open("a") as file:
        for k in range(done, min(len(texts), most or len(texts))):
            result = cluster.infer(arrays(texts, k, length))
            total = compiled.cost.total(result.route)
            assert result.online_bytes == total.online_bytes
            assert result.rounds == total.rounds
            logits = result.outputs["logits"].reshape(-1).tolist()
            line = {"sentence": k, "route": result.route, "logits": logits}
            print(json.dumps({**line, "online_s": result.online_s}), file=file, flush=True)


def agreement(trained: Trained, texts: Texts, out: Path) -> dict[str, Any]:
    """Return how secure decisions, accuracy and routes compare with float PyTorch's."""
    rows = [json.loads(line) for line in (out / "secure.jsonl").read_text().splitlines()]
    rule = np.array(json.loads((out / "rule.json").read_text()))
    n = len(rows)
    logits = np.stack([predict(m, texts) for m in trained.models.values()], 1)[:n]
    wanted = np.argmax(utilities_of(trained.router, texts)[:n] - rule, 1)
    routes = np.array([row["route"] for row in rows])
    secure = np.array([row["logits"] for row in rows]).argmax(1)
    labels = np.array(texts.labels[:n])
    every = np.arange(n)
    same_model, plain = logits[every, routes].argmax(1), logits[every, wanted].argmax(1)
    return {
        "sentences": n,
        "same_route": float((routes == wanted).mean()),
        "same_decision": float((secure == plain).mean()),
        "same_decision_of_the_model_that_ran": float((secure == same_model).mean()),
        "secure_accuracy": float((secure == labels).mean()),
        "float_accuracy": float((plain == labels).mean()),
        "largest_accuracy": float((logits[:, -1].argmax(1) == labels).mean()),
        "routes": (np.bincount(routes, minlength=len(trained.models)) / n).tolist(),
    }


def route_costs(compiled: Compiled) -> list[float]:
    """Return what the program's routing rule subtracts from each utility."""
    data = compiled.stages.graph.consts[ROUTE_COSTS].data
    assert data is not None
    return [float(x) for x in data.reshape(-1)]


def measure(
    trained: Trained, given: list[Any], at: Any, texts: Texts, repeats: int
) -> dict[str, Any]:
    """Return medians over a link: the pool on each route, and each model alone.

    A route is measured on sentences that the float router sends there.
    """
    length, network = int(trained.about["length"]), LAN if at.name == LOOPBACK else at.name
    weight = weight_of(trained, network)
    pool = compile_pool(trained, given, network, weight)
    rule = route_costs(pool)
    wanted = np.argmax(utilities_of(trained.router, texts) - np.array(rule), 1)
    found: dict[str, Any] = {"link": at.name, "weight": weight, "rule": rule}
    found |= {"alone": {}, "routed": {}}
    for m, (name, model) in enumerate(trained.models.items()):
        some = np.flatnonzero(wanted == m)[: repeats + 1]
        if len(some) > 1:
            measured = run(pool.program, [arrays(texts, int(k), length) for k in some], at)
            taken = [r.online_s for r in measured.results[1:] if r.route == m]
            found["routed"][name] = asdict(spread(taken))
        single = compile(model, given[0], calibration_inputs=given, network=network)
        inputs = [arrays(texts, k, length) for k in range(repeats + 1)]
        found["alone"][name] = asdict(spread(run(single.program, inputs, at).online_s))
    return found


LAN = "lan"
"""What programs for loopback are compiled for."""


def measured_evaluation(trained: Trained, texts: Texts, found: dict[str, Any]) -> Evaluation:
    """Return the evaluation with measured medians in place of projected times.

    The routed times have the router in them. A route that no sentence takes costs what its model
    alone does.
    """
    names = list(trained.models)
    alone = tuple(found["alone"][name]["median"] for name in names)
    routed = {**found["alone"], **found["routed"]}
    models = tuple(routed[name]["median"] for name in names)
    rule = tuple(found["rule"])
    costs = Costs(found["link"], 0.0, models, alone, rule)
    answers = labels_of(list(trained.models.values()), texts)
    labels, utilities = np.array(texts.labels), utilities_of(trained.router, texts)
    weight = max(rule)  # times the rule's shares, of which the largest is 1
    return evaluate(tuple(names), answers, labels, utilities, costs, weight, "measured")


def print_results(trained: Trained, texts: Texts, out: Path) -> None:
    """Print the agreement, and for each link that was measured the table."""
    if (out / "secure.jsonl").exists():
        print(json_text(agreement(trained, texts, out)))
    for path in sorted(out.glob("times-*.json")):
        found = measured_evaluation(trained, texts, json.loads(path.read_text()))
        print(f"\n{found.network}, measured medians")
        for line in found.lines:
            routes = " ".join(f"{100 * share:5.1f} %" for share in line.routes)
            print(
                f"{line.name:<24} {100 * line.accuracy:6.2f} %  lost {100 * line.lost:5.2f}  "
                f"{1e3 * line.seconds:8.1f} ms  {line.speed_up:6.2f} x   {routes}"
            )


def main() -> int:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("accuracy", "time", "table"))
    parser.add_argument("--pool", type=Path, default=FOLDER, help="the trained pool")
    parser.add_argument("--eval", type=Path, required=True, help="a TSV of labelled sentences")
    parser.add_argument("--out", type=Path, required=True, help="where results go")
    parser.add_argument("--repeats", type=int, default=9, help="inferences that are counted")
    parser.add_argument("--sentences", type=int, default=0, help="only the first so many")
    add_link_options(parser)
    options = parser.parse_args()
    trained = load_pool(options.pool)
    length = int(trained.about["length"])
    texts, given = read_texts(options.eval, length), samples(options.pool, length)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "accuracy":
        compiled = compile_pool(trained, given, LAN, weight_of(trained, LAN))
        (options.out / "rule.json").write_text(json.dumps(route_costs(compiled)))
        classify(trained, compiled, texts, options.out / "secure.jsonl", options.sentences)
    if options.what == "time":
        for name in options.link.split(","):
            with link(name, options.netlab) as at:
                found = measure(trained, given, at, texts, options.repeats)
            (options.out / f"times-{name.replace(':', '-')}.json").write_text(json_text(found))
    print_results(trained, texts, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
