"""Traces of sessions: all roles' spans join in one, and hold no secret and no session's name."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from srcompile.runtime.errors import ConfigError, InputError, ProtocolError
from srcompile.runtime.services.client import Client
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.party import PartyService
from srcompile.runtime.services.settings import Settings, read_settings
from srcompile.runtime.services.trace import root_id, trace_id
from tests.support.services import POOL, PROGRAM, ROOT, client, config_file, running, settings_in

DEALER, CLIENT = "srcompile dealer", "srcompile client"
PARTIES = ("srcompile party0", "srcompile party1")


@dataclass(frozen=True)
class Found:
    """A span as OpenTelemetry's own reader has it: role, identifiers in hexadecimal, the rest."""

    role: str
    trace: str
    own: str
    parent: str
    span: Span

    def figure(self, name: str) -> Any:
        """Return an attribute."""
        values = {a.key: a.value for a in self.span.attributes}
        value = values[f"srcompile.{name}"]
        return getattr(value, str(value.WhichOneof("value")))


def lines_of(file: Path) -> list[str]:
    """Return the lines of a file that are written to their ends."""
    return file.read_text().rpartition("\n")[0].splitlines()


def read(file: Path) -> list[Found]:
    """Return the spans of a file, each line read with the parser of OTLP's own definition.

    It takes identifiers for base64, as all bytes in protobuf's JSON; in OTLP/JSON they are hex.
    """
    found = []
    for line in lines_of(file):
        data = json_format.Parse(line, TracesData())
        for resource in data.resource_spans:
            (role,) = (a.value.string_value for a in resource.resource.attributes
                       if a.key == "service.name")  # fmt: skip
            for scope in resource.scope_spans:
                for span in scope.spans:
                    ids = (span.trace_id, span.span_id, span.parent_span_id)
                    trace, own, parent = (base64.b64encode(i).decode() for i in ids)
                    found.append(Found(role, trace, own, parent, span))
    return found


def of(spans: list[Found], role: str, name: str) -> list[Found]:
    return [s for s in spans if s.role == role and s.span.name == name]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Path]]:
    """Run a cluster whose roles all write into one file."""
    folder = tmp_path_factory.mktemp("traced")
    file = folder / "traces.jsonl"
    settings = settings_in(folder, trace=str(file))
    with running(settings):
        yield settings, file


def test_the_spans_of_all_roles_join_and_say_what_was_sent(traced: tuple[Settings, Path]) -> None:
    # given a cluster with the setting `trace`
    settings, file = traced
    # when a session has two inferences
    with client(settings) as opened:
        session = opened.session
        results = [opened.infer(sample) for sample in POOL.samples[:2]]
    _wait_for_sessions(file, session)
    # then all spans are of one trace, below the client's
    spans = [s for s in read(file) if s.trace == trace_id(session)]
    (root,) = of(spans, CLIENT, "session")
    assert (root.own, root.parent) == (root_id(session), "")
    own = {s.own for s in spans}
    assert len(own) == len(spans)
    assert all(s.parent in own for s in spans if s is not root)
    assert {s.role for s in spans} == {DEALER, *PARTIES, CLIENT}
    # and each role says what it sent, of which program
    for role in (DEALER, *PARTIES, CLIENT):
        (whole,) = of(spans, role, "session")
        assert whole.figure("program") == PROGRAM.digest()
    for number, role in enumerate(PARTIES):
        inferences = of(spans, role, "inference")
        assert [s.figure("online_bytes") for s in inferences] == [
            r.online_bytes[number] for r in results
        ]
        assert [s.figure("rounds") for s in inferences] == [r.rounds for r in results]
        assert sum(s.figure("material_bytes") for s in inferences) == sum(
            r.offline_bytes[number] for r in results
        )
        material = of(spans, role, "offline material")
        assert sum(s.figure("bytes") for s in material) == sum(
            r.offline_bytes[number] for r in results
        )
    dealt = sum(s.figure("bytes") for s in of(spans, DEALER, "deal"))
    assert dealt == sum(sum(r.offline_bytes) for r in results)
    # and rounds are events within their inference
    for s in of(spans, PARTIES[0], "inference"):
        times = [e.time_unix_nano for e in s.span.events]
        assert len(times) == s.figure("rounds")
        assert times == sorted(times)
        assert s.span.start_time_unix_nano <= times[0]
        assert times[-1] <= s.span.end_time_unix_nano


def _wait_for_sessions(file: Path, session: str) -> None:
    """Wait until all roles have ended a session."""
    end = time.monotonic() + 20
    while len([s for s in read(file) if s.trace == trace_id(session) and s.span.name == "session"
               ]) < 4:  # fmt: skip
        assert time.monotonic() < end
        time.sleep(0.02)


def test_every_line_is_one_export_with_numbers_as_otlp_wants_them(
    traced: tuple[Settings, Path],
) -> None:
    settings, file = traced
    with client(settings) as opened:
        opened.infer(POOL.samples[0])
    _wait_for_sessions(file, opened.session)
    for line in lines_of(file):
        (resource,) = json.loads(line)["resourceSpans"]
        (scope,) = resource["scopeSpans"]
        (span,) = scope["spans"]
        assert len(span["traceId"]) == 32
        assert len(span["spanId"]) == 16
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
        values = [a["value"] for a in span["attributes"]]
        assert all(isinstance(v.get("intValue", ""), str) for v in values)


def test_a_trace_holds_neither_the_session_nor_any_value(traced: tuple[Settings, Path]) -> None:
    # given a session's trace
    settings, file = traced
    with client(settings) as opened:
        session = opened.session
        result = opened.infer(POOL.samples[0])
    _wait_for_sessions(file, session)
    # then its session cannot be named with it, and its values are not there
    text = file.read_text()
    assert session not in text
    for array in (*POOL.samples[0].values(), *result.outputs.values()):
        assert all(f"{float(v):.4f}"[:-1] not in text for v in array.reshape(-1) if abs(v) > 1e-3)
    names = {a.key for s in read(file) for a in s.span.attributes}
    known = ("program", "segment", "bytes", "rounds", "route", "online_bytes", "material_bytes")
    assert names <= {f"srcompile.{name}" for name in known}
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_session_that_fails_says_so_in_its_span(traced: tuple[Settings, Path]) -> None:
    # given a session, when it is interrupted
    settings, file = traced
    with client(settings) as opened:
        opened.infer(POOL.samples[0])
        opened.interrupt()
        with pytest.raises(ProtocolError):
            opened.infer(POOL.samples[0])
    _wait_for_sessions(file, opened.session)
    # then the spans of the session end with an error, without its text
    spans = [s for s in read(file) if s.trace == trace_id(opened.session)]
    for role in (CLIENT, *PARTIES):
        (whole,) = of(spans, role, "session")
        assert whole.span.status.code == 2
        assert whole.span.status.message.endswith("Error")


def test_an_input_that_does_not_fit_leaves_no_span(traced: tuple[Settings, Path]) -> None:
    settings, file = traced
    with client(settings) as opened, pytest.raises(InputError):
        opened.infer({})
    spans = [s for s in read(file) if s.trace == trace_id(opened.session)]
    assert of(spans, CLIENT, "inference") == []


def test_without_the_setting_nothing_is_written(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with running(settings), client(settings) as opened:
        opened.infer(POOL.samples[0])
    assert [p for p in tmp_path.rglob("*") if "trace" in p.name] == []


@pytest.mark.parametrize("role", ["client", "party"])
def test_a_file_that_cannot_be_written_is_named_at_once(tmp_path: Path, role: str) -> None:
    settings = replace(settings_in(tmp_path), trace=str(tmp_path / "none" / "traces"))
    make: Mapping[str, Callable[[], object]] = {
        "client": lambda: Client(PROGRAM, settings),
        "party": lambda: PartyService(0, settings, Log("party0", stream=io.StringIO())),
    }
    with pytest.raises(ConfigError, match=r"none/traces cannot be written: No such file"):
        make[role]()


def test_a_relative_file_is_beside_the_settings(tmp_path: Path) -> None:
    settings = replace(settings_in(tmp_path), trace="traces.jsonl")
    found = read_settings(config_file(settings, tmp_path), {}, {})
    assert found.trace == str(tmp_path / "traces.jsonl")


def test_the_guide_lists_the_spans_and_their_attributes(traced: tuple[Settings, Path]) -> None:
    # given the spans of a session
    settings, file = traced
    with client(settings) as opened:
        opened.infer(POOL.samples[0])
    _wait_for_sessions(file, opened.session)
    spans = [s for s in read(file) if s.trace == trace_id(opened.session)]
    # then each is a row of the guide's table, with its attributes
    found = {
        (s.role.removeprefix("srcompile ").rstrip("01"), s.span.name, a.key)
        for s in spans
        for a in s.span.attributes
    }
    guide = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    table = guide.partition("<!-- keys: spans -->\n\n")[2].partition("\n\n")[0]
    shown = {
        (role, name.strip("`"), f"srcompile.{word}")
        for role, name, _, what in (
            [cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]
        )
        for word in re.findall(r"`(\w+)`", what.partition(";")[0])
    }
    assert found == shown
