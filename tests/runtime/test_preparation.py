"""Chunks of `prepare`: everything in one of them, nothing in two, what is late on its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from srcompile.runtime.client import share_weights
from srcompile.runtime.kernels import load
from srcompile.runtime.local import LocalSession
from srcompile.runtime.material import material_bytes
from srcompile.runtime.preparation import DEAR, MATERIAL, STANDING, chunks
from srcompile.runtime.services.vault import DamagedError
from srcompile.runtime.spool import Spool
from srcompile.runtime.stock import LEAST_CHUNK_BYTES, Stock
from tests.support.builds import BUILDS, NETWORKS_BY_NAME, Build, compiled, seeded_sources

each_network = pytest.mark.parametrize("build", NETWORKS_BY_NAME.values(), ids=str)
each_limit = pytest.mark.parametrize("limit", [1, 500, 1 << 30])


@each_network
@each_limit
def test_every_value_the_online_function_reads_is_in_one_chunk(build: Build, limit: int) -> None:
    program = compiled(build).program
    read = frozenset(n for _, i in program.instructions("online") for n in i.inputs)
    for body in program.functions["prepare"]:
        # when a segment is cut
        parts = chunks(body, read, limit)
        # then each value read is in one chunk
        values = [name for chunk in parts for name in chunk.values]
        assert sorted(values) == sorted(i.out for i in body if i.out in read)
        # and material arrives in the order of the program, all of it
        arriving = [i.out for chunk in parts for i in chunk.arriving if i.op in MATERIAL]
        assert arriving == [i.out for i in body if i.op in MATERIAL]
        assert len(parts) <= 1 or limit < 1 << 30


@each_network
@each_limit
def test_what_is_late_needs_its_own_chunk_alone_and_is_not_dear(build: Build, limit: int) -> None:
    program = compiled(build).program
    read = frozenset(n for _, i in program.instructions("online") for n in i.inputs)
    for body in program.functions["prepare"]:
        seen: set[str] = set()  # early values, of this chunk and those before
        for chunk in chunks(body, read, limit):
            late = {i.out for i in chunk.late}
            for i in chunk.arriving:
                if i.out not in late or i.op in STANDING:
                    assert {n for n in i.inputs if n.startswith("%")} <= seen
                    seen.add(i.out)
            known = {name for name, _ in chunk.kept}
            assert known <= seen
            for i in chunk.late:
                assert i.op not in DEAR
                assert {n for n in i.inputs if n.startswith("%")} <= known
                known.add(i.out)
            assert set(chunk.values) <= known


@each_network
def test_outputs_do_not_depend_on_where_material_is_kept(
    build: Build, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # given parties that have no memory for material, so that all of it goes to disk
    program = compiled(build).program
    folders = [tmp_path_factory.mktemp("spool") for _ in (0, 1)]
    stocks = (Stock(0, Spool(folders[0])), Stock(0, Spool(folders[1])))
    shares = share_weights(program)
    spooled = LocalSession(program, load(), shares, seeded_sources(7), stocks=stocks)
    kept = LocalSession(program, load(), shares, seeded_sources(7))
    for sample in build.samples[:3]:
        # when both run with the same shares and masks, then they give the same, and count the same
        found, want = spooled.infer(sample), kept.infer(sample)
        assert found.route == want.route
        assert found.counters == want.counters
        for name, value in want.outputs.items():
            np.testing.assert_array_equal(found.outputs[name], value)
    # and what is left is material of branches that have not run
    used = len(program.segments) == 1
    assert not (used and any(list(folder.iterdir()) for folder in folders))
    assert stocks[0].used == stocks[1].used == 0
    assert stocks[0].chunk_bytes == LEAST_CHUNK_BYTES


@pytest.mark.parametrize("memory", [0, 9000, 1 << 16])
def test_a_block_that_is_damaged_in_the_middle_leaves_nothing(memory: int, tmp_path: Path) -> None:
    # given a party object whose material goes to memory, to disk, or to both
    program = compiled(BUILDS["deep"]).program
    stock = Stock(memory, Spool(tmp_path))
    stocks = (Stock(), stock)
    session = LocalSession(program, load(), sources=seeded_sources(7), stocks=stocks)
    total, got = material_bytes(program, 0)[1], 0
    most = 0

    def receive(size: int) -> bytes:
        nonlocal got, most
        got, most = got + size, max(most, stock.used + len(list(tmp_path.iterdir())))
        if got > 0.8 * total:
            raise DamagedError("the last frame is damaged")
        return bytes(size)

    # when most of a block is prepared, and the rest is damaged
    with pytest.raises(DamagedError):
        session.parties[1].prepare(1, 0, receive)
    # then nothing of it is left
    assert most > 0
    assert stock.used == 0
    assert list(tmp_path.iterdir()) == []
