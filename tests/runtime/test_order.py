"""What must be durable is, before the first message that depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.services.state import Journal, _read_ranges, stored_opened
from tests.support.services import POOL, PROGRAM, client, running, settings_in


def test_blocks_and_seeds_are_marked_before_what_depends_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given services whose marks and messages between the parties are noted in their order
    settings = settings_in(tmp_path)
    events: list[tuple[str, str, int]] = []
    mark, exchange, send_json = Journal.mark, LinkChannel.exchange, LinkChannel.send_json

    def noted_mark(self: Journal, *blocks: int) -> None:
        mark(self, *blocks)
        ranges = _read_ranges(self._file)
        for block in blocks:
            assert any(first <= block <= last for first, last in ranges)
            events.append(("mark", self._file.parts[-4], block))

    def noted_exchange(
        self: LinkChannel, data: Sequence[memoryview], into: Sequence[memoryview]
    ) -> None:
        role = "party0" if self.peer == "party 1" else "party1"
        if not events:  # the weights are opened: which seed covers them is written down
            (folder,) = (settings.state / role / "deployments").iterdir()
            assert (folder / "setup").exists()
            assert stored_opened(folder, PROGRAM) is None
        events.append(("exchange", role, 0))
        exchange(self, data, into)

    def noted_offer(self: LinkChannel, fields: Any) -> None:
        if "block" in fields:
            block, before = fields["block"], list(events)  # at one moment
            marks = sum((what, number) == ("mark", block) for what, _, number in before)
            offers = sum((what, number) == ("offer", block) for what, _, number in before)
            assert marks > offers  # one party offers it before the other, each after its mark
            events.append(("offer", "", block))
        send_json(self, fields)

    monkeypatch.setattr(Journal, "mark", noted_mark)
    monkeypatch.setattr(LinkChannel, "exchange", noted_exchange)
    monkeypatch.setattr(LinkChannel, "send_json", noted_offer)
    with running(settings), client(settings) as session:
        session.infer(POOL.samples[0])
        result = session.infer(POOL.samples[0])
    # then in an inference each party marks the first block, runs the router's rounds, marks the
    # block of the branch that was revealed, and only then runs its rounds
    rounds = [
        len({i.attrs["round"] for i in body if i.op in ("open", "route")})
        for body in PROGRAM.functions["online"]
    ]
    assert result.route is not None
    branch = next(k for k, s in enumerate(PROGRAM.segments) if s.route == result.route)
    wanted = ["mark", *["exchange"] * rounds[0], "mark", *["exchange"] * rounds[branch]]
    for role in ("party0", "party1"):
        mine = [what for what, who, _ in events if who == role]
        assert mine[-len(wanted) :] == wanted
        marked = [block for what, who, block in events if (what, who) == ("mark", role)]
        assert len(marked) == len(set(marked)) == 4
