"""Transformers online: time, rounds and bytes over a link, and accuracy against the float model.

    python tests/bench/transformers.py --data SST-2/train.tsv.gz [--models minilm,bert-base]
        [--lengths 128] [--link lan,wan,mobile --netlab SCRIPT] [--repeats 5] [--json]
    python tests/bench/transformers.py --data SST-2/train.tsv.gz --accuracy 100
        [--texts SST-2/dev.tsv]

Dealer, parties and client are processes of this machine, each with one thread; the parties talk
over the link (tests/bench/links.py). Programs are compiled for the link's network. Times are
medians with least and most, after one inference that is not counted; bytes and rounds are counted,
and asserted to be the predicted ones. `--accuracy` compares embeddings with the float model's
instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])  # not this folder: this file is named as a library

from srcompile.api import Compiled
from tests.bench.links import LOOPBACK, add_link_options, link
from tests.bench.runs import LOOPBACK_NETWORK, check, run, spread
from tests.bench.subjects import CALIBRATION, Subject, calibration_texts, read_texts, subject


def measure(
    found: Subject, compiled: Compiled, compile_s: float, text: str, at: Any, repeats: int
) -> dict[str, Any]:
    """Return the figures of a program over a link."""
    measured = run(compiled.program, [found.arrays(text)] * (repeats + 1), at)
    total = check(compiled.cost, measured)
    online, offline = spread(measured.online_s), spread(measured.offline_s)
    return {
        "model": found.name,
        "length": found.length,
        "link": at.name,
        "compile_s": compile_s,
        "online_s": [online.median, online.least, online.most],
        "rounds": total.rounds,
        "online_bytes": list(total.online_bytes),
        "offline_s": [offline.median, offline.least, offline.most],
        "offline_bytes": list(total.offline_bytes),
        "setup_s": measured.setup_s,
        "setup_bytes": list(compiled.cost.setup_bytes),
        "memory": dict(measured.memory),
    }


def accuracy(found: Subject, compiled: Compiled, texts: list[str]) -> dict[str, Any]:
    """Return how close secure outputs are to the float model's, on loopback processes."""
    with link(LOOPBACK) as at:
        measured = run(compiled.program, [found.arrays(text) for text in texts], at, warm_up=0)
    check(compiled.cost, measured)
    cosines = []
    for text, result in zip(texts, measured.results, strict=True):
        want = found.in_float(text)
        have = next(iter(result.outputs.values())).reshape(want.shape)
        dots = np.sum(have * want, -1)
        cosines.append(
            float(np.mean(dots / (np.linalg.norm(have, axis=-1) * np.linalg.norm(want, axis=-1))))
        )
    return {
        "model": found.name,
        "length": found.length,
        "texts": len(texts),
        "mean_cosine": statistics.mean(cosines),
        "worst_cosine": min(cosines),
        "worst_text": texts[int(np.argmin(cosines))],
    }


def compile_for(found: Subject, texts: list[str], name: str) -> tuple[Compiled, float]:
    """Compile a model for a link's network; return the time that took as well."""
    start = time.perf_counter()
    compiled = found.compile(texts, LOOPBACK_NETWORK if name == LOOPBACK else name)
    return compiled, time.perf_counter() - start


HEAD = (
    f"{'model':<10} {'len':>4} {'link':<9} {'online s':>9} {'least':>8} {'most':>8} {'rounds':>6} "
    f"{'MB each way':>11} {'offline s':>9} {'MB to 0':>8} {'MB to 1':>8} {'MB peak d/0/1':>16}"
)


def row(f: dict[str, Any]) -> str:
    """Return a line of the table."""
    peak = "/".join(f"{f['memory'][role] / 1e6:.0f}" for role in ("dealer", "party0", "party1"))
    return (
        f"{f['model']:<10} {f['length']:4} {f['link']:<9} {f['online_s'][0]:9.3f} "
        f"{f['online_s'][1]:8.3f} {f['online_s'][2]:8.3f} {f['rounds']:6} "
        f"{max(f['online_bytes']) / 1e6:11.2f} {f['offline_s'][0]:9.3f} "
        f"{f['offline_bytes'][0] / 1e6:8.1f} {f['offline_bytes'][1] / 1e6:8.1f} {peak:>16}"
    )


def main() -> int:
    """Print a line for each model, length and link, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data", type=Path, required=True, help="a TSV of texts, to calibrate with"
    )
    parser.add_argument("--models", default="minilm", help="minilm, bert-base, with commas")
    parser.add_argument("--lengths", default="128", help="tokens, with commas")
    parser.add_argument("--calibration", type=int, default=CALIBRATION, help="texts for ranges")
    parser.add_argument("--repeats", type=int, default=5, help="inferences that are counted")
    parser.add_argument("--accuracy", type=int, metavar="COUNT", help="compare COUNT texts instead")
    parser.add_argument(
        "--texts", type=Path, help="a TSV of the texts to compare, not those of --data"
    )
    parser.add_argument("--json", action="store_true", help="print a list of figures")
    add_link_options(parser)
    options = parser.parse_args()
    texts = calibration_texts(options.data, options.calibration)
    figures = []
    if not options.json and not options.accuracy:
        print(HEAD)
    for name in options.models.split(","):
        for length in map(int, options.lengths.split(",")):
            found = subject(name, length)
            if options.accuracy:
                compiled, _ = compile_for(found, texts, LOOPBACK)
                others = read_texts(options.texts or options.data, options.accuracy)
                figures.append(accuracy(found, compiled, others))
                if not options.json:
                    print(json.dumps(figures[-1], indent=1))
                continue
            for wanted in options.link.split(","):
                compiled, taken = compile_for(found, texts, wanted)
                with link(wanted, options.netlab) as at:
                    figures.append(measure(found, compiled, taken, texts[0], at, options.repeats))
                if not options.json:
                    print(row(figures[-1]), flush=True)
    if options.json:
        json.dump(figures, sys.stdout, indent=1)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
