from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from srcompile.runtime.kernels.interface import Bytes, Ring, Words

class DpfShape:
    def __init__(
        self,
        n: int,
        k: int,
        w: int,
        lane: int,
        points: int,
        depth: int,
        blocks: int,
        key_bytes: int,
    ) -> None: ...

class Layout:
    @property
    def size(self) -> int: ...

class Path:
    def __init__(self, name: str) -> None: ...
    def describe(self) -> str: ...
    def has_prg(self) -> bool: ...
    def prg(self, key: bytes, block: int, slot: int, out: Bytes) -> None: ...
    def matmul(self, a: Ring, b: Ring, c: Ring, add: bool, threads: int) -> None: ...
    def layout32(self, rows: int, k: int, n: int, levels: int) -> Layout: ...
    def layout64(self, rows: int, k: int, n: int, levels: int) -> Layout: ...
    def pack_matrix(self, layout: Layout, b: Ring, out: Ring) -> None: ...
    def matmul_packed(
        self, a: Ring, layout: Layout, b: Ring, c: Ring, add: bool, threads: int
    ) -> None: ...
    def conv2d(self, x: Ring, w: Ring, y: Ring, geometry: Sequence[int], groups: int) -> None: ...
    def pack(self, x: Ring, w: int, out: Bytes) -> None: ...
    def add_pack(
        self, x: Ring, m: Ring, plus: int, w: int, by: int, out: Bytes, total: Ring
    ) -> None: ...
    def unpack(self, buf: Bytes, add: Ring | None, w: int, out: Ring) -> None: ...
    def dpf_keys(
        self,
        shape: DpfShape,
        alpha: Words,
        beta: Ring,
        seeds0: Bytes,
        seeds1: Bytes,
        keys: Bytes,
    ) -> None: ...
    def dpf_table(
        self,
        shape: DpfShape,
        party: int,
        index: NDArray[np.uint32],
        low: Ring | None,
        seeds: Bytes,
        keys: Bytes,
        curves: Sequence[Ring],
        y: Ring,
    ) -> None: ...
    def dcf_keys(
        self,
        n: int,
        widths: Sequence[int],
        key_bytes: int,
        alpha: Words,
        beta: Words,
        seeds0: Bytes,
        seeds1: Bytes,
        keys: Bytes,
    ) -> None: ...
    def dcf_eval(
        self,
        n: int,
        widths: Sequence[int],
        key_bytes: int,
        party: int,
        x: Words,
        seeds: Bytes,
        keys: Bytes,
        y: Words,
    ) -> None: ...
    def relu(
        self,
        party: int,
        in_width: int,
        width: int,
        widths: Sequence[int],
        key_bytes: int,
        x: Ring,
        seeds: Bytes,
        keys: Bytes,
        m: Ring,
        mr: Ring,
        r: Ring,
        y: Ring,
    ) -> None: ...
