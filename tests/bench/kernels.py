"""Speed of the local kernels on one core, native against the NumPy definition in the same run.

    python tests/bench/kernels.py [--json] [--path NAME] [--only NAME]

An operation is a multiply-add (matmul, conv2d), a byte of the array in memory (prg, pack) or a gate
(dpf, dcf). Each figure is the median of several runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from operator import methodcaller
from pathlib import Path

import numpy as np

from srcompile.runtime.kernels import Kernels, PackedMatrix, load, ring_dtype
from srcompile.runtime.kernels.layout import packed_bytes

Run = Callable[[Kernels], object]


@dataclass(frozen=True)
class Case:
    """One kernel on one size: `operations` in a run on the native kernels."""

    name: str
    shape: str
    operations: float
    run: Run
    small: Run | None = None  # the same on a part, for the slow definition
    part: float = 1.0  # share of the operations in `small`


@dataclass(frozen=True)
class Figure:
    """10^9 operations a second on a path, and how many times the definition's rate that is."""

    name: str
    shape: str
    path: str
    gops: float
    ratio: float


def cases() -> Iterator[Case]:
    """Yield every kernel on the sizes that matter."""
    rng = np.random.default_rng(0)
    for w in (32, 64):
        dtype = ring_dtype(w)
        top = np.iinfo(dtype).max
        for m, k, n in ((1, 64, 32), (32, 384, 384), (128, 384, 1536), (512, 512, 512)):
            a, b = rng.integers(0, top, (m, k), dtype), rng.integers(0, top, (k, n), dtype)
            yield Case(f"matmul u{w}", f"{m}x{k}x{n}", m * k * n, methodcaller("matmul", a, b))
        for m, k, n in ((32, 128, 128), (128, 768, 768), (128, 768, 3072)):
            yield from _static_cases(rng, w, m, k, n)
        for k in (32, 64):
            q, keys = rng.integers(0, top, (2, 12, 128, k), dtype)
            yield Case(
                f"matmul u{w}",
                f"12x128x{k} by its transpose",
                12 * 128 * k * 128,
                methodcaller("matmul", q, keys.swapaxes(1, 2)),
            )
        a = rng.integers(0, top, (12, 128, 128), dtype)
        yield Case(
            f"matmul u{w}", "12x128x128x64", 12 * 128 * 128 * 64, methodcaller("matmul", a, q)
        )
        for c, o, size, groups in (
            (3, 16, 32, 1),
            (64, 64, 16, 1),
            (64, 64, 16, 64),
            (128, 128, 28, 1),
        ):
            x = rng.integers(0, top, (4, c, size, size), dtype)
            f = rng.integers(0, top, (o, c // groups, 3, 3), dtype)
            yield Case(
                f"conv2d u{w}",
                f"4x{c}x{size}x{size} to {o}, 3x3, groups {groups}",
                4 * o * c // groups * 9 * size * size,
                methodcaller("conv2d", x, f, (1, 1), (1, 1), (1, 1), groups),
            )
            if groups == 1:  # the product of the filters with the windows, one image at a time
                rows, windows = f.reshape(o, -1), (4, 9 * c, size * size)
                yield Case(
                    f"matmul u{w}",
                    f"4x({o}x{9 * c}x{size * size})",
                    4 * o * c * 9 * size * size,
                    methodcaller("matmul", rows, rng.integers(0, top, windows, dtype)),
                )
    size = 1 << 24
    yield Case("prg", "16 MiB", size, methodcaller("prg", bytes(16), 1, 2, size))
    for w in (12, 20, 32, 43, 64):
        dtype = ring_dtype(w)
        x = rng.integers(0, np.iinfo(dtype).max, 1 << 20, dtype)
        buf, nbytes = load().pack(x, w), x.nbytes
        yield Case("pack", f"2^20 x {w}", nbytes, methodcaller("pack", x, w))
        total, message = np.empty_like(x), np.empty_like(buf)
        adding = methodcaller("add_pack", x, x, w, total, message)
        yield Case("add_pack", f"2^20 x {w}", nbytes, adding)
        by = w // 2
        high = np.empty(1 << 20, ring_dtype(w - by))
        short = np.empty(packed_bytes(1 << 20, w - by), np.uint8)
        shifting = methodcaller("add_pack", x, x, w, high, short, by, 1)
        yield Case("add_pack >>", f"2^20 x {w}", nbytes, shifting)
        yield Case("unpack", f"2^20 x {w}", nbytes, methodcaller("unpack", buf, 1 << 20, w))
        yield Case("unpack_add", f"2^20 x {w}", nbytes, methodcaller("unpack_add", buf, x, w))
    for n, k, w, count in (
        (6, 2, 32, 20000),
        (8, 1, 16, 20000),
        (8, 1, 32, 20000),
        (8, 1, 64, 20000),
        (8, 2, 32, 20000),
        (8, 3, 32, 20000),
        (8, 2, 64, 20000),
        (10, 2, 32, 8000),
        (12, 2, 32, 2000),
    ):
        yield from _dpf_cases(rng, n, k, w, count)
    for n, widths, count in ((24, (32,), 20000), (16, (1, 20), 20000), (15, (27, 27, 11), 4096)):
        yield from _dcf_cases(rng, n, widths, count)


def _static_cases(rng: np.random.Generator, w: int, m: int, k: int, n: int) -> Iterator[Case]:
    """Yield a product with a weight, as it is and packed beforehand."""
    top = np.iinfo(ring_dtype(w)).max
    a, b = (rng.integers(0, top, shape, ring_dtype(w)) for shape in ((m, k), (k, n)))
    packed: dict[str, PackedMatrix] = {}

    def with_packed(q: Kernels) -> object:
        if q.name not in packed:
            packed[q.name] = q.pack_matrix(b, m)
        return q.matmul(a, packed[q.name])

    shape, part = f"{m}x{k}x{n}", max(m // 32, 1)
    first = methodcaller("matmul", a[:part], b)
    yield Case(f"matmul u{w}", shape, m * k * n, methodcaller("matmul", a, b), first, part / m)
    yield Case(f"matmul u{w}", f"{shape} packed", m * k * n, with_packed, first, part / m)


def _dpf_cases(rng: np.random.Generator, n: int, k: int, w: int, count: int) -> Iterator[Case]:
    dtype = ring_dtype(w)
    top = np.iinfo(dtype).max
    alpha = rng.integers(0, 1 << n, count, np.uint64)
    beta, low = rng.integers(0, top, (count, k), dtype), rng.integers(0, top, count, dtype)
    s0, s1 = rng.integers(0, 256, (2, count, 16), np.uint8)
    curves = list(rng.integers(0, top, (k, 1, 1 << n), dtype))
    keys, index = load().dpf_keys(alpha, n, beta, w, s0, s1), alpha.astype(np.uint32)

    def make(q: Kernels, m: int = count) -> object:
        return q.dpf_keys(alpha[:m], n, beta[:m], w, s0[:m], s1[:m])

    def table(q: Kernels, m: int = count) -> object:
        return q.dpf_table(0, index[:m], low[:m], n, w, s0[:m], keys[:m], curves)

    shape, part = f"n={n} k={k} w={w}", count // 40
    yield Case("dpf_keys", shape, count, make, lambda q: make(q, part), 1 / 40)
    yield Case("dpf_table", shape, count, table, lambda q: table(q, part), 1 / 40)


def _dcf_cases(
    rng: np.random.Generator, n: int, widths: tuple[int, ...], count: int
) -> Iterator[Case]:
    alpha, x = rng.integers(0, 1 << n, (2, count), np.uint64)
    beta = rng.integers(0, 1 << 63, (count, len(widths)), np.uint64)
    s0, s1 = rng.integers(0, 256, (2, count, 16), np.uint8)
    keys = load().dcf_keys(alpha, n, beta, widths, s0, s1)

    def make(q: Kernels, m: int = count) -> object:
        return q.dcf_keys(alpha[:m], n, beta[:m], widths, s0[:m], s1[:m])

    def evaluate(q: Kernels, m: int = count) -> object:
        return q.dcf_eval(0, x[:m], n, widths, s0[:m], keys[:m])

    shape, part = f"n={n} widths={widths}", count // 10
    yield Case("dcf_keys", shape, count, make, lambda q: make(q, part), 1 / 10)
    yield Case("dcf_eval", shape, count, evaluate, lambda q: evaluate(q, part), 1 / 10)


def seconds(run: Callable[[], object], budget: float) -> float:
    """Return the median time of at least three runs within the budget."""
    run()
    start = time.perf_counter()
    run()
    repeat = max(1, int(0.002 / max(time.perf_counter() - start, 1e-7)))
    samples: list[float] = []
    begin = time.perf_counter()
    while len(samples) < 3 or (time.perf_counter() - begin < budget and len(samples) < 50):
        start = time.perf_counter()
        for _ in range(repeat):
            run()
        samples.append((time.perf_counter() - start) / repeat)
    return statistics.median(samples)


def measure(case: Case, native: Kernels, definition: Kernels) -> Figure:
    """Return the native rate and its ratio to the definition's."""
    fast = case.operations / seconds(lambda: case.run(native), 0.25)
    run = case.small or case.run
    slow = case.operations * case.part / seconds(lambda: run(definition), 0.1)
    return Figure(case.name, case.shape, native.name, fast / 1e9, fast / slow)


def machine() -> str:
    """Return the processor's name and the versions that matter."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    return f"{model}, one core, Python {platform.python_version()}, NumPy {np.__version__}"


def main() -> int:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print a list of figures")
    parser.add_argument(
        "--path", choices=("avx512", "vaes", "avx2", "portable"), help="a path, not the fastest"
    )
    parser.add_argument("--only", default="", help="only kernels whose name starts so")
    options = parser.parse_args()
    native = load(f"native-{options.path}" if options.path else "native")
    definition = load("numpy")

    figures = []
    if not options.json:
        print(f"{machine()}; {native.name}\n")
        print(f"{'kernel':<14} {'shape':<34} {'10^9/s':>9} {'x NumPy':>8}")
    for case in cases():
        if not case.name.startswith(options.only):
            continue
        figure = measure(case, native, definition)
        figures.append(figure)
        if not options.json:
            print(f"{figure.name:<14} {figure.shape:<34} {figure.gops:9.4g} {figure.ratio:8.1f}")
    if options.json:
        json.dump([asdict(figure) for figure in figures], sys.stdout, indent=1)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
