"""Mutations: valid samples with a few changes, or random bytes. All follow from `rng`."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ODD_BYTES = (0, 1, 0x7F, 0x80, 0xFF)
ODD_NUMBERS = (0, 1, 2, -1, 31, 32, 33, 63, 64, 65, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 32,
               (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63), 10**30, 10**400)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan"), "", "x", "\0",
    "ünï\u2028", "\ud800", "9" * 5000, [], {}, [[]], [1, 2], [0], [-1], {"a": 1}, *ODD_NUMBERS,
)  # fmt: skip
ODD_TYPES = ("<u4", "<u8", "<f8", "<i8", "|b1", "|O", "<U100000000", "|V0", "|V1000000000",
             "<M8[s]", "[('a', '<u4')]", "<c16", ">u4", "<f2")  # fmt: skip
ODD_SHAPES = ("()", "(0,)", "(1,)", "(-1,)", "(3, 4)", "(1000000000,)", "(4611686018427387904, 4)",
              "(0, 1000000000000000000000)", "(True,)", "(1.5,)", "None", "(" * 200)  # fmt: skip


def few(rng: random.Random) -> int:
    """Return 1 mostly, and seldom many."""
    return min(64, 1 + int(rng.expovariate(0.8)))


def changed_bytes(rng: random.Random, samples: Sequence[bytes]) -> bytes:
    """Return a sample with a few changes, or now and then random bytes."""
    if rng.random() < 0.04:
        return rng.randbytes(rng.choice((0, 1, 4, 8, 20, 64, 300, 5000)))
    data = bytearray(rng.choice(samples))
    for _ in range(few(rng)):
        rng.choice(_CHANGES)(rng, data, samples)
    return bytes(data)


def _place(rng: random.Random, data: bytearray) -> int:
    """Return a place, more often near the beginning or the end, where headers are."""
    size = len(data)
    if not size or rng.random() < 0.5:
        return rng.randint(0, size)
    near = min(size, int(rng.expovariate(1 / 64)))
    return near if rng.random() < 0.7 else size - near


def _span(rng: random.Random, data: bytearray) -> slice:
    start = _place(rng, data)
    return slice(start, min(len(data), start + 1 + int(rng.expovariate(1 / 16))))


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[min(_place(rng, data), len(data) - 1)] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        odd = rng.choice((*ODD_BYTES, rng.randrange(256)))
        data[min(_place(rng, data), len(data) - 1)] = odd


def _number(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice(ODD_NUMBERS) % (1 << 8 * size)
    start = _place(rng, data)
    data[start : start + size] = value.to_bytes(size, rng.choice(("big", "little")))


def _digits(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    found = list(re.finditer(rb"\d+", data))
    if found:
        at = rng.choice(found)
        near = int(at[0][:18]) + rng.choice((-1, 1))
        text = rng.choice((str(near), str(rng.choice(ODD_NUMBERS)), "9" * 5000))
        data[at.start() : at.end()] = text.encode()


def _cut(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[_span(rng, data)]


def _end(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[_place(rng, data) :]


def _insert(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    start = _place(rng, data)
    data[start:start] = rng.randbytes(rng.randint(1, 16))


def _repeat(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    span, start = data[_span(rng, data)], _place(rng, data)
    times = rng.choice((1, 1, 2, 100)) if len(data) < 1 << 20 else 1
    data[start:start] = span * times


def _splice(rng: random.Random, data: bytearray, samples: Sequence[bytes]) -> None:
    other = bytearray(rng.choice(samples))
    data[_span(rng, data)] = other[_span(rng, other)]


_CHANGES: Sequence[Callable[[random.Random, bytearray, Sequence[bytes]], None]] = (
    _flip, _set, _number, _digits, _cut, _end, _insert, _repeat, _splice,
)  # fmt: skip


# -- JSON -----------------------------------------------------------------------------------------


def changed_json(rng: random.Random, value: Any) -> Any:
    """Return a copy of a JSON value with a few changes somewhere in it."""
    whole = [copy.deepcopy(value)]
    for _ in range(few(rng)):
        parent, key = _walk(rng, whole)
        parent[key] = _changed_value(rng, parent[key], whole)
        if rng.random() < 0.1:
            parent, key = _walk(rng, whole)
            if parent is not whole:
                del parent[key]
    return whole[0]


def json_bytes(rng: random.Random, value: Any) -> bytes:
    """Return a changed JSON value as text, or its text with changes."""
    if rng.random() < 0.2:
        return changed_bytes(rng, [json.dumps(value).encode()])
    if rng.random() < 0.01:
        return rng.choice((b"[" * 100_000, b'{"a":' * 100_000))
    text = json.dumps(changed_json(rng, value))
    return re.sub("12345", "9" * 5000, text).encode() if rng.random() < 0.01 else text.encode()


def _walk(rng: random.Random, whole: Any) -> tuple[Any, Any]:
    parent, key = whole, 0
    while rng.random() < 0.85:
        child = parent[key]
        if isinstance(child, dict) and child:
            parent, key = child, rng.choice(list(child))
        elif isinstance(child, list) and child:
            parent, key = child, rng.randrange(len(child))
        else:
            break
    return parent, key


def _changed_value(rng: random.Random, value: Any, whole: Any) -> Any:
    if rng.random() < 0.3:
        parent, key = _walk(rng, whole)
        return copy.deepcopy(parent[key])
    if isinstance(value, int) and rng.random() < 0.6:
        return rng.choice((value + 1, value - 1, 2 * value, -value, value // 2))
    if isinstance(value, list) and value and rng.random() < 0.4:
        return rng.choice((value[:-1], value + copy.deepcopy(value[-1:]), value[::-1]))
    if isinstance(value, str) and rng.random() < 0.3:
        raw = value.encode("utf-8", "surrogatepass")
        return changed_bytes(rng, [raw]).decode("utf-8", "replace")
    return copy.deepcopy(rng.choice(ODD_VALUES))  # it may be changed again


# -- archives -------------------------------------------------------------------------------------


def changed_zip(
    rng: random.Random, content: bytes, change: Callable[[random.Random, str, bytes], bytes]
) -> bytes:
    """Return a zip archive with changed members, or sometimes with changes in its own bytes."""
    if rng.random() < 0.25:
        return changed_bytes(rng, [content])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    for _ in range(few(rng)):
        if not members:
            break
        at = rng.randrange(len(members)) if rng.random() < 0.7 else 0
        name, data = members[at]
        what = rng.random()
        if what < 0.85:
            members[at] = name, change(rng, name, data)
        elif what < 0.9:
            del members[at]
        elif what < 0.95:
            members.append((rng.choice(members)[0], data))
        else:
            members[at] = rng.choice(("", "../x", "a" * 300, name + "x")), data
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED,
                      zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))  # fmt: skip
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name
        with zipfile.ZipFile(out, "w", how) as archive:
            for name, data in members:
                archive.writestr(zipfile.ZipInfo(name), data, how)
    return out.getvalue()


def changed_array(rng: random.Random, _: str, data: bytes) -> bytes:
    """Return the bytes of a changed `.npy` file."""
    what = rng.random()
    if what < 0.3:
        return changed_bytes(rng, [data])
    if what < 0.6:
        out = io.BytesIO()
        shape = rng.choice(((), (0,), (1,), (3, 4), (1, 1 << 20)))
        np.save(out, np.zeros(shape, rng.choice(("u4", "u8", "f8", "i1", "M8[s]"))))
        return out.getvalue()
    order = rng.choice(("True", "False", "None"))
    kind, form = rng.choice(ODD_TYPES), rng.choice(ODD_SHAPES)
    quoted = kind if kind.startswith("[") else f"'{kind}'"
    head = f"{{'descr': {quoted}, 'fortran_order': {order}, 'shape': {form}, }}"
    return npy(head.encode(), data[128:], rng.choice((1, 2, 3)))


def npy(head: bytes, body: bytes, version: int) -> bytes:
    """Return a `.npy` file with any header."""
    size = len(head).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes((version, 0)) + size + head + body


def bomb(size: int) -> bytes:
    """Return an archive with one small member that is large when it is read."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("program.json", b"[" + b"[]," * (size // 3) + b"[]]")
    return out.getvalue()
