"""Targets that read files: settings, profiles, certificates, shares, marks, spools, inputs, IR."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import secrets
import string
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.cli.common import read_inputs
from srcompile.errors import UserError
from srcompile.ir.parser import parse_module
from srcompile.ir.printer import print_module
from srcompile.ops import registry
from srcompile.ops.verifier import verify_text
from srcompile.runtime.certificates import describe, make_certificates, renew_certificates
from srcompile.runtime.channels.tls import contexts
from srcompile.runtime.client import share_weights, split_batch
from srcompile.runtime.errors import (
    ConfigError,
    InputError,
    ProfileError,
    ProgramError,
    ProtocolError,
    SpoolError,
)
from srcompile.runtime.profiles import BUILT_IN, read_profile
from srcompile.runtime.services.settings import READERS, Settings, read_settings
from srcompile.runtime.services.state import (
    Journal,
    Numbers,
    Store,
    claim_setup,
    store_opened,
    stored_opened,
    stored_seeds,
)
from srcompile.runtime.services.vault import Vault
from srcompile.runtime.shares import read_shares, write_shares
from srcompile.runtime.spool import Spool
from tests.fuzz.harness import Parser, Target
from tests.fuzz.mutations import (
    ODD_NUMBERS,
    changed_array,
    changed_bytes,
    changed_zip,
    json_bytes,
)
from tests.support.builds import BUILDS, compiled

ROOT = Path(__file__).parents[2]
POOL = compiled(BUILDS["pool"])


def of_file(
    name: str, draw: Callable[[random.Random], bytes], read: Callable[[Path], object]
) -> Callable[[Path, ExitStack], Parser]:
    """Return what opens a target that reads one file, of this name, in its folder."""

    def open_(folder: Path, stack: ExitStack) -> Parser:
        file = folder / name

        def parse(rng: random.Random) -> None:
            file.write_bytes(draw(rng))
            read(file)

        return parse

    return open_


# -- settings -------------------------------------------------------------------------------------

CLUSTER = (ROOT / "docs" / "deployment" / "cluster.toml").read_bytes()
ODD_TOML = ("[[a]]", "a.b.c = 1", "{a = 1}", "[" * 3000, "1979-05-27T07:32:00Z", "0x" + "f" * 90,
            "9" * 5000, "inf", "nan", '"""', "[1, [2, [3]]]", "-0", "1_000", "true")  # fmt: skip


def _settings(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return changed_bytes(rng, [CLUSTER])
    name = rng.choice((*READERS, "x"))
    value = rng.choice((*ODD_TOML, *map(str, ODD_NUMBERS), '"' + _text(rng) + '"'))
    return f"{name} = {value}\n".encode("utf-8", "replace")


def _text(rng: random.Random) -> str:
    letters = string.printable + "ü٣²\0"
    word = "".join(rng.choices(letters, k=rng.randint(0, 12)))
    odd = (*map(str, ODD_NUMBERS), "9" * 5000, "[::1]:77", ":1", "a:²", "1e999", "nan", "\0", word)
    return rng.choice(odd)


def _open_environment(folder: Path, stack: ExitStack) -> Parser:
    def parse(rng: random.Random) -> None:
        values = {name: _text(rng) for name in rng.choices(list(READERS), k=2)}
        given = {f"SRCOMPILE_{name.upper()}": value for name, value in values.items()}
        found = read_settings(None, values if rng.random() < 0.5 else {}, given)
        assert isinstance(found, Settings)

    return parse


# -- profiles -------------------------------------------------------------------------------------

PROFILE = json.loads(BUILT_IN.read_bytes())


def _profile(rng: random.Random) -> bytes:
    return json_bytes(rng, PROFILE)


# -- certificates ---------------------------------------------------------------------------------


def _open_certificates(folder: Path, stack: ExitStack) -> Parser:
    make_certificates(folder / "made", {})
    samples = {f.name: f.read_bytes() for f in (folder / "made").iterdir()}
    used = folder / "used"
    used.mkdir(mode=0o700)

    def parse(rng: random.Random) -> None:
        for name, content in samples.items():
            (used / name).write_bytes(content)
            (used / name).chmod(0o600)
        changed = rng.choice(("ca.pem", "ca.key", "party0.pem", "party0.key"))
        others = [samples[changed], *(samples.values() if rng.random() < 0.2 else ())]
        (used / changed).write_bytes(changed_bytes(rng, others))
        if changed.endswith(".pem"):
            with contextlib.suppress(ConfigError):
                describe(used / changed)
        if changed.startswith("ca."):
            with contextlib.suppress(ConfigError):
                renew_certificates(used, {})
        contexts(used, "party0")

    return parse


# -- shares of weights, opened weights ------------------------------------------------------------


@functools.cache
def _shares(folder: Path) -> bytes:
    file = folder / "sample.npz"
    write_shares(file, POOL.program, 0, share_weights(POOL.program)[0])
    return file.read_bytes()


def _open_shares(folder: Path, stack: ExitStack) -> Parser:
    content = _shares(folder)

    def parse(rng: random.Random) -> None:
        file = folder / "shares.npz"
        file.write_bytes(changed_zip(rng, content, changed_array))
        read_shares(file, POOL.program, 0)

    return parse


def _open_opened(folder: Path, stack: ExitStack) -> Parser:
    names = POOL.program.opened_weights()
    data = {name: POOL.program.constants[name].data for name in names}
    store_opened(folder, {n: np.asarray(d) for n, d in data.items() if d is not None})
    file = folder / "opened.npz"
    content = file.read_bytes()

    def parse(rng: random.Random) -> None:
        file.write_bytes(changed_zip(rng, content, changed_array))
        stored_opened(folder, POOL.program)

    return parse


# -- marks and other state ------------------------------------------------------------------------


def _journal(folder: Path) -> tuple[bytes, ...]:
    file = folder / "sample"
    journal = Journal(file)
    samples = []
    for block in (0, 1, 2, 7, 8, 1 << 40, (1 << 64) - 2):
        journal.mark(block)
        samples.append(file.read_bytes())
    return tuple(samples)


def _open_journal(folder: Path, stack: ExitStack) -> Parser:
    samples, file = _journal(folder), folder / "used"

    def parse(rng: random.Random) -> None:
        file.write_bytes(changed_bytes(rng, samples))
        journal = Journal(file)
        block = rng.choice((0, 3, 9, 1 << 41))
        if block not in journal:
            journal.mark(block)
        assert block in Journal(file)

    return parse


def _open_numbers(folder: Path, stack: ExitStack) -> Parser:
    file = folder / "numbers"
    Numbers(file).take()
    content = file.read_bytes()

    def parse(rng: random.Random) -> None:
        file.write_bytes(changed_bytes(rng, [content]))
        numbers = Numbers(file)
        assert numbers.take() < numbers.take()

    return parse


def _open_state(folder: Path, stack: ExitStack) -> Parser:
    """Open a role's folder with a deployment whose small files are changed."""
    deployment, digest = secrets.token_hex(16), POOL.program.digest()

    def parse(rng: random.Random) -> None:
        store = Store(folder / "state", 4)
        try:
            if store.current(digest) is None:
                with contextlib.suppress(ProtocolError), store.adding(deployment, POOL.program):
                    pass
                store.activate(deployment, digest)
            place = store.path(deployment)
            (place / "seeds").write_bytes(changed_bytes(rng, [bytes(32)]))
            (place / "setup").write_bytes(changed_bytes(rng, [b"0" * 64]))
            name = changed_bytes(rng, [deployment.encode()])
            (folder / "state" / "current" / digest).write_bytes(name)
            store.deployed()
            store.current(digest)
            with contextlib.suppress(ProtocolError):
                claim_setup(place, "0" * 64)
            stored_seeds(place)
        finally:
            store.close()

    return parse


def _open_spool(folder: Path, stack: ExitStack) -> Parser:
    spool = Spool(folder / "spool")

    def parse(rng: random.Random) -> None:
        parts = [np.frombuffer(rng.randbytes(rng.choice((0, 1, 63, 5000))), np.uint8)
                 for _ in range(rng.randint(1, 4))]  # fmt: skip
        record = spool.write(parts)
        file = folder / "spool" / f"record-{record.number}"
        if file.exists():
            written = file.read_bytes()
            changed = changed_bytes(rng, [written])
            file.write_bytes(changed)
            got = spool.take(record)
            assert changed == written
            assert all(np.array_equal(a, b) for a, b in zip(parts, got, strict=True))

    return parse


def _open_sealed(folder: Path, stack: ExitStack) -> Parser:
    vault, file = Vault(folder / "key"), folder / "sealed"

    def parse(rng: random.Random) -> None:
        content = rng.randbytes(rng.choice((0, 1, 5000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1)))
        with vault.writing(file, "a block", len(content)) as put:
            put(content)
        written = file.read_bytes()
        changed = changed_bytes(rng, [written])
        file.write_bytes(changed)
        with vault.reading(file, "a block", len(content)) as get:
            got = bytes(get(len(content)))
        assert got == content
        assert changed == written or not content

    return parse


# -- inputs, IR -----------------------------------------------------------------------------------


def _open_inputs(folder: Path, stack: ExitStack) -> Parser:
    file = folder / "input.npz"
    sample: dict[str, Any] = dict(BUILDS["pool"].samples[0])
    np.savez(file, **sample)
    content = file.read_bytes()

    def parse(rng: random.Random) -> None:
        file.write_bytes(changed_zip(rng, content, changed_array))
        split_batch(POOL.program, read_inputs(str(file), POOL.program))

    return parse


@functools.cache
def _texts() -> tuple[bytes, ...]:
    stages = [compiled(BUILDS[name]) for name in ("mlp", "pool", "convolution")]
    modules = [m for s in stages for m in (s.graph, s.fixed, s.lowered)]
    return tuple(print_module(m).encode() for m in modules)


def _open_ir(folder: Path, stack: ExitStack) -> Parser:
    known: Any = registry()

    def parse(rng: random.Random) -> None:
        text = changed_bytes(rng, _texts()).decode("utf-8", "replace")
        module = parse_module(text)
        if module.level in ("graph", "fixed"):
            verify_text(module, text, known)

    return parse


TARGETS = (
    Target("settings", (ConfigError,), of_file("cluster.toml", _settings, read_settings)),
    Target("environment", (ConfigError,), _open_environment),
    Target("profile", (ProfileError,), of_file("profile.json", _profile, read_profile)),
    Target("certificates", (ConfigError,), _open_certificates),
    Target("shares", (ProgramError,), _open_shares),
    Target("opened", (), _open_opened),
    Target("journal", (ConfigError,), _open_journal),
    Target("numbers", (ConfigError,), _open_numbers),
    Target("state", (ConfigError,), _open_state),
    Target("spool", (SpoolError,), _open_spool),
    Target("sealed", (SpoolError,), _open_sealed),
    Target("inputs", (InputError,), _open_inputs),
    Target("ir", (UserError,), _open_ir),
)
