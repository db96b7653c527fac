"""What importing costs a fresh process: seconds, CPU seconds, peak memory in MB, and modules.

    python tests/bench/imports.py

The least of several processes is printed: the rest of a time is what else the machine does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

IMPORTS = (
    "import numpy",
    "import srcompile",
    "import srcompile.runtime",
    "from srcompile.runtime import Client",
    "from srcompile.runtime import *",
)
MEASURED = """
import resource, sys, time
began, busy = time.perf_counter(), time.process_time()
{code}
took, busy = time.perf_counter() - began, time.process_time() - busy
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(took, busy, peak, len(sys.modules))
"""


def measure(code: str) -> tuple[float, float, float, int]:
    """Return what a fresh process takes for `code`: seconds, CPU seconds, MB, modules."""
    command = [sys.executable, "-c", MEASURED.format(code=code)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(said[0]), float(said[1]), float(said[2]), int(said[3])


def main() -> None:
    """Print a line for each import."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="processes for each import")
    count = parser.parse_args().count
    print(f"{'':38}{'s':>8}{'CPU s':>8}{'MB':>8}{'modules':>9}")
    for code in IMPORTS:
        seconds, busy, peak, modules = min(measure(code) for _ in range(count))
        print(f"{code:38}{seconds:8.3f}{busy:8.3f}{peak:8.1f}{modules:9}")


if __name__ == "__main__":
    main()
