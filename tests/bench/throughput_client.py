"""A client of `throughput.py` as a process of its own: one session, inferences back to back.

Standard input has the configuration as a line of JSON (`program`, `inputs`, `settings`), and then,
as often as wanted, a line with seconds: for so long inferences are run, and a line of JSON says
what each took in seconds and which class came out.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from srcompile.runtime import Client, load_program, read_settings


def main() -> None:
    """Serve the lines of standard input until it ends."""
    config = json.loads(sys.stdin.readline())
    inputs = np.load(config["inputs"])
    names, rows = list(inputs), len(inputs[next(iter(inputs))])
    settings = read_settings(config["settings"], {}, {})
    with Client(load_program(config["program"]), settings) as session:
        k = int(config["first"])
        print("ready", flush=True)
        for line in sys.stdin:
            took, classes = [], []
            end = time.perf_counter() + float(line)
            while (began := time.perf_counter()) < end:
                row = k % rows
                result = session.infer({name: inputs[name][row : row + 1] for name in names})
                took.append(time.perf_counter() - began)
                (output,) = result.outputs.values()
                classes.append((row, int(np.argmax(output))))
                k += 1
            print(json.dumps({"took": took, "classes": classes}), flush=True)


if __name__ == "__main__":
    main()
