"""The leakage report in words agrees with what the pass proves, and names every role."""

from __future__ import annotations

import pytest

from srcompile import Pool
from srcompile.api import compile
from srcompile.report.learned import ROLES, Learned, learned
from tests.report.models import POINTS, compiled, mlp


def _of(name: str, who: str) -> list[Learned]:
    return [x for x in learned(compiled(name).program) if x.who == who]


@pytest.mark.parametrize("name", ["encoder", "mlp", "pool"])
def test_every_role_is_told_of(name: str) -> None:
    assert list(dict.fromkeys(x.who for x in learned(compiled(name).program))) == list(ROLES)
    assert _of(name, "party 0") == [
        Learned("party 0", x.what, x.source, x.why, x.secret) for x in _of(name, "party 1")
    ]


@pytest.mark.parametrize("name", ["encoder", "mlp", "pool"])
def test_the_words_agree_with_the_disclosures_that_are_proved(name: str) -> None:
    program, disclosed = compiled(name).program, compiled(name).leakage
    opened = next(d for d in disclosed if "masked tensors" in d.what).what.split()[0]
    assert any(f"nothing of {opened} tensors" in x.what for x in _of(name, "party 0"))
    routed = any(d.what.startswith("the route") for d in disclosed)
    for who in ("party 0", "client", "network observer"):
        assert any("route" in x.what and not x.secret for x in _of(name, who)) == routed
    assert any("how often" in x.what for x in _of(name, "dealer")) == routed
    tables = [d for d in disclosed if d.what.startswith("the table")]
    assert len([x for x in _of(name, "client") if x.what.startswith("the table")]) == len(tables)
    for tensor in program.outputs:
        assert any(f"'{tensor.name}'" in x.what for x in _of(name, "client"))


def test_an_oblivious_route_is_learned_by_nobody() -> None:
    pool = Pool({"a": mlp(2), "b": mlp(3)}, mlp(2), route="oblivious")
    program = compile(pool, POINTS[0], calibration_inputs=POINTS).program
    assert not any("route" in x.what for x in learned(program))


def test_secret_embeddings_keep_their_tables() -> None:
    program = compiled("encoder").again(embedding="secret").program
    whats = [x.what for x in learned(program) if x.who == "client"]
    assert not any("the table that" in what for what in whats)
    assert any("how many rows" in what for what in whats)


def test_the_plain_target_hides_nothing() -> None:
    (only,) = learned(compiled("mlp").again(target="plain").program)
    assert only.what.startswith("everything")
